"""Prune while training: a little is cut every few epochs, and what is left trains on.

Every cut goes the way of `prune global`: scored on the running average, carried out, proved equal
to the masked original, told of in the history. Then weights, average and momentum of the run lose
the same channels, so that it goes on as if it had always been that narrow.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from prune import checkpoint
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
IMAGES = 64  # that a criterion looks at, as many as `prune global` does


@dataclass(frozen=True)
class GradualPruning:
    """When to cut, and to what.

    Attributes:
        kind: "macs" or "params".
        start: what the network costs before the first cut.
        goal: what it may cost after the last.
        every: epochs between two cuts.
        until: epochs after which the last has to be made.
        criterion: a key of CRITERIA.

    Raises:
        InputError: numbers that leave nothing to cut or no epoch for it.
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
                f"prune every {self.every} until {self.until}: no cut comes of it; "
                "both count epochs, e.g. every 2 until 20"
            )

    @property
    def done(self) -> int:
        """Epochs after which the last cut is made."""
        return self.until // self.every * self.every

    def limit(self, epoch: int) -> int | None:
        """Return what the network may cost from an epoch on, counted from 0; None for no cut."""
        number, rest = divmod(epoch, self.every)
        last = self.until // self.every
        if rest or not 1 <= number <= last:
            return None
        return round(self.start + (self.goal - self.start) * number / last)


def cost_before_pruning(
    net: Darknet, history: Sequence[Mapping[str, object]], *, kind: str, imgsz: Size
) -> int:
    """Return what a network cost before the first of the cuts that end its history."""
    cost = count(net, imgsz.batch()).total(kind)
    for entry in reversed(history):
        change = entry.get(kind)
        before = change.get("before") if isinstance(change, dict) else None
        if entry.get("command") != MADE_BY or type(before) is not int:
            break
        cost = before
    return cost


def expect_reachable(net: Darknet, wish: GradualPruning, *, imgsz: Size) -> None:
    """Check before the first epoch what would come out at the last cut.

    Frozen layers keep their outputs.

    Raises:
        InputError: with one channel left in every group, the network costs more than the goal.
    """
    groups = detector_groups(net)
    allowed = limits(groups, Constraints(), _exclude_frozen(net, groups))
    costs = cost_model(net, groups, imgsz.batch())
    kept = costs.full - np.array([limit.most for limit in allowed])
    least = costs.total(wish.kind, kept)
    if least > wish.goal:
        raise InputError(
            f"--prune-to cannot be met: {wish.goal:,} {wish.kind} are asked for, "
            f"and {least:,} are the least that a cut can leave"
        )


def _exclude_frozen(net: Darknet, groups: Sequence[Group]) -> dict[str, dict[str, object]]:
    """Exclude the outputs of layers that do not train: they are to stay as they are."""
    makers = {name for group in groups if not group.kept for name in group.producers}
    still = [n for n in sorted(makers) if not any(_trains(net.get_submodule(n)))]
    return {name: {"exclude": True} for name in still}


def _trains(layer: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in layer.parameters()]


def prune_if_due(
    run: Run,
    origin: Origin,
    epoch: int,
    *,
    wish: GradualPruning,
    data: DataSpec,
    say: Callable[[str], None],
) -> tuple[Run, Origin]:
    """Cut a run's network before an epoch if that is due; see `loop.Narrow`.

    Raises:
        PlanError: the budget cannot be met.
        VerificationError: the cut network is not the masked one.
    """
    limit = wish.limit(epoch)
    if limit is None:
        return run, origin
    subject = _open_average(run, origin)
    choose = partial(_select, subject, Budget(wish.kind, limit), run=run, wish=wish, data=data)
    own = run.team.all_make(choose)
    # All have looked, so that nobody waits long for another; the first one's sums settle it.
    chosen = run.team.first(lambda: own)
    if chosen is None:
        return run, origin
    seed = run.settings.seed
    pruned = session.cut_session(subject, chosen.plan, made_by=MADE_BY)
    result = session.as_checkpoint(subject, pruned, seed=seed)
    session.verify(subject, pruned, result, seed=seed)
    before, after = (cost.total(wish.kind) for cost in (pruned.before, pruned.after))
    say(f"cut before epoch {epoch + 1}: {wish.kind} {before:,} -> {after:,}, proved")

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
    subject: Session, budget: Budget, *, run: Run, wish: GradualPruning, data: DataSpec
) -> Selected | None:
    """Choose what goes; nothing, if an earlier cut went far enough."""
    wishes = budgeted.BudgetOptions(
        allocation=budgeted.allocation_for(CRITERIA[wish.criterion]),
        criterion=wish.criterion,
        layers=_exclude_frozen(run.net, subject.groups),
    )
    score = partial(_measure_importance, run=run, wish=wish, data=data)
    try:
        return budgeted.to_budget(subject, score, budget, wishes, imgsz=run.settings.imgsz)
    except WithinBudgetError:
        return None


def _measure_importance(
    subject: Session, *, run: Run, wish: GradualPruning, data: DataSpec
) -> importance.Importance:
    """Score channels where the run is, on as many pictures as `prune global` takes."""
    criterion, evidence = CRITERIA[wish.criterion], None
    if criterion.needs_images:
        pictures = importance.TrainImages(data, IMAGES, run.settings.imgsz)
        evidence = importance.gather_statistics(
            run.averaged, pictures, criterion.reads, seed=run.settings.seed
        )
    return group_importance.channel_importance(
        subject.net,
        subject.groups,
        criterion=wish.criterion,
        scope="group",
        seed=run.settings.seed,
        statistics=evidence,
    )
