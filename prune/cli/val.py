"""prune val: score a checkpoint or an exported file on a split."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading

if TYPE_CHECKING:
    from prune.data.spec import DataSpec
    from prune.evaluate.evaluate import Collected
    from prune.evaluate.metrics import Metrics
    from prune.evaluate.runner import Runner

EXAMPLE = """\
  prune val --weights runs/train/exp/weights/best.pt --data mine.yaml
  prune val --weights model.onnx --data mine.yaml --split test --json"""

COLUMNS = ("class", "images", "instances", "P", "R", "mAP@.5", "mAP@.5:.95")

# What else YOLO tools have under --task, and what to use here.
_TASKS = {
    "speed": "time exported files with prune bench, e.g. prune bench model.onnx",
    "study": "run prune val once per image size, e.g. --img-size 320, then --img-size 640",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.weights(parser)
    reading.add_arguments(parser)
    options.data(parser)
    options.strict(parser)
    options.single_class(parser)
    parser.add_argument(
        "--split",
        "--task",
        type=_split,
        default="val",
        help="split of the data to evaluate: val, test or train (default val)",
    )
    options.image_size(parser)
    options.batch_size(parser)
    options.thresholds(parser, confidence=0.001, iou=0.65)
    options.device(parser)
    options.workers(parser)
    parser.add_argument(
        "--plots",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write PR and F1 curves and the confusion matrix (default: yes)",
    )
    options.run_folder(parser, project="runs/val")
    options.json_output(parser)


def _split(text: str) -> str:
    """Read a split's name, as an argparse type; other tools' tasks are answered by ours."""
    if text in _TASKS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a split: {_TASKS[text]}")
    return text


def run(args: argparse.Namespace) -> None:
    """Score and print; with plots, write the run's folder."""
    from prune.cli import console
    from prune.common import run_dir
    from prune.data import spec as data
    from prune.data.sift import sift
    from prune.evaluate import plots

    log = console.logger()
    spec = sift(data.load(args.data, splits=[args.split]), [args.split], strict=args.strict)
    if args.single_cls:
        spec = spec.as_one_class()
    runner = reading.runner(args)
    spec.expect_classes(runner.names, of=args.weights)
    if runner.names not in (spec.names, tuple(map(str, range(len(spec.names))))):
        log.info(
            f"note: {args.weights} names its classes otherwise than {args.data}; the data's "
            "names are shown"
        )
    if (size := runner.picture_size(args.img_size)) != runner.imgsz:
        log.info(
            f"note: {args.weights} was made for images of {runner.imgsz}; it is scored at {size}"
        )
    with _run_folder(args) as folder:
        collected = _collect(args, runner, spec)
        scores = collected.scores(spec.names)
        if args.json:
            console.print_json(document(scores))
        else:
            console.print_table(COLUMNS, _rows(scores))
        log.info(
            f"{scores.forward_ms:.1f} ms forward, {scores.nms_ms:.1f} ms NMS a picture; P and R "
            f"at confidence {scores.confidence:.3f}"
        )
        if folder:
            run_dir.record(folder, vars(args))
            plots.score_pictures(collected.truth, collected.found, spec.names, folder)
            log.info(f"plots in {folder}")


def document(scores: Metrics) -> dict[str, object]:
    """Return what --json prints."""
    return {
        "map50": scores.map50,
        "map": scores.map,
        "precision": scores.precision,
        "recall": scores.recall,
        "f1": scores.f1,
        "confidence": scores.confidence,
        "max_detections": scores.counted,
        "per_class": [vars(row) for row in scores.per_class],
        "images": scores.images,
        "forward_ms": scores.forward_ms,
        "nms_ms": scores.nms_ms,
    }


def _collect(args: argparse.Namespace, runner: Runner, spec: DataSpec) -> Collected:
    from prune.common.progress import tracked
    from prune.evaluate.evaluate import collect
    from prune.evaluate.preprocess import split_batches

    batches, count = split_batches(
        runner,
        spec,
        args.split,
        imgsz=runner.picture_size(args.img_size),
        batch_size=args.batch_size,
        workers=args.workers,
    )
    return collect(
        runner.detect,
        tracked(batches, f"val on {args.split}", count),
        len(spec.names),
        device=runner.device,
        shares=runner.shares,
        confidence=args.conf_thres,
        iou=args.iou_thres,
    )


def _rows(scores: Metrics) -> list[list[object]]:
    instances = sum(row.instances for row in scores.per_class)
    means = (scores.precision, scores.recall, scores.map50, scores.map)
    rows: list[list[object]] = [["all", scores.images, instances, *means]]
    for row in scores.per_class:
        own = (row.precision, row.recall, row.map50, row.map)
        rows.append([row.name, scores.images, row.instances, *own])
    return rows


def _run_folder(args: argparse.Namespace) -> AbstractContextManager[Path | None]:
    """Make the run's folder if plots go into it, before the work that they show."""
    from prune.common import run_dir

    if not args.plots:
        return nullcontext()
    return run_dir.run_folder(args.project, args.name, exist_ok=args.exist_ok)
