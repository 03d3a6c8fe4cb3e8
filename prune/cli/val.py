"""prune val: evaluate a checkpoint or an exported file on a split."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prune.cli import options, reading

if TYPE_CHECKING:
    from prune.evaluate import EvaluateResult

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
    """Evaluate and print."""
    from prune.cli import console
    from prune.evaluate import EvaluateConfig, evaluate

    log = console.logger()
    result = evaluate(options.config_of(EvaluateConfig, args), report=log.info)
    if args.json:
        console.print_json(result.document())
    else:
        console.print_table(COLUMNS, _rows(result))
    log.info(
        f"{result.forward_ms:.1f} ms forward, {result.nms_ms:.1f} ms NMS per image; P and R at "
        f"confidence {result.confidence:.3f}"
    )


def _rows(result: EvaluateResult) -> list[list[object]]:
    instances = sum(row.instances for row in result.per_class)
    means = (result.precision, result.recall, result.map50, result.map)
    rows: list[list[object]] = [["all", result.images, instances, *means]]
    for row in result.per_class:
        own = (row.precision, row.recall, row.map50, row.map)
        rows.append([row.name, result.images, row.instances, *own])
    return rows
