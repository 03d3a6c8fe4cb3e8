"""prune quantize: an ONNX file in INT8, scored and timed beside the float one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options
from prune.errors import MISSED, InputError

if TYPE_CHECKING:
    from prune.quantize.run import Quantized
    from prune.runtimes.compare import Compared

EXAMPLE = """\
  prune quantize --weights mine.onnx --data mine.yaml
  prune quantize --weights mine.onnx --data mine.yaml --max-drop 0.5
  prune quantize --weights mine.onnx --data mine.yaml --runtime openvino"""

METHODS = ("minmax", "percentile", "entropy")  # of prune.quantize.calibrate
RUNTIMES = ("onnxruntime", "openvino")  # of prune.quantize.parts
COLUMNS = ("", "file", "mAP@.5", "mAP@.5:.95", "ms", "times", "bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="FILE", help="float file of prune export"
    )
    options.data(parser)
    parser.add_argument(
        "--images",
        type=options.positive,
        default=200,
        metavar="N",
        help="training pictures that ranges are taken from (default 200)",
    )
    parser.add_argument(
        "--method", choices=METHODS, default="minmax", help="how ranges are taken (default minmax)"
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="mAP@.5:.95 that may be lost, e.g. 0.5: layers go back to float until it holds",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default="onnxruntime",
        help="where the file is to run fast (default onnxruntime)",
    )
    parser.add_argument(
        "--seven-bits",
        action="store_true",
        help="weights of 7 bits, for processors without VNNI, whose sums overflow",
    )
    parser.add_argument("--split", "--task", default="val", help="split to score on (default val)")
    parser.add_argument(
        "--threads", type=options.natural, default=0, metavar="N", help="when timed (0: one a core)"
    )
    options.seed(parser, of="of which pictures are taken")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: NAME-int8.onnx)"
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> int:
    """Quantise, write, time both files, recommend one."""
    from prune.cli import console
    from prune.common.files import expect_writable, replacing
    from prune.data import spec
    from prune.quantize import run as quantizing
    from prune.runtimes import doubts
    from prune.runtimes.backends import library
    from prune.runtimes.compare import compared
    from prune.runtimes.file_inputs import settle
    from prune.runtimes.machine import threads_of

    target = args.out or args.weights.with_name(f"{args.weights.stem}-int8.onnx")
    if target.suffix.lower() != ".onnx":
        raise InputError(f"{target} is no name for an ONNX file; it must end in .onnx")
    library(args.runtime)  # raises before minutes of work, where it is not installed
    wish = quantizing.QuantizeOptions(
        images=args.images,
        method=args.method,
        runtime=args.runtime,
        seven_bits=args.seven_bits,
        max_drop=args.max_drop,
        split=args.split,
        seed=args.seed,
    )
    expect_writable(target)
    if args.weights.suffix.lower() == ".onnx":  # others are refused with what to do
        settle(args.weights, threads=threads_of(args.threads))
    data = spec.load(args.data, splits=("train", args.split))
    done = quantizing.quantize(args.weights, data, wish, say=console.logger().info)
    if not done.held:  # under its own name nobody would see that it is not what was asked for
        target = target.with_name(f"{target.stem}-missed{target.suffix}")
    say = console.logger().info
    doubts.note_if_busy(say, threads=threads_of(args.threads))
    with replacing(target) as part:  # a file that cannot be timed does not stay
        quantizing.save_into(done, part)
        timed = compared(args.weights, part, runtime=args.runtime, threads=args.threads)
    doubts.note_if_unsure(say, [timed.ratio], remedy="an idle machine narrows that")
    if args.json:
        console.print_json(document(done, timed, args, target))
    else:
        _print(done, timed, args, target)
    return 0 if done.held else MISSED


def document(
    done: Quantized, timed: Compared, args: argparse.Namespace, target: Path
) -> dict[str, object]:
    """Return what --json prints."""
    from prune.export.structure import opset, shapes
    from prune.quantize.run import keeps, pays

    return {
        "out": str(target),
        "opset": opset(done.model),
        "inputs": shapes(done.model.graph.input),
        "outputs": shapes(done.model.graph.output),
        "bytes": target.stat().st_size,
        "max_abs_diff": done.moved.absolute,
        "max_rel_diff": done.moved.relative,
        "map50": {"float": done.before.map50, "int8": done.after.map50},
        "map": {"float": done.before.map, "int8": done.after.map},
        "drop": done.drop,
        "held": done.held,
        "layers": done.layers,
        "float_layers": list(done.given_back),
        "runtime": args.runtime,
        "ms": {"float": timed.before_ms, "int8": timed.after_ms},
        "ratio": vars(timed.ratio),
        "recommended": str(target if keeps(done) and pays(timed) else args.weights),
    }


def _print(done: Quantized, timed: Compared, args: argparse.Namespace, target: Path) -> None:
    from prune.cli import console

    files = (
        ("float", args.weights, done.before, timed.before_ms, 1.0),
        ("INT8", target, done.after, timed.after_ms, 1 / timed.ratio.middle),
    )
    rows = [
        (name, str(path), scores.map50, scores.map, ms, times, path.stat().st_size)
        for name, path, scores, ms, times in files
    ]
    console.print_table(COLUMNS, rows)
    count = len(done.given_back)
    print(f"\n{done.layers - count} of {done.layers} layers in INT8, {done.drop:+.2f} points lost")
    console.print_text(_advice(done, timed, args, target))


def _advice(done: Quantized, timed: Compared, args: argparse.Namespace, target: Path) -> str:
    """Say which file to deploy, and why."""
    from prune.quantize.run import keeps, pays

    ratio, source = timed.ratio, args.weights
    span = f"{1 / ratio.high:.2f} to {1 / ratio.low:.2f}"
    times = f"{1 / ratio.middle:.2f} times as fast as float ({span})"
    if not done.held:
        return (
            f"deploy {source}: not even with a single layer in INT8 the drop stays within "
            f"{done.allowed:g} points; the best found is {target}"
        )
    if not keeps(done):
        return (
            f"deploy {source}: INT8 is {times}, and loses {done.drop:.1f} points of mAP; "
            "--max-drop 0.5 gives layers back to float until no more than that is lost"
        )
    if not pays(timed):
        return (
            f"deploy {source}: in {args.runtime} on this machine INT8 is {times}; "
            "activations but ReLU cost time in INT8: prune train --activation relu"
        )
    return f"deploy {target}: {times}"
