"""Prune the whole network to a budget, of MACs or parameters: widths, and blocks if requested."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from prune.common.amounts import read_amount
from prune.common.layer_ranges import members, short_name
from prune.common.notes import Report
from prune.common.size import Size
from prune.core.cost.macs import count
from prune.core.importance.own_criteria import CriterionLike, find
from prune.core.select.allocation import Budget
from prune.core.select.constraints import Constraints, constraints_of, limits
from prune.core.select.selection import Selected
from prune.errors import PlanError
from prune.pruner import block_importance, budget, depth, width_and_depth
from prune.pruner.budget import BudgetOptions
from prune.pruner.config import ImportanceConfig
from prune.pruner.depth import Block
from prune.pruner.importance import measure
from prune.pruner.limits import Layers, read_limits
from prune.pruner.sensitivity import curves
from prune.pruner.sensitivity.curves import Known
from prune.pruner.session import Choice, Session, convolutions
from prune.pruner.width_and_depth import DepthChoice, Narrow

_COMPARED_IMAGES = 16  # that blocks, and numbers of blocks, are compared on


@dataclass(frozen=True)
class BudgetConfig(ImportanceConfig):
    """The options of `prune global` for any kind of budget.

    Attributes:
        depth: number of residual blocks to remove as well; "auto" tries numbers of blocks, with
            recovery where that is requested, and takes the best.
        max_ratio: maximum fraction of a group's channels to prune; None for the config's own.
        min_channels: channels that every group keeps at least; None for 1.
        round_to: keep a multiple of this many channels.
        exclude: layers that are protected: indices, ranges such as "10-20", or patterns of names.
        limits: a file with the same constraints, and others per layer, YAML.
        img_size: size of the image that is counted or timed; None for the checkpoint's.
    """

    command: ClassVar[str] = "global"

    out: Path = Path("model_data/global_pruning.pt")
    criterion: CriterionLike | None = None
    scope: str = "group"
    depth: int | str = 0
    max_ratio: float | None = None
    min_channels: int | None = None
    round_to: int = 1
    exclude: tuple[str | int, ...] = ()
    limits: Path | None = None
    img_size: Size | None = None

    def size_for(self, session: Session) -> Size:
        """Return the size of the image that is counted or timed."""
        return self.img_size or session.checkpoint.imgsz

    def constraints(self, session: Session, *, max_ratio: float) -> tuple[Constraints, Layers]:
        """Read what may be pruned of each layer; `max_ratio` holds where nothing sets another.

        Raises:
            PruneError: --limits cannot be used, or a pattern names no layer.
        """
        round_to = self.round_to if self.round_to != 1 else None
        options = {
            "max_ratio": self.max_ratio,
            "min_channels": self.min_channels,
            "round_to": round_to,
        }
        everywhere, layers = read_limits(
            self.limits,
            {name: value for name, value in options.items() if value is not None},
            exclude=[str(name) for name in self.exclude],
            max_ratio=max_ratio,
            convolutions=convolutions(session.net),
        )
        limits(session.groups, everywhere, layers)  # every pattern names a layer, blocks included
        return everywhere, layers

    def narrow_and_shorten(
        self,
        session: Session,
        narrow: Narrow,
        constraints: tuple[Constraints, Layers],
        report: Report,
        *,
        before: Selected | None = None,
    ) -> Selected:
        """Meet a budget by width, after as many blocks as `depth` says were removed.

        Args:
            session: the checkpoint.
            narrow: meets the budget by width.
            constraints: see `constraints`; blocks with an excluded layer are protected.
            report: receives what each number of blocks came to.
            before: an earlier choice whose blocks are removed this time, too.
        """
        if str(self.depth) == "0":
            return narrow(session)
        imgsz = self.size_for(session)
        blocks = depth.blocks(session.net, imgsz=imgsz)
        found = [block for block in blocks if not _is_excluded(block, *constraints)]
        if before is not None:
            return width_and_depth.with_same_blocks(session, found, before.plan, narrow)
        if self.data is None:  # noise ranks blocks worse than their weights do
            noise = block_importance.noise(session.net, seed=self.seed)
            comparison = DepthChoice(noise, criterion="l1")
        else:
            comparison = DepthChoice(
                block_importance.training_images(
                    self.data,
                    session.net,
                    images=_COMPARED_IMAGES,
                    imgsz=imgsz,
                    device_name=self.device,
                )
            )
        if self.depth != "auto":
            return width_and_depth.with_blocks(
                session, found, narrow, comparison=comparison, number=int(self.depth)
            ).chosen
        if self.recovers:
            from prune.pruner import recovery  # here: it imports all that evaluates images

            comparison = replace(comparison, recovered=recovery.trial(self, session))
        trials = width_and_depth.automatic(session, found, narrow, comparison=comparison)
        if self.data is None:
            report("note: without --data the number of blocks is chosen by noise")
        then = ", then recovery" if comparison.recovered else ""
        for trial in sorted(trials, key=lambda trial: trial.blocks):
            report(
                f"note: {trial.blocks} blocks removed{then}: head maps move by {trial.change:.3f}"
            )
        return trials[0].chosen


@dataclass(frozen=True)
class GlobalConfig(BudgetConfig):
    """`prune global --macs` and `--params`. Exactly one of both is given.

    Attributes:
        macs: MACs per image that may be left: a fraction of the original's, or a number, "30G".
        params: parameters that may be left, likewise.
        allocation: a key of `allocation.ALLOCATIONS`: how groups share the cut; None takes
            sensitivity with `sensitivity`, per-cost with taylor and fisher, else uniform.
        sensitivity: measured drops, a file of `prune sensitivity`.
        steps: how often to cut; the importance is computed anew for each step.
    """

    macs: float | str | None = None
    params: float | str | None = None
    allocation: str | None = None
    sensitivity: Path | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        if (self.macs is None) == (self.params is None):
            raise PlanError("give exactly one of macs and params, e.g. macs=0.5")
        if self.sensitivity is not None and str(self.depth) != "0":
            raise PlanError("a sensitivity file is of the whole network; it goes without --depth")

    def choose(self, session: Session, report: Report) -> Choice:
        """See `PruneConfig`."""
        imgsz = self.size_for(session)
        kind, value = ("macs", self.macs) if self.macs is not None else ("params", self.params)
        total = count(session.net, imgsz.batch()).total(kind)
        amount = read_amount(value or 0, option=f"--{kind}")
        limit = Budget(kind, int(amount if amount > 1 else amount * total))
        # What the budget takes, and a tenth.
        max_ratio = min(max(1.1 - limit.limit / total, 0.0), 1.0)
        everywhere, layers = self.constraints(session, max_ratio=max_ratio)
        known = curves.known(self.sensitivity, session) if self.sensitivity else None
        requested = self._criterion(known, report)
        name, criterion = find(requested)
        usual = "sensitivity" if known else budget.allocation_for(criterion)
        options = BudgetOptions(
            allocation=self.allocation or usual,
            criterion=name,
            everywhere=everywhere,
            layers=layers,
            steps=self.steps,
            curves=known.curves if known else (),
            baseline=known.baseline if known else 0.0,
        )
        importance = partial(measure, self, criterion=requested)

        def narrow(now: Session) -> Selected:
            return budget.to_budget(now, importance, limit, options, imgsz=imgsz)

        chosen = self.narrow_and_shorten(session, narrow, (everywhere, layers), report)
        report_protected(chosen, session.net.head_convolutions(), report)
        return Choice(chosen.plan)

    def _criterion(self, known: Known | None, report: Report) -> CriterionLike:
        """Return the criterion: the requested one, else that of the drops, else what data allows.

        Raises:
            PlanError: the drops were measured with a criterion that needs images; no data is given.
        """
        criterion = self.criterion or (known.criterion if known else usual_criterion(self))
        if known is None:
            return criterion
        name, found = find(criterion)
        if self.criterion is None and self.data is None and found.needs_images:
            raise PlanError(
                f"{self.sensitivity} was measured with {name}, which needs images; "
                "give --data, or another --criterion"
            )
        if (known.criterion, known.scope) != (name, self.scope):
            report(
                f"note: drops were measured with {known.criterion} and scope {known.scope}, but "
                f"channels are chosen by {name} and scope {self.scope}"
            )
        return criterion


def usual_criterion(config: ImportanceConfig) -> str:
    """Return the criterion where none is requested: the best one without and with images."""
    return "l1" if config.data is None else "fisher"


def report_protected(chosen: Selected, heads: Collection[str], report: Report) -> None:
    """Report the groups that keep all channels, one line per reason, and every cliff.

    Groups of `heads` are always protected and not reported.
    """
    by_reason: dict[str, list[str]] = {}
    for root, reason in chosen.untouched:
        if root not in heads:
            by_reason.setdefault(reason, []).append(root)
    for reason, roots in by_reason.items():
        several = len(roots) > 1
        report(
            f"note: group{'s' * several} {members(roots)} {'are' if several else 'is'} not "
            f"pruned: {reason}"
        )
    for cliff in chosen.cliffs:
        report(
            f"warning: the last part of this budget takes {short_name(cliff.root)} from "
            f"{cliff.eased} to {cliff.kept} of {cliff.channels} channels, where its measured drop "
            f"rises from {cliff.drop_eased:.3f} to {cliff.drop:.3f}; request a milder budget, or "
            f"set a max_ratio for it in --limits"
        )


def _is_excluded(block: Block, everywhere: Constraints, layers: Layers) -> bool:
    names = (f"module_list.{layer}.Conv2d" for layer in block.layers)
    return any(constraints_of([name], everywhere, layers).exclude for name in names)
