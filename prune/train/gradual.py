"""Prune while training: some channels are cut every few epochs, and the rest trains on.

Every cut is made as `prune global` makes it: importance is measured on the running average, and the
pruned network is verified against the masked one and recorded in the history. Then weights, average
and momentum of the run lose the same channels.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from prune import checkpoint
from prune.common.notes import Report
from prune.common.size import Size
from prune.core.cost.cost_model import cost_model
from prune.core.cost.macs import count
from prune.core.cut import apply_plan
from prune.core.importance import group_importance
from prune.core.importance.criteria import CRITERIA
from prune.core.select.allocation import Budget
from prune.core.select.constraints import Constraints, limits
from prune.core.select.selection import Selected
from prune.core.trace.groups import Group
from prune.data.spec import DataSpec
from prune.errors import InputError, WithinBudgetError
from prune.models.darknet import Darknet
from prune.models.groups import detector_groups
from prune.pruner import budget as budgeted
from prune.pruner import importance, session
from prune.pruner.session import Session
from prune.train.checkpointing import Origin
from prune.train.run import Run, rebuild

MADE_BY = "train --prune-to"
IMAGES = 64  # that importance is measured on, as in `prune global`


@dataclass(frozen=True)
class GradualPruning:
    """When to cut, and to what.

    Attributes:
        kind: "macs" or "params".
        start: cost of the network before the first cut, in MACs or parameters.
        goal: cost that it may have after the last cut.
        every: epochs between two cuts.
        until: epochs after which the last cut must be made.
        criterion: a key of CRITERIA.

    Raises:
        InputError: these numbers leave nothing to cut, or no epoch for it.
    """

    kind: str
    start: int
    goal: int
    every: int = 2
    until: int = 20
    criterion: str = "fisher"

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise InputError(
                f"criterion is {self.criterion!r}; it must be one of {', '.join(CRITERIA)}"
            )
        if not 0 < self.goal < self.start:
            raise InputError(
                f"nothing to prune: the network has {self.start:,} {self.kind} "
                f"and may have {self.goal:,}"
            )
        if self.every < 1 or self.until < self.every:
            raise InputError(
                f"prune every {self.every} until {self.until} makes no cut; "
                "both count epochs, e.g. every 2 until 20"
            )

    @property
    def done(self) -> int:
        """Number of epochs after which the last cut is made."""
        return self.until // self.every * self.every

    def limit(self, epoch: int) -> int | None:
        """Return the cost that the network may have from an epoch on, counted from 0.

        Before most epochs there is no cut, and no limit.
        """
        number, rest = divmod(epoch, self.every)
        last = self.until // self.every
        if rest or not 1 <= number <= last:
            return None
        return round(self.start + (self.goal - self.start) * number / last)


def cost_before_pruning(
    net: Darknet, history: Sequence[Mapping[str, object]], *, kind: str, imgsz: Size
) -> int:
    """Return the cost that a network had before the first of the cuts that end its history."""
    cost = count(net, imgsz.batch()).total(kind)
    for entry in reversed(history):
        change = entry.get(kind)
        before = change.get("before") if isinstance(change, dict) else None
        if entry.get("command") != MADE_BY or type(before) is not int:
            break
        cost = before
    return cost


def expect_reachable(net: Darknet, pruning: GradualPruning, *, imgsz: Size) -> None:
    """Check before the first epoch that the last cut can be made; outputs of frozen layers stay.

    Raises:
        InputError: the network costs more than the goal with one channel left in every group.
    """
    groups = detector_groups(net)
    allowed = limits(groups, Constraints(), _exclude_frozen(net, groups))
    costs = cost_model(net, groups, imgsz.batch())
    kept = costs.full - np.array([limit.most for limit in allowed])
    least = costs.total(pruning.kind, kept)
    if least > pruning.goal:
        raise InputError(
            f"--prune-to cannot be met: the target is {pruning.goal:,} {pruning.kind}, "
            f"and the smallest network has {least:,}"
        )


def _exclude_frozen(net: Darknet, groups: Sequence[Group]) -> dict[str, dict[str, object]]:
    """Return limits that exclude the outputs of layers that are not trained."""
    producers = {name for group in groups if not group.protected for name in group.producers}
    return {
        name: {"exclude": True}
        for name in sorted(producers)
        if not any(parameter.requires_grad for parameter in net.get_submodule(name).parameters())
    }


def prune_if_due(
    run: Run,
    origin: Origin,
    epoch: int,
    *,
    pruning: GradualPruning,
    data: DataSpec,
    report: Report,
) -> tuple[Run, Origin]:
    """Prune a run's network before an epoch if that is due; see `loop.PruneHook`.

    Raises:
        PlanError: the budget cannot be met.
        VerificationError: the pruned network differs from the masked one.
    """
    limit = pruning.limit(epoch)
    if limit is None:
        return run, origin
    subject = _open_average(run, origin)
    choose = partial(
        _select, subject, Budget(pruning.kind, limit), run=run, pruning=pruning, data=data
    )
    own = run.team.make_on_all(choose)
    # Every process measures, so that none waits long for another; the main process decides.
    chosen = run.team.make_on_main(lambda: own)
    if chosen is None:
        return run, origin
    seed = run.settings.seed
    pruned = session.cut_session(subject, chosen.plan, made_by=MADE_BY)
    result = session.as_checkpoint(subject, pruned, seed=seed)
    session.verify(subject, pruned, result, seed=seed)
    before, after = (cost.total(pruning.kind) for cost in (pruned.before, pruned.after))
    report(f"cut before epoch {epoch + 1}: {pruning.kind} {before:,} -> {after:,}, verified")

    def cut(net: Darknet) -> Darknet:
        return apply_plan(net, subject.groups, pruned.plan)

    return rebuild(run, cut), replace(origin, history=tuple(result.history))


def _open_average(run: Run, origin: Origin) -> Session:
    """Open a run's average for pruning, as if it were read from a file."""
    shot = checkpoint.capture(
        run.averaged, names=origin.names, imgsz=run.settings.imgsz, history=origin.history
    )
    net = copy.deepcopy(run.averaged).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # an overload it misses
    groups = detector_groups(net)
    return Session(Path("the run"), shot, net, groups, digest=lambda: origin.parent or "")


def _select(
    subject: Session, budget: Budget, *, run: Run, pruning: GradualPruning, data: DataSpec
) -> Selected | None:
    """Select the channels to cut; None if the network is within the budget."""
    options = budgeted.BudgetOptions(
        allocation=budgeted.allocation_for(CRITERIA[pruning.criterion]),
        criterion=pruning.criterion,
        layers=_exclude_frozen(run.net, subject.groups),
    )
    measure = partial(_measure_importance, run=run, pruning=pruning, data=data)
    try:
        return budgeted.to_budget(subject, measure, budget, options, imgsz=run.settings.imgsz)
    except WithinBudgetError:
        return None


def _measure_importance(
    subject: Session, *, run: Run, pruning: GradualPruning, data: DataSpec
) -> importance.Importance:
    """Measure the importance of channels on the run's device."""
    criterion, statistics = CRITERIA[pruning.criterion], None
    if criterion.needs_images:
        images = importance.TrainImages(data, IMAGES, run.settings.imgsz)
        statistics = importance.gather_statistics(
            run.averaged, images, criterion.reads, seed=run.settings.seed
        )
    return group_importance.channel_importance(
        subject.net,
        subject.groups,
        criterion=pruning.criterion,
        scope="group",
        seed=run.settings.seed,
        statistics=statistics,
    )
