"""prune show: layers, couplings and costs of a checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.common.layer_ranges import members, short_name
from prune.common.wording import few

if TYPE_CHECKING:
    from prune.checkpoint.summary import Layer

EXAMPLE = """\
  prune show whole_model.pt
  prune show model_data/layer_pruning.pt --groups
  prune show yolov4.cfg
  prune show yolov4.weights --cfg yolov4.cfg --img-size 320 --json"""

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
    from prune.checkpoint.summary import ShowConfig, show
    from prune.cli import console

    result = show(options.config_of(ShowConfig, args))
    if args.json:
        console.print_json(result.document())
        return
    if args.groups:
        rows = [
            (
                short_name(group.root),
                group.channels,
                members(group.producers),
                group.protected or "",
            )
            for group in result.groups
        ]
        console.print_table(("group", "channels", "members", "protected because"), rows)
    else:
        console.print_table(COLUMNS, [_row(layer) for layer in result.layers])
    print(f"\nparameters  {result.params:,}")
    print(f"MACs        {result.macs:,} at {result.imgsz.described}")
    console.print_text(f"classes     {len(result.names)}: {few(result.names, 8)}")
    console.print_text(f"history     {', '.join(map(str, result.history)) or '-'}")


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
