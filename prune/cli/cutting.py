"""What all pruning commands share: their options, and how a run is started and printed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, ranked, reading, recovering, timing
from prune.common import streams
from prune.common.layer_ranges import as_ranges, members, short_name

if TYPE_CHECKING:
    from prune.pruner.config import PruneConfig
    from prune.pruner.result import Change, CutResult, PruneResult


def add_arguments(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Add the options that every pruning command has."""
    options.weights(parser)
    reading.add_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(out),
        metavar="FILE",
        help=f"checkpoint to write (default {out})",
    )
    parser.add_argument(
        "--plan-out", type=Path, metavar="FILE", help="also write the plan, as JSON"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print and verify, but write no checkpoint"
    )
    options.json_output(parser)
    recovering.add_arguments(parser)


def add_ranking(parser: argparse.ArgumentParser) -> None:
    """Add the criterion and the rounding, for commands that prune a fraction of layers."""
    ranked.add_arguments(parser, criterion="l1", scope="root")
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="prune layer after layer, and a coupled group again with each of its layers",
    )
    options.round_to(parser)


def run(kind: type[PruneConfig], args: argparse.Namespace, **others: object) -> None:
    """Prune as the options of a command say, and print the result.

    Args:
        kind: the config of the command.
        args: its options.
        others: fields of the config that are not options of the same name.
    """
    from prune.pruner.pipeline import prune

    config = options.config_of(kind, args, **others)
    result = prune(
        config,
        report=lambda line: streams.log(f"prune: {line}"),
        show=(lambda _: None) if args.json else _print_cut,
    )
    if args.json:
        from prune.cli import console

        console.print_json(result.document())
    else:
        _print_result(result)


def _print_cut(cut: CutResult) -> None:
    """Print what is removed, before it is verified."""
    from prune.cli import console

    if cut.groups or not cut.blocks:
        console.print_table(
            ("group", "before", "after", "members"),
            [(short_name(g.root), g.before, g.after, members(g.members)) for g in cut.groups],
        )
        print()
    if cut.blocks:
        compared = any(block.score is not None for block in cut.blocks)
        importance = [
            (None if block.score is None else f"{block.score:.4g}",) if compared else ()
            for block in cut.blocks
        ]
        console.print_table(
            ("block", *(("importance",) if compared else ()), "params", "MACs"),
            [
                (as_ranges(block.layers), *own, block.params, block.macs)
                for block, own in zip(cut.blocks, importance, strict=True)
            ],
        )
        print()
    console.print_changes({"params": _pair(cut.params), "macs": _pair(cut.macs)})


def _pair(change: Change) -> tuple[int, int]:
    return change.before, change.after


def _print_result(result: PruneResult) -> None:
    from prune.cli import console

    if result.recovery:
        recovering.print_rows(result.recovery)
    if result.latency:
        print(f"\n{timing.as_text(result.latency)}")
    difference = result.proof.max_abs_diff
    print(f"\nverified pruned and masked original differ by at most {difference:.2g}")
    console.print_text(f"written  {result.out}" if result.out else "written  nothing (--dry-run)")
