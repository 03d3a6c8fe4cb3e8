"""prune global: cut the whole network to a budget of multiply-adds, parameters or time."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.cli import cutting, options, ranked, recovering, timing
from prune.common import streams
from prune.common.amounts import read_amount
from prune.common.inputs import naming
from prune.common.plain_yaml import read_yaml_file
from prune.common.schema import Field, expect, flag, listed, mapping, named, number, whole
from prune.errors import InputError, PlanError

if TYPE_CHECKING:
    from prune.common.size import Size
    from prune.core.select.allocation import Budget
    from prune.core.select.constraints import Constraints
    from prune.core.select.selection import Selected
    from prune.pruner.budget import BudgetOptions
    from prune.pruner.depth import Block
    from prune.pruner.sensitivity.curves import Known
    from prune.pruner.session import Session

EXAMPLE = """\
  prune global --weights best.pt --macs 0.5
  prune global --weights best.pt --macs 0.5 --data mine.yaml --steps 4
  prune global --weights best.pt --latency 0.5 --data mine.yaml --depth 4
  prune global --weights best.pt --params 13M --round-to 8 --exclude 0-3"""

# Of prune.core.select.allocation, which --help must not import.
ALLOCATIONS = ("uniform", "global", "per-cost", "isomorphic", "sensitivity")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    budget = parser.add_mutually_exclusive_group(required=True)
    for kind, what in (("macs", "multiply-adds of one picture"), ("params", "parameters")):
        budget.add_argument(
            f"--{kind}", metavar="B", help=f"{what} to come down to: a share, 0.5, or 30G, 13M"
        )
    timing.add_arguments(parser, budget)
    parser.add_argument(
        "--allocation",
        choices=ALLOCATIONS,
        help="how groups share the cut (default: sensitivity with --sensitivity, per-cost with "
        "taylor and fisher, else uniform)",
    )
    parser.add_argument(
        "--sensitivity", type=Path, metavar="FILE", help="measured drops, of prune sensitivity"
    )
    parser.add_argument(
        "--steps", type=int, default=1, metavar="N", help="cut in N steps, scoring anew (default 1)"
    )
    parser.add_argument(
        "--depth",
        type=options.depth,
        metavar="N",
        default="0",
        help="also remove N residual blocks; auto tries numbers, with recovery where that is asked "
        "for, and takes the best (default 0)",
    )
    ranked.add_arguments(parser, criterion=None, scope="group")
    _add_limits(parser)
    options.image_size(parser)
    cutting.add_arguments(parser, out="model_data/global_pruning.pt")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-ratio",
        type=float,
        metavar="SHARE",
        help="share of a group that may go at most (default: what the budget takes and a tenth; "
        "with --latency a quarter instead)",
    )
    parser.add_argument(
        "--min-channels", type=int, metavar="N", help="channels that stay in every group"
    )
    options.round_to(parser)
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="leave these whole: 5, 10-20, or a name such as '*.113.*'",
    )
    parser.add_argument(
        "--limits", type=Path, metavar="YAML", help="the same wishes, and ones by layer, in a file"
    )


def run(args: argparse.Namespace) -> None:
    """Cut as asked."""
    from prune.core.select.constraints import limits
    from prune.pruner import budget as budgeted
    from prune.pruner.session import convolutions

    subject = cutting.opened(args)
    imgsz = options.size(args, subject.checkpoint.imgsz)
    meet = _counted if args.latency is None else timing.deadline
    budget = meet(args, subject, imgsz)
    everywhere, layers = _limits(args, max_ratio=budget.max_ratio, known=convolutions(subject.net))
    known = _known(args, subject)
    _settle_criterion(args, known)
    usual = "sensitivity" if known else budgeted.allocation_for(args.criterion)
    wishes = budgeted.BudgetOptions(
        allocation=args.allocation or usual,
        criterion=args.criterion,
        everywhere=everywhere,
        layers=layers,
        steps=args.steps,
        curves=known.curves if known else (),
        baseline=known.baseline if known else 0.0,
    )

    limits(subject.groups, everywhere, layers)  # every pattern names a layer, blocks included
    free = partial(_is_free, everywhere=everywhere, layers=layers)
    chosen, more = budget.choose(wishes, partial(_deep, args, subject, free))
    _tell(chosen, heads=subject.net.head_convolutions())
    cutting.finish(args, subject, chosen.plan, made_by="global", more=more)


@dataclass(frozen=True)
class Counted:
    """Multiply-adds or parameters that a network is to come down to.

    Attributes:
        args: how its channels are scored.
        budget: what may be left.
        share: that share of what there is.
        imgsz: of the picture.
    """

    args: argparse.Namespace
    budget: Budget
    share: float
    imgsz: Size

    @property
    def max_ratio(self) -> float:
        """The share of a group that may go at most, where nobody says."""
        return min(max(1.1 - self.share, 0.0), 1.0)

    def choose(
        self, wishes: BudgetOptions, deep: timing.Deep
    ) -> tuple[Selected, dict[str, object]]:
        """Choose what leaves; nothing more is reported, what is left is counted for every cut."""
        from prune.pruner import budget as budgeted

        def narrow(now: Session) -> Selected:
            score = partial(ranked.scores, self.args)
            return budgeted.to_budget(now, score, self.budget, wishes, imgsz=self.imgsz)

        return deep(narrow, None), {}


def _counted(args: argparse.Namespace, subject: Session, imgsz: Size) -> Counted:
    """Read --macs or --params."""
    from prune.core.cost.macs import count
    from prune.core.select.allocation import Budget

    timing.expect_none(args)
    kind = "macs" if args.macs is not None else "params"
    amount = read_amount(getattr(args, kind), option=f"--{kind}")
    now = getattr(count(subject.net, imgsz.batch()), kind)
    limit = int(amount if amount > 1 else amount * now)
    return Counted(args, Budget(kind, limit), limit / now, imgsz)


def _limits(
    args: argparse.Namespace, *, max_ratio: float, known: Collection[int]
) -> tuple[Constraints, Mapping[str, Mapping[str, object]]]:
    """Read --limits, then what the command line says on top of it; `max_ratio` if neither does.

    `known` are the indices of all convolutions.
    """
    from prune.core.select.constraints import Constraints, changed

    said: dict[str, Any] = _read_limits(args.limits) if args.limits else {}
    layers = said.pop("layers", None) or {}
    excluded = said.pop("exclude", None) or []
    wish = changed(Constraints(max_ratio=max_ratio), said, where=str(args.limits))
    options_said = {
        name: value
        for name, value in (
            ("max_ratio", args.max_ratio),
            ("min_channels", args.min_channels),
            ("round_to", args.round_to if args.round_to != 1 else None),
        )
        if value is not None
    }
    found: dict[str, dict[str, object]] = {}
    with naming(args.limits) if args.limits else nullcontext():
        for name, fields in layers.items():
            for pattern in _patterns(name, known):
                found[pattern] = {**found.pop(pattern, {}), **fields}  # now the last one
        in_file = [pattern for name in excluded for pattern in _patterns(str(name), known)]
    typed = [pattern for name in args.exclude for pattern in _patterns(name, known)]
    for pattern in (*in_file, *typed):
        found[pattern] = {**found.pop(pattern, {}), "exclude": True}
    return changed(wish, options_said, where="the command line"), found


def _read_limits(path: Path) -> dict[str, Any]:
    """Read the file of --limits; layers are called by texts or numbers."""
    found: Any = read_yaml_file(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no limits; write e.g. max_ratio: 0.8")
    layers = found.get("layers")
    if isinstance(layers, dict):
        found["layers"] = {str(k) if type(k) is int else k: v for k, v in layers.items()}
    expect(found, _LIMITS, where=str(path))
    return found


_FIELDS = {
    "max_ratio": number(0, 1).or_missing(),
    "min_channels": whole(1, 10**6).or_missing(),
    "round_to": whole(1, 10**6).or_missing(),
}
_LAYER = mapping({**_FIELDS, "exclude": flag().or_missing()}, closed=True)
_LIMITS = mapping(
    {
        **_FIELDS,
        "layers": named(_LAYER).or_null().or_missing(),
        "exclude": listed(Field((str, int), "a layer or a pattern")).or_null().or_missing(),
    },
    closed=True,
)


def _patterns(layer: str, indices: Collection[int]) -> list[str]:
    """Turn 5, 10-20 or a name pattern into patterns of layer names; a range takes what can go."""
    if not layer[:1].isdecimal():
        return [layer]
    return [f"module_list.{index}.*" for index in cutting.layer_indices([layer], indices)]


def _known(args: argparse.Namespace, subject: Session) -> Known | None:
    """Read --sensitivity.

    Raises:
        PruneError: no such file, one of another network, or one together with --depth.
    """
    if args.sensitivity is None:
        return None
    if args.depth != "0":
        raise PlanError("a sensitivity file is of the whole network; it goes without --depth")
    from prune.pruner.sensitivity import curves

    return curves.known(args.sensitivity, subject)


def _settle_criterion(args: argparse.Namespace, known: Known | None) -> None:
    """Fill in the criterion where nobody named one: what was measured, else what data allows.

    Raises:
        PlanError: what was measured needs pictures, and there is no data.
    """
    from prune.core.importance.criteria import FROM_PICTURES

    if args.criterion is None:
        allowed = "l1" if args.data is None else "fisher"
        args.criterion = known.criterion if known else allowed
        if known and args.data is None and known.criterion in FROM_PICTURES:
            raise PlanError(
                f"{args.sensitivity} was measured with {known.criterion}, which needs pictures; "
                "give --data, or another --criterion"
            )
    if known and (known.criterion, known.scope) != (args.criterion, args.scope):
        streams.log(
            f"prune: note: drops were measured with {known.criterion} by {known.scope}, "
            f"channels go by {args.criterion} by {args.scope}"
        )


def _deep(
    args: argparse.Namespace,
    subject: Session,
    free: Callable[[Block], bool],
    narrow: timing.Narrow,
    before: Selected | None,
) -> Selected:
    """Meet the budget by width, after as many of the free blocks have left as --depth says.

    `before` is an earlier choice whose blocks leave this time, too.
    """
    if args.depth == "0":
        return narrow(subject)
    from prune.cli.depth import pictures_of
    from prune.pruner import block_importance, depth, width_and_depth

    imgsz = options.size(args, subject.checkpoint.imgsz)
    found = [block for block in depth.blocks(subject.net, imgsz=imgsz) if free(block)]
    if before is not None:
        return width_and_depth.with_same_blocks(subject, found, before.plan, narrow)
    if args.data is None:  # noise ranks blocks worse than their weights do
        judge = width_and_depth.DepthChoice(
            block_importance.noise(subject.net, seed=args.seed), criterion="l1"
        )
    else:
        judge = width_and_depth.DepthChoice(pictures_of(args, subject, images=16, imgsz=imgsz))
    if args.depth != "auto":
        number = int(args.depth)
        return width_and_depth.with_blocks(
            subject, found, narrow, judge=judge, number=number
        ).chosen
    judge = replace(judge, recovered=recovering.trial(args, subject))
    trials = width_and_depth.automatic(subject, found, narrow, judge=judge)
    if args.data is None:
        streams.log("prune: note: without --data the number of blocks goes by noise")
    then = ", then recovery" if judge.recovered else ""
    for trial in sorted(trials, key=lambda trial: trial.blocks):
        streams.log(
            f"prune: note: {trial.blocks} blocks removed{then}: head maps move by "
            f"{trial.change:.3f}"
        )
    return trials[0].chosen


def _is_free(
    block: Block, *, everywhere: Constraints, layers: Mapping[str, Mapping[str, object]]
) -> bool:
    """Say whether nothing of a block is excluded."""
    from prune.core.select.constraints import wish_of

    names = (f"module_list.{layer}.Conv2d" for layer in block.layers)
    return not any(wish_of([name], everywhere, layers).exclude for name in names)


def _tell(chosen: Selected, *, heads: Collection[str]) -> None:
    """List what stayed whole, a line a reason (heads go without saying), and every cliff."""
    by_reason: dict[str, list[str]] = {}
    for root, reason in chosen.whole:
        if root not in heads:
            by_reason.setdefault(reason, []).append(root)
    for reason, roots in by_reason.items():
        verb = "stays" if len(roots) == 1 else "stay"
        groups = f"group{'s' * (len(roots) > 1)} {cutting.member_text(roots)} {verb} whole"
        streams.log(f"prune: note: {groups}: {reason}")
    for cliff in chosen.cliffs:
        streams.log(
            f"prune: warning: the last of this budget takes {cutting.short_name(cliff.root)} from "
            f"{cliff.eased} to {cliff.kept} of {cliff.channels} channels, where its measured drop "
            f"rises from {cliff.drop_eased:.3f} to {cliff.drop:.3f}; an easier budget, or a "
            f"max_ratio for it in --limits, spares it"
        )
