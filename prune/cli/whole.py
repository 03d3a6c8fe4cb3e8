"""prune whole: turn any public checkpoint into ours."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.common.notes import note
from prune.common.wording import few
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.checkpoint import Checkpoint
    from prune.common.size import Size
    from prune.models.darknet import Darknet

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
    """Read, write, say what was read and what was written."""
    from prune import checkpoint
    from prune.cli import console

    _expect_sources(args)
    found = _fresh(args) if args.random else _imported(args)
    net = checkpoint.network(found)
    onnx = args.out.with_suffix(".onnx") if args.onnx else None
    if onnx is None:
        checkpoint.save(found, args.out)
    else:
        _save_both(net, found, args.out, onnx)
    if list(found.names) == [str(number) for number in range(len(found.names))] and not (
        args.names or args.data
    ):
        note(
            f"{args.weights or args.cfg} has no class names: they are numbers, from 0 to "
            f"{len(found.names) - 1}; --names FILE or --data FILE names them"
        )
    facts = _facts(net, found)
    if args.json:
        console.print_json({**facts, "out": args.out, "onnx": onnx})
    else:
        for line in _described(facts, found.imgsz, [path for path in (args.out, onnx) if path]):
            console.print_text(line)


def _expect_sources(args: argparse.Namespace) -> None:
    """Check that the files to read are named.

    Raises:
        InputError: one is missing.
    """
    if args.random and (args.weights or not args.cfg):
        raise InputError("--random draws the weights of a cfg's network; give --cfg alone")
    if not args.random and args.weights is None:
        raise InputError("no weights; give --weights FILE, or --cfg FILE --random for fresh ones")
    if "seed" in args.typed and not args.random:
        raise InputError("--seed is for --random; remove it, or add --random")


def _imported(args: argparse.Namespace) -> Checkpoint:
    from prune.checkpoint.convert import import_foreign

    return import_foreign(
        args.weights,
        cfg=reading.cfg_file(args.cfg),
        names=_names(args),
        imgsz=args.img_size,
        decoding=args.decoding,
    )


def _fresh(args: argparse.Namespace) -> Checkpoint:
    from prune.checkpoint.convert import fresh

    cfg = reading.cfg_file(args.cfg)
    assert cfg is not None
    return fresh(
        cfg, names=_names(args), imgsz=args.img_size, decoding=args.decoding, seed=args.seed
    )


def _names(args: argparse.Namespace) -> Sequence[str] | None:
    """Take the class names from --data, a file or the command line.

    Raises:
        InputError: there are none, or the file cannot be read.
    """
    if args.data is not None:
        from prune.data.spec import load_names

        return load_names(args.data)
    return reading.class_names(args.names)


def _save_both(net: Darknet, found: Checkpoint, out: Path, onnx: Path) -> None:
    """Write the checkpoint and its ONNX file, or neither."""
    from prune import checkpoint
    from prune.common.files import together
    from prune.export.facts import provenance
    from prune.export.onnx import export

    with together(onnx, out) as (exported, saved):
        checkpoint.save_into(found, saved)
        export(
            net,
            exported,
            names=found.names,
            imgsz=found.imgsz,
            source=checkpoint.digest(saved),
            about=provenance(found),
        )


def _facts(net: Darknet, source: Checkpoint) -> dict[str, object]:
    entry = source.history[-1]
    return {
        "read": entry["read"],
        "notes": entry["notes"],
        "layers": len(net.module_list),
        "params": entry["params"],
        "macs": entry["macs"],
        "names": source.names,
        "imgsz": source.imgsz.plain,
    }


def _described(facts: dict[str, object], size: Size, written: Sequence[Path]) -> list[str]:
    names, notes = facts["names"], facts["notes"]
    assert isinstance(names, list)
    assert isinstance(notes, list)
    rows = [
        ("read", facts["read"]),
        *(("note", note) for note in notes),
        (
            "network",
            f"{facts['layers']} layers, {facts['params']:,} parameters, {facts['macs']:,} MACs",
        ),
        ("classes", f"{len(names)}: {few(names, 8)}"),
        ("images", size.described),
        *(("written", f"{path}  {path.stat().st_size:,} bytes") for path in written),
    ]
    return [f"{label:9}{text}" for label, text in rows]
