"""Boxes on images: one image through a detector, and what is printed and written of it."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from prune.common.files import replacing, write_text
from prune.common.size import Size
from prune.common.visible import visible
from prune.data.images import Image, is_image
from prune.data.labels import label_path
from prune.errors import InputError, WriteError
from prune.evaluate import plots
from prune.evaluate.letterbox import to_original
from prune.evaluate.metrics import Boxes
from prune.evaluate.nms import MAX_DETECTIONS, detections
from prune.evaluate.preprocess import letterboxed
from prune.evaluate.runner import Runner
from prune.evaluate.sources import Reel, Source, opened


@dataclass(frozen=True)
class Search:
    """What to look for: the images' size, thresholds, the classes (None: all), boxes per image."""

    imgsz: Size
    confidence: float = 0.25
    iou: float = 0.45
    classes: Collection[int] | None = None
    most: int = MAX_DETECTIONS


@dataclass(frozen=True)
class Output:
    """What to write into `folder`: drawn images, label files, confidences in these."""

    folder: Path
    images: bool = True
    text: bool = False
    confidences: bool = False


@dataclass(frozen=True)
class Found:
    """The boxes of one image or one frame of a video.

    Attributes:
        name: the file, URL or camera.
        frame: its number in the video or stream, from 0; None for an image.
        boxes: [n, 6] x1, y1, x2, y2 in pixels, confidence, class; the most confident first.
        highest_confidence: the highest confidence of any box, those below the threshold included.
        names: the classes.
    """

    name: str
    frame: int | None
    boxes: Boxes
    highest_confidence: float
    names: Sequence[str]

    def document(self) -> dict[str, object]:
        """Return plain values: {image, boxes: [{xyxy, class, name, confidence}]}."""
        boxes = [
            {
                "xyxy": [round(value, 2) for value in xyxy],
                "class": int(label),
                "name": self.names[int(label)],
                "confidence": round(confidence, 5),
            }
            for *xyxy, confidence, label in self.boxes.tolist()
        ]
        frame = {} if self.frame is None else {"frame": self.frame}
        return {"image": self.name, **frame, "boxes": boxes}

    def summary(self) -> str:
        """Count the boxes of each class: "3 RBC, 1 WBC"."""
        counts = Counter(self.boxes[:, 5].astype(int).tolist())
        each = (f"{counts[label]} {visible(self.names[label])}" for label in sorted(counts))
        return ", ".join(each) or "nothing"


def predict(runner: Runner, image: Image, search: Search) -> tuple[Boxes, float]:
    """Detect on one image, uint8 [h, w, 3] BGR.

    Returns:
        Boxes, float32 [n, 6], in pixels of the image; and the highest confidence of any box.
    """
    batch, frame = letterboxed(image, runner, search.imgsz)
    decoded = runner.detect(batch)
    (found,) = detections(
        decoded,
        confidence=search.confidence,
        iou=search.iou,
        max_detections=search.most,
        multi_label=False,
    )
    boxes = to_original(found, frame).cpu().numpy()
    if search.classes is not None:
        boxes = boxes[np.isin(boxes[:, 5], list(search.classes))]
    return np.asarray(boxes), _highest_confidence(decoded[0], search.classes)


def _highest_confidence(decoded: Tensor, classes: Collection[int] | None) -> float:
    """Return the highest confidence of an image's boxes, [boxes, 5 + classes]; 0 without any."""
    scores, labels = (decoded[:, 5:] * decoded[:, 4:5]).nan_to_num(0).max(dim=1)
    if classes is not None:
        scores = scores[torch.isin(labels, torch.tensor(sorted(classes), device=labels.device))]
    return float(scores.max()) if len(scores) else 0.0


def detect_source(  # what a caller chooses, most by keyword
    runner: Runner,
    source: Source,
    search: Search,
    *,
    stem: str,
    output: Output,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Found]:
    """Detect on an image, or on every frame of a video or stream, writing as it goes.

    An image is written under `stem` with its own suffix, a video as .mp4; label files lie in
    labels/, one per frame of a video. `stopped` is called after every frame.

    Raises:
        DataError: the source cannot be read; nothing is written for it.
        InputError: the output cannot be written.
    """
    reel = opened(source)
    if reel.rate is None:
        (image,) = reel.images
        found = Found(source.name, None, *predict(runner, image, search), runner.names)
        _write(found, image, target=_target(source, stem, output), output=output)
        yield found
        return
    first = next(reel.images)
    with _film(reel, first, stem=stem, output=output) as film:
        for number, image in enumerate(chain((first,), reel.images)):
            found = Found(source.name, number, *predict(runner, image, search), runner.names)
            _write_text(found, image, stem=f"{stem}_{number:06d}", output=output)
            if film is not None:
                film.write(plots.draw(image, found.boxes, runner.names))
            yield found
            if stopped():
                return


def expect_other_files(found: Sequence[Source], stems: Sequence[str], output: Output) -> None:
    """Check that nothing that will be written is one of the sources, or their labels.

    Raises:
        InputError: a drawn image or a label file would take the place of the user's own.
    """
    local = [source.file for source in found if source.kind in ("image", "video")]
    labels = [label_path(path) for path in local] if output.text else []
    own = set(filter(None, map(_identity, (*local, *labels))))
    for source, stem in zip(found, stems, strict=True):
        for target in _targets(source, stem, output):
            if _identity(target) in own:
                raise InputError(
                    f"{target} is a file of --source, or its labels; choose another --project or "
                    "--name"
                )


def _targets(source: Source, stem: str, output: Output) -> Iterator[Path]:
    if output.images:
        yield _target(source, stem, output)
        yield _film_target(stem, output)
    if output.text:
        yield _text_target(stem, output)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what is the same for all names of a file; None where there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _film_target(stem: str, output: Output) -> Path:
    return output.folder / f"{stem}.mp4"


def _text_target(stem: str, output: Output) -> Path:
    return output.folder / "labels" / f"{stem}.txt"


def _target(source: Source, stem: str, output: Output) -> Path:
    suffix = source.file.suffix if is_image(source.file) else ".jpg"  # a URL may have none
    return output.folder / f"{stem}{suffix}"


def label_text(boxes: Boxes, image: Image, *, confidences: bool) -> str:
    """Write boxes [n, 6] as a YOLO label file: class, cx, cy, w, h as fractions of the image."""
    height, width = image.shape[:2]
    lines = []
    for x1, y1, x2, y2, confidence, label in boxes.tolist():
        centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        values = (*centre, (x2 - x1) / width, (y2 - y1) / height)
        shown = (*values, confidence) if confidences else values
        lines.append(" ".join((str(int(label)), *(f"{value:.6f}" for value in shown))) + "\n")
    return "".join(lines)


def _write(found: Found, image: Image, *, target: Path, output: Output) -> None:
    if output.images:
        coded, data = cv2.imencode(target.suffix, plots.draw(image, found.boxes, found.names))
        if not coded:
            raise InputError(f"cannot write {target}: OpenCV has no encoder for it")
        with replacing(target) as part:
            part.write_bytes(data.tobytes())
    _write_text(found, image, stem=target.stem, output=output)


def _write_text(found: Found, image: Image, *, stem: str, output: Output) -> None:
    if output.text:
        text = label_text(found.boxes, image, confidences=output.confidences)
        write_text(_text_target(stem, output), text)


@contextmanager
def _film(
    reel: Reel, first: Image, *, stem: str, output: Output
) -> Iterator[cv2.VideoWriter | None]:
    """Open the video to write, .mp4 of the first frame's size; None where none is requested."""
    if not output.images:
        yield None
        return
    target = _film_target(stem, output)
    size = (first.shape[1], first.shape[0])
    with replacing(target) as part:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        film = cv2.VideoWriter(str(part), codec, reel.rate or 30.0, size)
        if not film.isOpened():
            raise InputError(f"cannot write {target}: this OpenCV has no mp4 encoder")
        try:
            yield film
        finally:
            film.release()
        if not _has_index(part):
            raise WriteError(f"cannot write {target}: the video is not whole; is the disk full?")


def _has_index(film: Path) -> bool:
    """Return whether an .mp4 ends with its index: OpenCV does not report a full disk.

    It is a row of boxes, each begun by its length, 4 bytes, and its kind; "moov" is the index.
    """
    size, place = film.stat().st_size, 0
    with film.open("rb") as handle:
        while place + 8 <= size:
            handle.seek(place)
            length, kind = struct.unpack(">I4s", handle.read(8))
            if length == 1:  # the length follows, in 8 bytes
                (length,) = struct.unpack(">Q", handle.read(8).ljust(8, b"\0"))
            if kind == b"moov":
                return bool(place + length <= size)
            place += max(length, 8)
    return False
