"""What `conv` and `layers` share: options, the tables before a cut, and carrying it out."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, ranked, reading, recovering, timing
from prune.common import layer_ranges, streams
from prune.common.layer_ranges import as_ranges
from prune.errors import PlanError

if TYPE_CHECKING:
    from prune.core.plan import Plan
    from prune.core.select.selection import Repeated
    from prune.pruner.depth import Block
    from prune.pruner.recovery import RecoveryStep
    from prune.pruner.session import Pruned, Session


def add_arguments(parser: argparse.ArgumentParser, *, out: str) -> None:
    """Add the options that every cutting command has."""
    options.weights(parser)
    reading.add_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(out),
        metavar="FILE",
        help=f"checkpoint to write (default {out})",
    )
    parser.add_argument("--plan-out", type=Path, metavar="FILE", help="also write the plan, JSON")
    parser.add_argument(
        "--dry-run", action="store_true", help="print and prove, write no checkpoint"
    )
    options.json_output(parser)
    recovering.add_arguments(parser)


def add_ranking(parser: argparse.ArgumentParser) -> None:
    """Add how channels are ranked and rounded, for commands that cut by a share."""
    ranked.add_arguments(parser, criterion="l1", scope="root")
    parser.add_argument(
        "--sequential",
        action="store_true",
        help="cut layer after layer, coupled groups again and again: the old counts",
    )
    options.round_to(parser)


def opened(args: argparse.Namespace) -> Session:
    """Read --weights, once it is known that what the command is to write can be written.

    Raises:
        PruneError: it cannot, or the checkpoint cannot be used.
    """
    from prune.pruner.session import open_session

    _expect_files(args)
    how = reading.reading(args)
    subject = open_session(args.weights, how)
    reading.note(args.weights, subject.checkpoint, how)
    return subject


def plan_by_amount(args: argparse.Namespace, subject: Session, layers: Sequence[int]) -> Plan:
    """Choose what goes from these layers; --sequential also says which groups it cut repeatedly."""
    from prune.core.select import selection
    from prune.pruner.session import convolutions

    named = convolutions(subject.net)
    names = [named[index] for index in layers]
    wish = {"amount": args.amount, "criterion": args.criterion, "round_to": args.round_to}
    if args.sequential:
        net, groups = subject.net, subject.groups
        plan, repeated = selection.one_after_another(net, groups, names, seed=args.seed, **wish)
        _warn(repeated)
    else:
        scores = ranked.scores(args, subject)
        plan = selection.by_amount(subject.groups, scores, names, **wish)
    for group in selection.touching(subject.groups, names):
        if group.kept:
            streams.log(f"prune: note: {group.root} keeps its channels: {group.kept}")
    return plan


def _warn(repeated: Iterable[Repeated]) -> None:
    for group in repeated:
        streams.log(
            f"prune: warning: {group.root} and what is coupled to it were cut {group.times} "
            f"times; {group.after} of {group.before} channels are left"
        )


def layer_indices(words: Iterable[str], allowed: Iterable[int]) -> list[int]:
    """Read `22`, `22-40` and `5,6,9`; a range takes the convolutions in it.

    Raises:
        PlanError: no number, or a layer that is no convolution or is a head (says which are not).
    """
    known = sorted(allowed)
    chosen: set[int] = set()
    for part in (part.strip() for word in words for part in word.split(",")):
        low, high = layer_ranges.read_range(part)
        inside = [i for i in known if low <= i <= high]
        if not inside:
            raise PlanError(
                f"layer {part} is no convolution that can be cut (heads cannot); these can: "
                f"{as_ranges(known)}"
            )
        chosen.update(inside)
    return sorted(chosen)


def finish(
    args: argparse.Namespace,
    subject: Session,
    plan: Plan,
    *,
    made_by: str,
    scores: Mapping[int, float] | None = None,
    more: Mapping[str, object] | None = None,
) -> None:
    """Cut what was `opened`, print what goes, prove, recover, and only then write.

    `scores` are of blocks; `more` is for the report.
    """
    from prune import checkpoint
    from prune.common.files import together
    from prune.core.plan import to_json
    from prune.pruner import session

    recovery = recovering.prepared(args, subject)
    pruned = session.cut_session(subject, plan, made_by=made_by)
    if not args.json:
        _print_cut(pruned, scores or {})
    result = session.as_checkpoint(subject, pruned, seed=args.seed)
    difference = session.prove(subject, pruned, result, seed=args.seed)
    rows: list[RecoveryStep] = []
    if recovery is not None:
        result, rows = recovery.run(pruned, result, recovering.say)
    out = None if args.dry_run else args.out
    with together(*(path for path in (args.plan_out, out) if path)) as parts:
        if args.plan_out:
            parts[0].write_text(to_json(pruned.plan), encoding="utf-8")
        if out:
            checkpoint.save_into(result, parts[-1])
    _report(args, pruned, difference, scores=scores or {}, rows=rows, more=more or {})


def _expect_files(args: argparse.Namespace) -> None:
    """Find out what cannot be written before anything is computed.

    Raises:
        InputError: a file that cannot be written.
    """
    from prune.common.files import expect_writable

    for path in (None if args.dry_run else args.out, args.plan_out):
        if path is not None:
            expect_writable(path)


def _print_cut(pruned: Pruned, scores: Mapping[int, float]) -> None:
    from prune.cli import console
    from prune.pruner.session import touched

    groups = touched(pruned.plan)
    if groups or not pruned.blocks:
        console.print_table(
            ("group", "before", "after", "members"),
            [(short_name(str(g["root"])), g["before"], g["after"], _members(g)) for g in groups],
        )
        print()
    if pruned.blocks:
        scored = ("score",) if scores else ()
        console.print_table(
            ("block", *scored, "params", "MACs"),
            [
                (
                    as_ranges(block.layers),
                    *(_score(block, scores) for _ in scored),
                    block.params,
                    block.macs,
                )
                for block in pruned.blocks
            ],
        )
        print()
    console.print_changes(_costs(pruned))


def _score(block: Block, scores: Mapping[int, float]) -> str | None:
    score = scores.get(block.layers[-1])
    return None if score is None else f"{score:.4g}"


def _report(
    args: argparse.Namespace,
    pruned: Pruned,
    difference: float,
    *,
    scores: Mapping[int, float],
    rows: Sequence[RecoveryStep],
    more: Mapping[str, object],
) -> None:
    from prune.cli import console
    from prune.pruner.session import touched

    out = None if args.dry_run else str(args.out)
    if args.json:
        costs = {name: {"before": b, "after": a} for name, (b, a) in _costs(pruned).items()}
        groups = touched(pruned.plan)
        proof = {"max_abs_diff": difference}
        blocks = [
            {
                "layers": list(block.layers),
                "score": scores.get(block.layers[-1]),
                "params": block.params,
                "macs": block.macs,
            }
            for block in pruned.blocks
        ]
        told = {**costs, "groups": groups, "blocks": blocks, "proof": proof, "out": out}
        console.print_json({**told, "recovery": [vars(row) for row in rows], **more})
        return
    if rows:
        recovering.print_rows(rows)
    if more:
        print(f"\n{timing.as_text(more)}")
    print(f"\nproved   pruned and masked original differ by at most {difference:.2g}")
    console.print_text(f"written  {out}" if out else "written  nothing (--dry-run)")


def _costs(pruned: Pruned) -> dict[str, tuple[int, int]]:
    before, after = pruned.before, pruned.after
    return {"params": (before.params, after.params), "macs": (before.macs, after.macs)}


def short_name(name: str) -> str:
    """Name a layer by its index, as the user does: module_list.22.Conv2d -> 22."""
    parts = name.split(".")
    return parts[1] if parts[0] == "module_list" else name


def member_text(names: Sequence[str]) -> str:
    """Write the members of a group shortly, e.g. "19, 22-23"."""
    short = [short_name(name) for name in names]
    return (
        as_ranges([int(s) for s in short]) if all(map(str.isdecimal, short)) else ", ".join(short)
    )


def _members(group: dict[str, object]) -> str:
    names = group["members"]
    assert isinstance(names, list)
    return member_text(names)
