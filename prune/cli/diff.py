"""prune diff: two checkpoints side by side, layer by layer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading

if TYPE_CHECKING:
    from prune.checkpoint.comparison import LayerChange

EXAMPLE = """\
  prune diff whole_model.pt model_data/layer_pruning.pt
  prune diff yolov4.weights pruned.pt --cfg yolov4.cfg --json"""

COLUMNS = ("layer", "type", "channels", "", "params", "", "MACs", "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("first", type=Path, metavar="A", help="checkpoint or public weights before")
    parser.add_argument("second", type=Path, metavar="B", help="the same after")
    parser.add_argument(
        "--cfg",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="cfg of public weights, or one for A and one for B (default: as in prune whole)",
    )
    reading.add_arguments(parser, cfg=False, names=False)
    options.image_size(parser)
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Print the layers that differ, then the totals."""
    from prune.checkpoint.comparison import DiffConfig, diff
    from prune.cli import console

    result = diff(options.config_of(DiffConfig, args))
    if args.json:
        console.print_json(result.document())
        return
    if result.layers:
        console.print_table(COLUMNS, [_row(change) for change in result.layers])
        print()
    console.print_changes({"params": result.params, "macs": result.macs})
    first, second = result.counts
    count = len(result.layers)
    print(f"\n{count} layers differ, of {first} and {second}, at {result.imgsz.described}")
    if result.names_differ:
        print("the class names differ")


def _row(change: LayerChange) -> Sequence[object]:
    first, second = change.before, change.after
    both = (first, second)
    replaced = first and second and first.activation != second.activation
    types = [f"{la.type} {la.activation}" if replaced else la.type for la in both if la]
    costs = [(la.out_channels, la.params, la.macs) if la else None for la in both]
    values = [cost[i] if cost else None for i in range(3) for cost in costs]
    return change.index, " -> ".join(dict.fromkeys(types)), *values
