"""prune whole: turn any public checkpoint into ours."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.common.wording import few

if TYPE_CHECKING:
    from prune.export import WholeResult

EXAMPLE = """\
  prune whole --weights yolor_csp.pt --cfg cfg/yolor_csp.cfg --data mine.yaml
  prune whole --weights old_whole_model.pt --names person,car --onnx
  prune whole --weights yolov4.weights --cfg yolov4.cfg --names coco.names
  prune whole --cfg yolov4.cfg --random --data mine.yaml --out fresh.pt
  prune whole --weights yolov3-spp.pt --cfg yolov3-spp.cfg --decoding exp"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="a .pt of YOLOR, YOLOv4 or YOLOv3 (state dict or pickled module), or Darknet .weights",
    )
    reading.add_arguments(parser, names=False)
    parser.add_argument(
        "--random",
        action="store_true",
        help="draw the weights of the network of --cfg, with heads for the classes named",
    )
    options.seed(parser, of="of --random")
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--data", type=Path, metavar="YAML", help="take the class names from it")
    names.add_argument("--names", metavar="A,B", help=reading.NAMES)
    options.image_size(parser)
    parser.add_argument("--onnx", action="store_true", help="also export it, beside --out")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("whole_model.pt"),
        metavar="FILE",
        help="checkpoint to write (default ./whole_model.pt)",
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Convert, and print what was read and what was written.

    Raises:
        InputError: --seed without --random.
    """
    from prune.cli import console
    from prune.errors import InputError
    from prune.export import WholeConfig, to_checkpoint

    config = options.config_of(WholeConfig, args)
    if "seed" in args.typed and not args.random and args.weights:
        raise InputError("--seed is for --random; remove it, or add --random")
    result = to_checkpoint(config)
    if args.json:
        console.print_json(result.document())
    else:
        for label, text in _rows(result):
            console.print_text(f"{label:9}{text}")


def _rows(result: WholeResult) -> Iterator[tuple[str, str]]:
    yield "read", result.read
    for note in result.notes:
        yield "note", note
    costs = f"{result.params:,} parameters, {result.macs:,} MACs"
    yield "network", f"{result.layers} layers, {costs}"
    yield "classes", f"{len(result.names)}: {few(result.names, 8)}"
    yield "images", result.imgsz.described
    for path in (result.out, result.onnx):
        if path:
            yield "written", f"{path}  {path.stat().st_size:,} bytes"
