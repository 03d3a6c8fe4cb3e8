"""Evaluate a checkpoint or an exported file on a split of a data set: precision, recall, mAP."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from prune.checkpoint.reading import Names, reading_of
from prune.common import run_dir
from prune.common.notes import Report, silent
from prune.common.progress import tracked
from prune.common.size import Size
from prune.data import spec as specs
from prune.data.sift import sift
from prune.data.spec import DataSpec
from prune.evaluate import plots
from prune.evaluate.collect import Collected, collect
from prune.evaluate.metrics import ClassMetrics
from prune.evaluate.preprocess import split_batches
from prune.evaluate.runner import Runner, open_runner


@dataclass(frozen=True)
class EvaluateConfig:
    """What is evaluated, and how; the options of `prune val`.

    Attributes:
        data: a data.yaml, a Darknet .data file, or a folder.
        weights: a checkpoint, public weights, or an ONNX file with decoded boxes.
        cfg, names, decoding: how public weights are read, see `reading_of`.
        strict: refuse broken images instead of leaving them out.
        single_cls: take all boxes to be of one class.
        split: of the data: val, test or train.
        img_size: height and width in pixels that images are scaled to fit into, multiples of the
            stride; None: the checkpoint's.
        batch_size: images per batch, from 1.
        conf_thres: lowest confidence of a box that counts, 0 to 1; low, since mAP is the area
            under the whole curve.
        iou_thres: overlap above which NMS removes a box, 0 to 1.
        device: "cpu" or a GPU's number; "": a GPU if there is one.
        workers: loader processes; 0: none.
        plots: write curves and the confusion matrix into project/name.
        project, name: the folder of runs, and the run's own in it.
        exist_ok: write into an existing folder instead of name2, name3, ...
    """

    data: Path
    weights: Path = Path("whole_model.pt")
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    strict: bool = False
    single_cls: bool = False
    split: str = "val"
    img_size: Size | None = None
    batch_size: int = 16
    conf_thres: float = 0.001
    iou_thres: float = 0.65
    device: str = ""
    workers: int = 2
    plots: bool = True
    project: Path = Path("runs/val")
    name: str = "exp"
    exist_ok: bool = False


@dataclass(frozen=True)
class EvaluateResult:
    """Metrics of a split, in 0 to 1; means are over the classes that have instances.

    Attributes:
        map50: mAP at IoU 0.5.
        map: mAP at IoU 0.5 to 0.95.
        precision, recall, f1: at `confidence`, where the mean F1 at IoU 0.5 is highest.
        max_detections: detections per image and class that mAP counts.
        per_class: the same for each class; None where a class has no instances.
        images: how many were evaluated.
        forward_ms, nms_ms: milliseconds per image.
        folder: where plots were written; None without them.
    """

    map50: float
    map: float
    precision: float
    recall: float
    f1: float
    confidence: float
    max_detections: int
    per_class: tuple[ClassMetrics, ...]
    images: int
    forward_ms: float
    nms_ms: float
    folder: Path | None = None

    def document(self) -> dict[str, object]:
        """Return the metrics as plain values, as `prune val --json` prints them."""
        metrics = {key: value for key, value in vars(self).items() if key != "folder"}
        return metrics | {"per_class": [vars(one) for one in self.per_class]}


def evaluate(config: EvaluateConfig, *, report: Report = silent) -> EvaluateResult:
    """Evaluate a detector on a split; with `plots` also write the run's folder.

    Raises:
        PruneError: the weights or the data cannot be used, or do not fit each other.
    """
    data = specs.load(config.data, splits=[config.split])
    data = sift(data, [config.split], strict=config.strict)
    if config.single_cls:
        data = data.as_one_class()
    reading = reading_of(config.cfg, config.names, config.decoding)
    runner = open_runner(config.weights, reading, device_name=config.device)
    data.expect_classes(runner.names, of=config.weights)
    if runner.names not in (data.names, tuple(map(str, range(len(data.names))))):
        report(
            f"note: {config.weights} names its classes otherwise than {config.data}; the data's "
            "names are shown"
        )
    size = runner.image_size(config.img_size)
    if size != runner.imgsz:
        report(
            f"note: {config.weights} was made for images of {runner.imgsz}; it is evaluated at "
            f"{size}"
        )
    run = run_dir.run_folder(config.project, config.name, exist_ok=config.exist_ok)
    with run if config.plots else nullcontext() as folder:
        collected = collect_split(
            runner,
            data,
            config.split,
            imgsz=size,
            batch_size=config.batch_size,
            workers=config.workers,
            confidence=config.conf_thres,
            iou=config.iou_thres,
        )
        metrics = collected.metrics(data.names)
        if folder:
            run_dir.record(folder, vars(config))
            plots.draw_metrics(collected.truth, collected.found, data.names, folder)
            report(f"plots in {folder}")
    return EvaluateResult(
        map50=metrics.map50,
        map=metrics.map,
        precision=metrics.precision,
        recall=metrics.recall,
        f1=metrics.f1,
        confidence=metrics.confidence,
        max_detections=metrics.counted,
        per_class=metrics.per_class,
        images=metrics.images,
        forward_ms=metrics.forward_ms or 0.0,
        nms_ms=metrics.nms_ms or 0.0,
        folder=folder,
    )


def collect_split(  # noqa: PLR0913  # what a caller chooses, most by keyword
    runner: Runner,
    data: DataSpec,
    split: str,
    *,
    imgsz: Size,
    batch_size: int = 16,
    workers: int = 0,
    confidence: float = 0.001,
    iou: float = 0.65,
    title: str = "",
) -> Collected:
    """Run a detector over a split of a data set; `title` names the progress bar.

    Raises:
        DataError: no such split, or an image that cannot be read.
        InputError: a size below 1.
    """
    batches, count = split_batches(
        runner, data, split, imgsz=imgsz, batch_size=batch_size, workers=workers
    )
    return collect(
        runner.detect,
        tracked(batches, title or f"val on {split}", count),
        len(data.names),
        device=runner.device,
        shares=runner.shares,
        confidence=confidence,
        iou=iou,
    )
