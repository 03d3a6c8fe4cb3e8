"""prune export: a checkpoint as ONNX, checked against torch, or as Darknet files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options

if TYPE_CHECKING:
    from prune.checkpoint import Checkpoint
    from prune.export.onnx import Exported

EXAMPLE = """\
  prune export --weights runs/train/exp/weights/best.pt --out mine.onnx
  prune export --weights best.pt --out mine.onnx --img-size 384 640 --dynamic
  prune export --weights best.pt --format darknet --out mine.cfg"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.weights(parser)
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file to write (default: beside the weights)"
    )
    options.image_size(parser, nargs="+")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--batch-size", "--batch", type=int, default=1, metavar="N", help="pictures a run"
    )
    size.add_argument("--dynamic", action="store_true", help="leave batch, height and width open")
    parser.add_argument(
        "--raw", action="store_true", help="give the heads' maps of logits, not boxes"
    )
    parser.add_argument(
        "--opset", type=int, metavar="N", help="version of the ONNX operators (default 18)"
    )
    parser.add_argument(
        "--exporter",
        choices=("torchscript", "dynamo"),
        default="torchscript",
        help="which of torch's two exporters writes; dynamo is the newer and slower one",
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Read the checkpoint, write the format that is asked for, say what was written."""
    from prune import checkpoint
    from prune.cli import console

    document, text = FORMATS[args.format](args, checkpoint.load(args.weights))
    if args.json:
        console.print_json(document)
    else:
        print(text)


def picture_size(wanted: list[int] | None, usual: int) -> tuple[int, int]:
    """Turn --img-size into height and width: one number is a square, none the checkpoint's size.

    Raises:
        InputError: more than two numbers.
    """
    from prune.errors import InputError

    sides = wanted or [usual]
    if len(sides) > 2:
        raise InputError(f"--img-size takes one number or height and width, not {len(sides)}")
    return sides[0], sides[-1]


Written = tuple[dict[str, object], str]
"""What --json prints, and what a person reads."""


def _onnx(args: argparse.Namespace, source: Checkpoint) -> Written:
    from prune import checkpoint
    from prune.export.onnx import export

    done = export(
        checkpoint.network(source),
        _target(args, args.weights.with_suffix(".onnx")),
        names=source.names,
        imgsz=picture_size(args.img_size, source.imgsz),
        batch=args.batch_size,
        dynamic=args.dynamic,
        raw=args.raw,
        opset=args.opset,
        source=checkpoint.digest(args.weights),
        exporter=args.exporter,
    )
    return vars(done), _described(done)


def _darknet(args: argparse.Namespace, source: Checkpoint) -> Written:
    from prune import checkpoint
    from prune.export.darknet import write_darknet

    target = _target(args, args.weights.with_suffix(".cfg"), ".weights")
    return _pair(write_darknet(checkpoint.network(source), target))


def _yolor(args: argparse.Namespace, source: Checkpoint) -> Written:
    from prune import checkpoint
    from prune.export.darknet import write_yolor

    target = _target(args, args.weights.with_name(f"{args.weights.stem}_yolor.cfg"), ".pt")
    return _pair(write_yolor(checkpoint.network(source), target, source.names))


def _target(args: argparse.Namespace, usual: Path, second: str | None = None) -> Path:
    """Settle where to write; `second` is the suffix of a file that is written beside it.

    Raises:
        InputError: the checkpoint itself would be written over.
    """
    from prune.errors import InputError

    target: Path = args.out or usual
    for path in (target, target.with_suffix(second or target.suffix)):
        if path.resolve() == args.weights.resolve():
            raise InputError(f"{path} is the checkpoint itself; choose another name by --out")
    return target


def _pair(files: tuple[Path, Path]) -> Written:
    sizes = {str(path): path.stat().st_size for path in files}
    text = "\n".join(f"{name}  {size:,} bytes" for name, size in sizes.items())
    return {"out": list(sizes), "bytes": list(sizes.values())}, text


def _described(done: Exported) -> str:
    sides = [
        f"  {kind:6} {name}: {' x '.join(map(str, shape))}"
        for kind, tensors in (("input", done.inputs), ("output", done.outputs))
        for name, shape in tensors.items()
    ]
    head = f"{done.out}  opset {done.opset}, {done.bytes:,} bytes"
    agreement = (
        f"  agrees with torch to {done.max_abs_diff:.2g} ({done.max_rel_diff:.2g} relative) "
        "on two random inputs"
    )
    return "\n".join((head, *sides, agreement))


Format = Callable[[argparse.Namespace, "Checkpoint"], Written]
"""Write the checkpoint as the options say."""

FORMATS: dict[str, Format] = {"onnx": _onnx, "darknet": _darknet, "yolor": _yolor}
