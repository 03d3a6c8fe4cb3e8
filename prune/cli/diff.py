"""prune diff: two checkpoints side by side, layer by layer."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.checkpoint import Checkpoint
    from prune.checkpoint.summary import Inventory, Layer

EXAMPLE = """\
  prune diff whole_model.pt model_data/layer_pruning.pt
  prune diff yolov4.weights pruned.pt --cfg yolov4.cfg --json"""

COLUMNS = ("layer", "type", "channels", "", "params", "", "MACs", "")
# A layer's field -> its key in --json.
COMPARED = {
    "type": "type",
    "activation": "activation",
    "in_channels": "in",
    "out_channels": "out",
    "params": "params",
    "macs": "macs",
}


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
    from prune.checkpoint.summary import take
    from prune.cli import console

    files = _opened(args)
    size = options.size(args, files[0].imgsz)
    before, after = (take(found, imgsz=size) for found in files)
    changed = _changed(before, after, _gone(*files, layers=len(before.layers)))
    if args.json:
        console.print_json(_document(before, after, changed, files[0].names != files[1].names))
        return
    if changed:
        console.print_table(COLUMNS, [_row(pair) for pair in changed])
        print()
    console.print_changes(_totals(before, after))
    print(
        f"\n{len(changed)} layers differ, of {len(before.layers)} and {len(after.layers)}, "
        f"at {size.described}"
    )
    if files[0].names != files[1].names:
        print("the class names differ")


def _opened(args: argparse.Namespace) -> list[Checkpoint]:
    """Open both files; one cfg is for each of them that is not ours.

    Raises:
        PruneError: a file that cannot be used, or more than two cfgs.
    """
    from prune.checkpoint.convert import Reading, open_weights

    cfgs = [reading.cfg_file(cfg) for cfg in args.cfg or [None]]
    if len(cfgs) > 2:
        raise InputError(f"--cfg names {len(cfgs)} files; one is for both, two are for A and B")
    ways = [Reading(cfg, decoding=args.decoding) for cfg in (cfgs[0], cfgs[-1])]
    paths = (args.first, args.second)
    found = [open_weights(path, way) for path, way in zip(paths, ways, strict=True)]
    foreign = any(one.foreign for one in found)
    for path, way, one in zip(paths, ways, found, strict=True):
        # One cfg beside one public file is meant for that, and nothing needs to be said of ours.
        only = foreign and not one.foreign and len(cfgs) == 1
        reading.note(path, one, Reading() if only else way)
    return found


Pair = tuple["Layer | None", "Layer | None"]


def _gone(first: Checkpoint, second: Checkpoint, *, layers: int) -> frozenset[int]:
    """Find which layers of the first left with whole blocks, where the second was made of it.

    Each plan names layers as its own network had them.
    """
    own = len(first.history)
    if first.history != second.history[:own]:
        return frozenset()
    left = list(range(layers))
    for entry in second.history[own:]:
        plan = entry.get("plan")
        blocks = set(plan.get("blocks", ())) if isinstance(plan, dict) else set()
        left = [layer for place, layer in enumerate(left) if place not in blocks]
    return frozenset(range(layers)) - set(left)


def _changed(before: Inventory, after: Inventory, gone: Collection[int]) -> list[Pair]:
    """Pair the layers that stayed, in order, and keep the pairs that differ."""
    rest = iter(after.layers)
    pairs: list[Pair] = [
        (layer, None if layer.index in gone else next(rest, None)) for layer in before.layers
    ]
    pairs += [(None, layer) for layer in rest]
    return [
        (a, b)
        for a, b in pairs
        if a is None or b is None or any(getattr(a, k) != getattr(b, k) for k in COMPARED)
    ]


def _totals(before: Inventory, after: Inventory) -> dict[str, tuple[int, int]]:
    return {"params": (before.params, after.params), "macs": (before.macs, after.macs)}


def _row(pair: Pair) -> Sequence[object]:
    first, second = pair
    some = first or second
    assert some is not None
    bent = first and second and first.activation != second.activation
    types = [f"{la.type} {la.activation}" if bent else la.type for la in pair if la]
    both = [(layer.out_channels, layer.params, layer.macs) if layer else None for layer in pair]
    values = [value[i] if value else None for i in range(3) for value in both]
    return some.index, " -> ".join(dict.fromkeys(types)), *values


def _document(
    before: Inventory, after: Inventory, changed: Sequence[Pair], renamed: bool
) -> dict[str, object]:
    return {
        **{name: {"before": a, "after": b} for name, (a, b) in _totals(before, after).items()},
        "names_differ": renamed,
        "layers": [
            {"index": (a or b).index, "before": _facts(a), "after": _facts(b)}  # type: ignore[union-attr]  # one is there
            for a, b in changed
        ],
    }


def _facts(layer: Layer | None) -> dict[str, object] | None:
    if layer is None:
        return None
    return {key: getattr(layer, name) for name, key in COMPARED.items()}
