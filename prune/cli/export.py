"""prune export: a checkpoint as ONNX or for ncnn, checked against torch, or as Darknet files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.common.choices import FORMATS

if TYPE_CHECKING:
    from prune.export import ExportResult

EXAMPLE = """\
  prune export --weights runs/train/exp/weights/best.pt --out mine.onnx
  prune export --weights best.pt --out mine.onnx --img-size 384 640 --dynamic
  prune export --weights best.pt --out mine.onnx --nms --half --data mine.yaml
  prune export --weights best.pt --bundle mine-detector
  prune export --weights best.pt --format ncnn --out mine.param
  prune export --weights best.pt --format darknet --out mine.cfg"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.weights(parser)
    reading.add_arguments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="onnx", help="what to write (default onnx)"
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: beside the weights)"
    )
    place.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="new folder for the ONNX file, labels, preprocessing, a README with figures, and a "
        "script that detects with onnxruntime, numpy and Pillow alone",
    )
    options.image_size(parser)
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--batch-size",
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="images per run (default 1)",
    )
    size.add_argument("--dynamic", action="store_true", help="leave batch, height and width open")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--raw", action="store_true", help="give the maps of logits of the heads, not boxes"
    )
    ends.add_argument(
        "--nms",
        action="store_true",
        help="have the file suppress its boxes: it gives boxes, scores, classes and counts, and "
        "takes iou_threshold (default 0.45) and score_threshold (default 0.25)",
    )
    parser.add_argument(
        "--max-det",
        type=int,
        default=300,
        metavar="K",
        help="maximum number of boxes per image with --nms (default 300)",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="store weights in half precision, which halves the file; inputs, outputs and sums "
        "stay float32",
    )
    options.data(parser, required=False)
    parser.add_argument(
        "--opset", type=int, metavar="N", help="version of the ONNX operators (default 18)"
    )
    parser.add_argument(
        "--legacy",
        action="store_true",
        help="for old runtimes: opset 13, or 11 to 17 by --opset, by the torchscript exporter",
    )
    parser.add_argument(
        "--exporter",
        choices=("torchscript", "dynamo"),
        default="torchscript",
        help="which of torch's two exporters writes; dynamo is the newer and slower one",
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Export and print what was written.

    Raises:
        InputError: --max-det without --nms.
    """
    from prune.cli import console
    from prune.errors import InputError
    from prune.export import ExportConfig, export

    if "max_det" in args.typed and not args.nms:
        raise InputError("--max-det is for --nms; leave it out, or add --nms")
    result = export(options.config_of(ExportConfig, args))
    if args.json:
        console.print_json(result.document())
    else:
        print("\n".join(_lines(result)))


def _lines(result: ExportResult) -> Iterator[str]:
    """Describe what was written, for people."""
    if isinstance(result.out, Path):
        yield f"{result.out}  opset {result.opset}, {result.bytes:,} bytes"
    else:
        assert isinstance(result.bytes, tuple)
        for path, size in zip(result.out, result.bytes, strict=True):
            yield f"{path}  {size:,} bytes"
    for kind, tensors in (("input", result.inputs), ("output", result.outputs)):
        for name, shape in (tensors or {}).items():
            yield f"  {kind:6} {name}: {' x '.join(map(str, shape)) or 'a number'}"
    if result.read_back_by is not None:
        lacking = result.not_in_opencv and f"; OpenCV does not read {result.not_in_opencv}"
        agreement = f"agrees with torch to {result.max_rel_diff:.2g} relative{lacking}"
        yield f"  read back by {result.read_back_by}: {agreement}"
    elif result.max_abs_diff is not None:
        agreement = f"{result.max_abs_diff:.2g} ({result.max_rel_diff:.2g} relative)"
        real = f" and {result.images} images" if result.images else ""
        inputs = "" if result.images is None else f" on random inputs{real}"
        yield f"  agrees with torch to {agreement}{inputs}"
