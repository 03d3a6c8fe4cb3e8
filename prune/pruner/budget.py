"""Plan a cut of a whole checkpoint to a budget, at once or in steps with new importance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prune.common.size import Sides, Size
from prune.core.cost.cost_model import cost_model
from prune.core.cut import apply_plan
from prune.core.importance.criteria import Criterion
from prune.core.plan import joined
from prune.core.select.allocation import Budget, Evaluation
from prune.core.select.constraints import Constraints, Limit, limits
from prune.core.select.selection import Selected, by_budget
from prune.core.trace.groups import structures
from prune.errors import PlanError
from prune.models.groups import detector_groups
from prune.pruner.importance import Importance
from prune.pruner.session import Session

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class BudgetOptions:
    """How to choose what is removed.

    Attributes:
        allocation: a key of `allocation.ALLOCATIONS`.
        criterion: name of the criterion, for the plan.
        everywhere: constraints of every group.
        layers: constraints that differ, by a pattern of layer names.
        steps: how often to cut; the importance is computed anew for each step.
        curves: measured drops of each group, for allocation sensitivity and to find cliffs.
        baseline: the metric that drops, with nothing cut.
    """

    allocation: str = "uniform"
    criterion: str = "l1"
    everywhere: Constraints = field(default_factory=Constraints)
    layers: Mapping[str, Mapping[str, object]] | None = None
    steps: int = 1
    curves: Sequence[Curve] = ()
    baseline: float = 0.0


def allocation_for(criterion: Criterion) -> str:
    """Choose an allocation where none is requested.

    Importance that is measured by the loss has one unit in all groups and adds up, so that it can
    be compared with what a channel saves; with others every group loses the same fraction.
    """
    return "per-cost" if criterion.reads in ("change", "gate") else "uniform"


def to_budget(
    session: Session,
    importance: Callable[[Session], Importance],
    budget: Budget,
    options: BudgetOptions,
    *,
    imgsz: Sides,
) -> Selected:
    """Choose channels until the network of a session is within a budget.

    Args:
        session: the checkpoint.
        importance: computes the importance of the channels of a session; called once per step.
        budget: what the network may cost per image.
        options: how to choose.
        imgsz: of the image: the side of a square, or height and width, in pixels.

    Raises:
        PlanError: an option out of range, or a budget that is met already or cannot be met.
    """
    if options.steps < 1:
        raise PlanError(f"steps is {options.steps}; it must be at least 1")
    if options.steps > 1 and options.curves:
        raise PlanError("a sensitivity file is of the whole network; it cannot be cut in steps")
    if options.curves and session.called:
        raise PlanError("a sensitivity file is of the whole network; it cannot lose blocks first")
    shape = Size.of(imgsz).batch()
    allowed = limits(session.groups, options.everywhere, options.layers, called=session.called)
    now, chosen = session, None
    costs = cost_model(now.net, now.groups, shape)
    start = costs.total(budget.metric)
    for step in range(1, options.steps + 1):
        target = round(start + (budget.limit - start) * step / options.steps)
        if costs.total(budget.metric) <= target and (chosen or step < options.steps):
            continue  # the step before removed more than it had to
        found = Evaluation(
            importance=importance(now),
            costs=costs,
            metric=budget.metric,
            alike=structures(now.net, now.groups),
            curves=options.curves,
            baseline=options.baseline,
        )
        picked = by_budget(
            now.groups,
            found,
            allowed,
            budget=replace(budget, limit=target),
            allocation=options.allocation,
            criterion=options.criterion,
        )
        plan = joined(session.groups, chosen.plan, picked.plan) if chosen else picked.plan
        chosen = replace(picked, plan=plan)
        if step < options.steps:
            now, allowed = _after(now, picked, allowed)
            costs = cost_model(now.net, now.groups, shape)
    assert chosen is not None, "there is at least one step"
    cut = {cut.layer for cut in chosen.plan.cuts}
    return replace(chosen, untouched=tuple(pair for pair in chosen.untouched if pair[0] not in cut))


def _after(
    session: Session, picked: Selected, allowed: Sequence[Limit]
) -> tuple[Session, tuple[Limit, ...]]:
    """Cut the network of a session; return what may still be pruned of each group."""
    net = apply_plan(session.net, session.groups, picked.plan, share=True)
    groups = detector_groups(net)
    assert [g.root for g in groups] == [g.root for g in session.groups], "a cut keeps every group"
    left = (
        replace(limit, most=limit.most - before.channels + after.channels)
        for limit, before, after in zip(allowed, session.groups, groups, strict=True)
    )
    return replace(session, net=net, groups=groups), tuple(left)
