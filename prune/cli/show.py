"""prune show: layers, couplings and costs of a checkpoint."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.common.wording import few
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.checkpoint import Checkpoint
    from prune.checkpoint.summary import Inventory, Layer
    from prune.core.trace.groups import Group

EXAMPLE = """\
  prune show whole_model.pt
  prune show model_data/layer_pruning.pt --groups
  prune show yolov4.cfg
  prune show yolov4.weights --cfg yolov4.cfg --img-size 320 --json"""

WEIGHTS = Path("whole_model.pt")  # where nobody names any
COLUMNS = ("layer", "type", "from", "in", "out", "params", "MACs", "output")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "file",
        type=Path,
        nargs="?",
        metavar="FILE",
        help="checkpoint, public weights, a .cfg, or the name of one in ./cfg (default "
        "./whole_model.pt)",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the same as FILE")
    reading.add_arguments(parser)
    parser.add_argument(
        "--groups", action="store_true", help="the coupled groups instead of the layers"
    )
    options.image_size(parser)
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Print what is in the file."""
    from prune.checkpoint.summary import take
    from prune.cli import console

    found = _opened(args)
    inventory = take(found, imgsz=args.img_size)
    if args.json:
        console.print_json(_document(found, inventory))
        return
    if args.groups:
        rows = [_group_row(group) for group in inventory.groups]
        console.print_table(("group", "channels", "members", "kept because"), rows)
    else:
        console.print_table(COLUMNS, [_row(layer) for layer in inventory.layers])
    _print_summary(found, inventory)


def _opened(args: argparse.Namespace) -> Checkpoint:
    """Open what is named: weights, with the cfg beside them, or a cfg alone.

    Raises:
        PruneError: two files are named, or the one cannot be used.
    """
    from prune.checkpoint.convert import fresh

    if args.file and args.weights:
        raise InputError(f"{args.file} and --weights {args.weights} are two files; name one")
    file = reading.cfg_file(args.file or args.weights or (None if args.cfg else WEIGHTS))
    how = reading.reading(args)
    if file is not None and file.suffix.lower() != ".cfg":
        found = reading.open_file(file, how)
        return replace(found, history=[]) if found.foreign else found
    if file is not None and how.cfg is not None:
        raise InputError(f"{file} and --cfg {how.cfg} are two cfgs; name one")
    cfg = file or how.cfg
    assert cfg is not None
    return replace(fresh(cfg, names=how.names, decoding=how.decoding), history=[])


def _document(found: Checkpoint, inventory: Inventory) -> dict[str, object]:
    return {
        "params": inventory.params,
        "macs": inventory.macs,
        "imgsz": inventory.imgsz.plain,
        "names": found.names,
        "layers": [_layer_document(layer) for layer in inventory.layers],
        "groups": [
            {
                "root": group.root,
                "channels": group.channels,
                "members": list(group.producers),
                "kept": group.kept,
            }
            for group in inventory.groups
        ],
        "history": [entry.get("command") for entry in found.history],
    }


def _layer_document(layer: Layer) -> dict[str, object]:
    return {
        "index": layer.index,
        "type": layer.type,
        "in": layer.in_channels,
        "out": layer.out_channels,
        "params": layer.params,
        "macs": layer.macs,
        "output": [layer.height, layer.width],
    }


def _row(layer: Layer) -> tuple[object, ...]:
    own = () if layer.inputs == (layer.index - 1,) else layer.inputs
    return (
        layer.index,
        layer.type,
        ",".join(map(str, own)),
        layer.in_channels,
        layer.out_channels,
        layer.params,
        layer.macs,
        f"{layer.height} x {layer.width}",
    )


def _group_row(group: Group) -> tuple[object, ...]:
    from prune.cli.cutting import member_text, short_name

    return short_name(group.root), group.channels, member_text(group.producers), group.kept or ""


def _print_summary(found: Checkpoint, inventory: Inventory) -> None:
    from prune.cli import console

    done = ", ".join(str(entry.get("command")) for entry in found.history) or "-"
    print(f"\nparameters  {inventory.params:,}")
    print(f"MACs        {inventory.macs:,} at {inventory.imgsz.described}")
    console.print_text(f"classes     {len(found.names)}: {few(found.names, 8)}")
    console.print_text(f"history     {done}")
