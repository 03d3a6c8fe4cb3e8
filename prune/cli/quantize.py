"""prune quantize: an ONNX file in INT8, evaluated and timed beside the float one."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options
from prune.common.choices import INT8_METHODS, INT8_RUNTIMES
from prune.errors import MISSED

if TYPE_CHECKING:
    from prune.quantize import QuantizeConfig, QuantizeResult

EXAMPLE = """\
  prune quantize --weights mine.onnx --data mine.yaml
  prune quantize --weights mine.onnx --data mine.yaml --max-drop 0.5
  prune quantize --weights mine.onnx --data mine.yaml --runtime openvino"""

COLUMNS = ("", "file", "mAP@.5", "mAP@.5:.95", "ms", "times", "bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--weights",
        type=Path,
        required=True,
        metavar="FILE",
        help="ONNX file of prune export, in float32",
    )
    options.data(parser)
    parser.add_argument(
        "--images",
        type=options.positive,
        default=200,
        metavar="N",
        help="training images that ranges are taken from, at least 8 (default 200)",
    )
    parser.add_argument(
        "--method",
        choices=INT8_METHODS,
        default="minmax",
        help="how a range is taken from the values that occur (default minmax)",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="mAP@.5:.95 that may be lost, in percentage points, e.g. 0.5: layers go back to float "
        "until it holds",
    )
    parser.add_argument(
        "--runtime",
        choices=INT8_RUNTIMES,
        default="onnxruntime",
        help="where the file is to run fast (default onnxruntime)",
    )
    parser.add_argument(
        "--seven-bits",
        action="store_true",
        help="weights of 7 bits, for processors without VNNI, whose sums overflow",
    )
    parser.add_argument(
        "--split", "--task", default="val", help="split to evaluate on (default val)"
    )
    parser.add_argument(
        "--threads",
        type=options.natural,
        default=0,
        metavar="N",
        help="threads of a timed run (default: one per core)",
    )
    options.seed(parser, of="of which images are taken")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: NAME-int8.onnx)"
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> int:
    """Quantise, print how both files compare and which to deploy."""
    from prune.cli import console
    from prune.quantize import QuantizeConfig, quantize

    config = options.config_of(QuantizeConfig, args)
    result = quantize(config, report=console.logger().info)
    if args.json:
        console.print_json(result.document())
    else:
        _print(config, result)
    return 0 if result.held else MISSED


def _print(config: QuantizeConfig, result: QuantizeResult) -> None:
    from prune.cli import console

    map50, mean, ms = result.map50, result.map, result.ms
    times, size = 1 / result.ratio.middle, config.weights.stat().st_size
    rows = [
        ("float", str(config.weights), map50.float, mean.float, ms.float, 1.0, size),
        ("INT8", str(result.out), map50.int8, mean.int8, ms.int8, times, result.bytes),
    ]
    console.print_table(COLUMNS, rows)
    count = result.layers - len(result.float_layers)
    print(f"\n{count} of {result.layers} layers in INT8, {result.drop:+.2f} points lost")
    console.print_text(f"deploy {result.recommended}: {_reason(config, result)}")


def _reason(config: QuantizeConfig, result: QuantizeResult) -> str:
    """Say why the recommended file is deployed."""
    ratio = result.ratio
    span = f"{1 / ratio.high:.2f} to {1 / ratio.low:.2f}"
    times = f"{1 / ratio.middle:.2f} times as fast as float ({span})"
    if not result.held:
        return (
            f"not even with a single layer in INT8 the drop stays within {config.max_drop:g} "
            f"points; the best found is {result.out}"
        )
    if not result.accurate:
        return (
            f"INT8 is {times}, and loses {result.drop:.1f} points of mAP; "
            "--max-drop 0.5 gives layers back to float until no more than that is lost"
        )
    if result.recommended != result.out:
        return (
            f"in {result.runtime} on this machine INT8 is {times}; "
            "activations other than ReLU cost time in INT8: prune train --activation relu"
        )
    return times
