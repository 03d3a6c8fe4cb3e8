"""prune detect: boxes on images, folders, globs, lists, videos, cameras and streams."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.common.wording import counted

if TYPE_CHECKING:
    from prune.evaluate import DetectConfig, DetectResult
    from prune.evaluate.predict import Found

EXAMPLE = """\
  prune detect --source images/ --weights runs/train/exp/weights/best.pt
  prune detect --source film.mp4 --weights model.onnx --conf-thres 0.4
  prune detect --source rtsp://192.168.0.7/stream --weights model.onnx
  prune detect --source 'images/*.jpg' --classes RBC --json --nosave"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--source",
        required=True,
        metavar="SOURCE",
        help="image, video, folder, quoted glob, .txt list of these, camera number (0), or URL of "
        "an image or stream (rtsp://, http://)",
    )
    options.weights(parser)
    reading.add_arguments(parser)
    options.image_size(parser)
    options.thresholds(parser, confidence=0.25, iou=0.45)
    parser.add_argument(
        "--classes", nargs="+", metavar="C", help="only these classes: numbers or names"
    )
    parser.add_argument(
        "--max-det",
        type=options.positive,
        default=300,
        metavar="N",
        help="maximum number of boxes per image (default 300)",
    )
    options.strict(parser)
    options.device(parser)
    parser.add_argument("--save-txt", action="store_true", help="write YOLO label files too")
    parser.add_argument(
        "--save-conf", action="store_true", help="write YOLO label files with confidences in them"
    )
    parser.add_argument("--nosave", action="store_true", help="write no images and no videos")
    parser.add_argument(
        "--pd",
        action="store_true",
        help="accepted and not needed: the checkpoint says by itself that it is pruned",
    )
    options.run_folder(parser, project="runs/detect")
    options.json_output(parser)


def run(args: argparse.Namespace) -> int:
    """Detect, and print the boxes of each image as they are found."""
    from prune.cli import console
    from prune.evaluate import DetectConfig, detect
    from prune.train.stopping import catch_signals

    log = console.logger()
    if args.pd:
        log.info("note: --pd is not needed; the checkpoint itself says what was pruned")
    config = options.config_of(DetectConfig, args)
    with catch_signals(log.info) as stopped:
        result = detect(
            config, report=log.info, each=None if args.json else _print_one, stopped=stopped
        )
    looked = result.images + result.frames
    if looked and args.json:
        console.print_json(result.document())
    if looked:
        (log.info if args.json else console.print_text)(_total(config, result))
        for note in _notes(config, result):
            log.info(note)
    if result.stopped:
        return 130
    return 2 if result.failed and (args.strict or not looked) else 0


def _print_one(found: Found) -> None:
    from prune.cli import console

    frame = "" if found.frame is None else f" frame {found.frame}"
    console.print_text(f"{found.name}{frame}: {found.summary()}")
    sys.stdout.flush()


def _total(config: DetectConfig, result: DetectResult) -> str:
    """Return how many boxes there are; where there are none, how confident the best one was."""
    looked = [
        counted(number, noun)
        for number, noun in ((result.images, "image"), (result.frames, "frame"))
        if number
    ]
    total = f"{counted(result.boxes, 'box', 'boxes')} in {' and '.join(looked)}"
    if result.boxes:
        return total
    return (
        f"{total}; the highest confidence of any box was {result.highest_confidence:.2g}, and the "
        f"threshold is {config.conf_thres:g}: lower --conf-thres, or train longer"
    )


def _notes(config: DetectConfig, result: DetectResult) -> Iterator[str]:
    """Say what was left out: sources that cannot be read, boxes beyond the maximum."""
    if result.failed:
        yield f"note: {result.failed} of {result.sources} sources could not be read; see above"
    if result.most_boxes >= config.max_det:
        yield f"note: an image has {config.max_det} boxes, the maximum; --max-det allows more"
