"""Boxes on pictures: one picture through a detector, and what is told and written of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from prune.atomic import replacing, write_text
from prune.data.pictures import Image
from prune.errors import InputError
from prune.score import plots, sources
from prune.score.feed import letterboxed
from prune.score.frames import to_original
from prune.score.metrics import Boxes
from prune.score.nms import detections
from prune.score.runtime import Runner


@dataclass(frozen=True)
class Search:
    """What to look for: size in pixels, thresholds, and the classes wanted (None: all)."""

    imgsz: int
    confidence: float = 0.25
    iou: float = 0.45
    classes: Collection[int] | None = None


@dataclass(frozen=True)
class Output:
    """What to write into `folder`: drawn pictures, label files, confidences in these."""

    folder: Path
    pictures: bool = True
    text: bool = False
    confidences: bool = False


@dataclass(frozen=True)
class Found:
    """The boxes of one picture or one frame of a video.

    Attributes:
        path: the file.
        frame: its number in the video, from 0; None for a picture.
        boxes: [n, 6] x1, y1, x2, y2 in pixels, confidence, class; the surest first.
    """

    path: Path
    frame: int | None
    boxes: Boxes


def predict(runner: Runner, image: Image, search: Search) -> Boxes:
    """Detect on one picture, uint8 [h, w, 3] BGR -> float32 [n, 6] in its own pixels."""
    batch, frame = letterboxed(image, runner, search.imgsz)
    (found,) = detections(
        runner.detect(batch),
        confidence=search.confidence,
        iou=search.iou,
        multi_label=False,
    )
    boxes = to_original(found, frame).cpu().numpy()
    if search.classes is not None:
        boxes = boxes[np.isin(boxes[:, 5], list(search.classes))]
    return np.asarray(boxes)


def detect_file(
    runner: Runner, path: Path, search: Search, *, stem: str, output: Output
) -> Iterator[Found]:
    """Detect on a picture or on every frame of a video, writing as it goes.

    A picture is written under `stem` with its own suffix, a video as .mp4; label files lie in
    labels/, a video's one a frame.

    Raises:
        DataError: the file cannot be read; nothing is written for it.
        InputError: the output cannot be written.
    """
    if not sources.is_video(path):
        (image,) = sources.frames(path)
        found = Found(path, None, predict(runner, image, search))
        _write(found, image, runner.names, stem=stem, output=output)
        yield found
        return
    pictures = sources.frames(path)
    first = next(pictures)  # raises before a file is made
    with _film(path, first, stem=stem, output=output) as film:
        for number, image in enumerate(chain((first,), pictures)):
            found = Found(path, number, predict(runner, image, search))
            _write_text(found, image, stem=f"{stem}_{number:06d}", output=output)
            if film is not None:
                film.write(plots.draw(image, found.boxes, runner.names))
            yield found


def describe(found: Found, names: Sequence[str]) -> dict[str, object]:
    """Return what --json prints of a picture: {image, boxes: [{xyxy, class, name, confidence}]}."""
    boxes = [
        {
            "xyxy": [round(value, 2) for value in xyxy],
            "class": int(label),
            "name": names[int(label)],
            "confidence": round(confidence, 5),
        }
        for *xyxy, confidence, label in found.boxes.tolist()
    ]
    frame = {} if found.frame is None else {"frame": found.frame}
    return {"image": str(found.path), **frame, "boxes": boxes}


def summary(found: Found, names: Sequence[str]) -> str:
    """Count the boxes of each class: "3 RBC, 1 WBC"."""
    counts = Counter(found.boxes[:, 5].astype(int).tolist())
    return ", ".join(f"{counts[label]} {names[label]}" for label in sorted(counts)) or "nothing"


def label_text(boxes: Boxes, image: Image, *, confidences: bool) -> str:
    """Write boxes [n, 6] as a YOLO label file: class, cx, cy, w, h as shares of the picture."""
    height, width = image.shape[:2]
    lines = []
    for x1, y1, x2, y2, confidence, label in boxes.tolist():
        centre = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        values = (*centre, (x2 - x1) / width, (y2 - y1) / height)
        shown = (*values, confidence) if confidences else values
        lines.append(" ".join((str(int(label)), *(f"{value:.6f}" for value in shown))) + "\n")
    return "".join(lines)


def _write(found: Found, image: Image, names: Sequence[str], *, stem: str, output: Output) -> None:
    if output.pictures:
        target = output.folder / f"{stem}{found.path.suffix}"
        coded, data = cv2.imencode(found.path.suffix, plots.draw(image, found.boxes, names))
        if not coded:
            raise InputError(f"cannot write {target}: OpenCV has no encoder for it")
        with replacing(target) as part:
            part.write_bytes(data.tobytes())
    _write_text(found, image, stem=stem, output=output)


def _write_text(found: Found, image: Image, *, stem: str, output: Output) -> None:
    if output.text:
        text = label_text(found.boxes, image, confidences=output.confidences)
        write_text(output.folder / "labels" / f"{stem}.txt", text)


@contextmanager
def _film(
    path: Path, first: Image, *, stem: str, output: Output
) -> Iterator[cv2.VideoWriter | None]:
    """Open the video to write, .mp4 of the first frame's size; None where none is asked for."""
    if not output.pictures:
        yield None
        return
    target = output.folder / f"{stem}.mp4"
    size = (first.shape[1], first.shape[0])
    with replacing(target) as part:
        codec = cv2.VideoWriter.fourcc(*"mp4v")
        film = cv2.VideoWriter(str(part), codec, sources.frames_a_second(path), size)
        if not film.isOpened():
            raise InputError(f"cannot write {target}: this OpenCV has no mp4 encoder")
        try:
            yield film
        finally:
            film.release()
