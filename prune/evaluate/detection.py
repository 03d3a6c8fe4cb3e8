"""Detect on images, folders, videos, cameras and streams, and write what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prune.checkpoint.reading import Names, reading_of
from prune.common import run_dir
from prune.common.notes import Report, silent
from prune.common.size import Size
from prune.errors import DataError, InputError
from prune.evaluate import sources
from prune.evaluate.predict import Found, Output, Search, detect_source, expect_other_files
from prune.evaluate.runner import open_runner


@dataclass(frozen=True)
class DetectConfig:
    """What is looked at, for what, and what is written; the options of `prune detect`.

    Attributes:
        source: an image, a video, a folder, a glob, a .txt list of these, a camera's number, or the
            URL of an image or stream.
        weights: a checkpoint, public weights, or an ONNX file with decoded boxes.
        cfg, names, decoding: how public weights are read, see `reading_of`.
        img_size: height and width in pixels that images are scaled to fit into, multiples of the
            stride; None: the checkpoint's.
        conf_thres: lowest confidence of a box, 0 to 1.
        iou_thres: overlap above which NMS removes a box, 0 to 1.
        classes: only these, numbers or names; None: all.
        max_det: maximum number of boxes per image, from 1.
        strict: stop at a source that cannot be read.
        device: "cpu" or a GPU's number; "": a GPU if there is one.
        save_txt, save_conf: write YOLO label files, with confidences.
        nosave: write no images and no videos.
        project, name: the folder of runs, and the run's own in it.
        exist_ok: write into an existing folder instead of name2, name3, ...
    """

    source: str
    weights: Path = Path("whole_model.pt")
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    img_size: Size | None = None
    conf_thres: float = 0.25
    iou_thres: float = 0.45
    classes: tuple[str, ...] | None = None
    max_det: int = 300
    strict: bool = False
    device: str = ""
    save_txt: bool = False
    save_conf: bool = False
    nosave: bool = False
    project: Path = Path("runs/detect")
    name: str = "exp"
    exist_ok: bool = False

    def output(self, folder: Path) -> Output:
        """Return what is to be written into a folder."""
        text = self.save_txt or self.save_conf
        return Output(folder, images=not self.nosave, text=text, confidences=self.save_conf)


@dataclass(frozen=True)
class DetectResult:
    """What was found in all.

    Attributes:
        detections: the boxes of each image and frame; () where they were passed on one by one.
        images, frames: how many were looked at.
        boxes: in all of them.
        highest_confidence: of any box, those below the threshold included.
        most_boxes: in one image.
        sources, failed: how many there were, and could not be read.
        folder: where was written; None if nothing was.
        stopped: whether `stopped` ended it.
    """

    detections: tuple[Found, ...]
    images: int
    frames: int
    boxes: int
    highest_confidence: float
    most_boxes: int
    sources: int
    failed: int
    folder: Path | None
    stopped: bool

    def document(self) -> list[dict[str, object]]:
        """Return the boxes of each image as plain values, as `prune detect --json` prints them."""
        return [found.document() for found in self.detections]


def detect(
    config: DetectConfig,
    *,
    report: Report = silent,
    each: Callable[[Found], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> DetectResult:
    """Detect on every source; what cannot be read is reported and counted, and the rest goes on.

    Args:
        config: what is looked at, for what, and what is written.
        report: receives a line per source that cannot be read.
        each: receives the boxes of each image as soon as they are found, which are not collected
            then: a stream has no end.
        stopped: is called after every image and frame; says whether to end.

    Raises:
        DataError: no source is found.
        InputError: a class or a size that cannot be, or an output that cannot be written.
        CheckpointError: the weights cannot be used.
    """
    found = sources.find(config.source)
    stems = sources.stems([source.file for source in found])
    # Only an old folder holds files already, and may be that of the sources.
    expect_other_files(found, stems, config.output(config.project / config.name))
    reading = reading_of(config.cfg, config.names, config.decoding)
    runner = open_runner(config.weights, reading, device_name=config.device)
    search = Search(
        imgsz=runner.image_size(config.img_size),
        confidence=config.conf_thres,
        iou=config.iou_thres,
        classes=None if config.classes is None else _classes(config.classes, runner.names),
        most=config.max_det,
    )
    collected: list[Found] = []
    images = frames = boxes = most_boxes = failed = 0
    highest = 0.0
    with _run_folder(config, report) as folder:
        output = config.output(folder)
        for source, stem in zip(found, stems, strict=True):
            try:
                for one in detect_source(
                    runner, source, search, stem=stem, output=output, stopped=stopped
                ):
                    images += one.frame is None
                    frames += one.frame is not None
                    boxes += len(one.boxes)
                    most_boxes = max(most_boxes, len(one.boxes))
                    highest = max(highest, one.highest_confidence)
                    (each or collected.append)(one)
            except DataError as error:
                failed += 1
                report(f"prune: {' '.join(str(error).split())}")
            if stopped() or (config.strict and failed):
                break
    return DetectResult(
        detections=tuple(collected),
        images=images,
        frames=frames,
        boxes=boxes,
        highest_confidence=highest,
        most_boxes=most_boxes,
        sources=len(found),
        failed=failed,
        folder=folder if folder.is_dir() and _writes(config) else None,
        stopped=stopped(),
    )


def _classes(requested: Sequence[str], names: tuple[str, ...]) -> frozenset[int]:
    """Turn class numbers and names, also with commas between them, into numbers."""
    known = {**{str(i): i for i in range(len(names))}, **{name: i for i, name in enumerate(names)}}
    words = [word.strip() for entry in requested for word in entry.split(",") if word.strip()]
    if not words:
        raise InputError(f"--classes {' '.join(requested)!r} names no class; leave it out for all")
    for word in words:
        if word not in known:
            raise InputError(
                f"class {word!r} is unknown; the weights have 0 to {len(names) - 1}: "
                + ", ".join(names)
            )
    return frozenset(known[word] for word in words)


def _writes(config: DetectConfig) -> bool:
    return not config.nosave or config.save_txt or config.save_conf


@contextmanager
def _run_folder(config: DetectConfig, report: Report) -> Iterator[Path]:
    """Make the run's folder if anything may go into it, and record the run if anything did."""
    if not _writes(config):
        yield config.project / config.name
        return
    with run_dir.run_folder(config.project, config.name, exist_ok=config.exist_ok) as folder:
        try:
            yield folder
        finally:
            if any(not path.name.startswith(".") for path in folder.iterdir()):  # but its lock
                run_dir.record(folder, vars(config))
                report(f"written to {folder}")
