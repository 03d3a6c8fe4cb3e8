"""Plan a cut of a whole checkpoint to a budget, at once or in steps that score anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prune.common.size import Sides, Size
from prune.core.cost.cost_model import Costs, costs
from prune.core.cut import apply_plan
from prune.core.importance.criteria import CRITERIA
from prune.core.plan import joined
from prune.core.select.allocation import Budget, Evaluation
from prune.core.select.constraints import Constraints, Limit, limits
from prune.core.select.selection import Selected, by_budget
from prune.core.trace.groups import structures
from prune.errors import PlanError
from prune.models.groups import detector_groups
from prune.pruner.importance import Scores
from prune.pruner.session import Session

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class BudgetOptions:
    """How to choose what goes.

    Attributes:
        allocation: a key of `budget.ALLOCATIONS`.
        criterion: what the scores are of, for the plan to say.
        everywhere: limits of every group.
        layers: limits that differ, by a pattern of layer names.
        steps: how often to cut, scoring anew in between.
        curves: measured drops of each group, for allocation sensitivity and the look for cliffs.
        baseline: what the drops are of.
    """

    allocation: str = "uniform"
    criterion: str = "l1"
    everywhere: Constraints = field(default_factory=Constraints)
    layers: Mapping[str, Mapping[str, object]] | None = None
    steps: int = 1
    curves: Sequence[Curve] = ()
    baseline: float = 0.0


def allocation_for(criterion: str) -> str:
    """Choose an allocation where nobody names one.

    Scores read off the loss are of one unit in all groups and add up, so that each can be weighed
    against what it saves; others share the cut evenly.
    """
    return "per-cost" if CRITERIA[criterion].reads in ("change", "gate") else "uniform"


def to_budget(
    subject: Session,
    score: Callable[[Session], Scores],
    budget: Budget,
    wishes: BudgetOptions,
    *,
    imgsz: Sides,
) -> Selected:
    """Choose channels until the subject's network is within a budget.

    Args:
        subject: the checkpoint.
        score: scores the channels of a subject; called once a step.
        budget: what the network may cost for one picture.
        wishes: how to choose.
        imgsz: of the image: the side of a square, or height and width, in pixels.

    Raises:
        PlanError: a wish out of range, or a budget that is met already or cannot be met.
    """
    if wishes.steps < 1:
        raise PlanError(f"steps is {wishes.steps}; it must be at least 1")
    if wishes.steps > 1 and wishes.curves:
        raise PlanError("a sensitivity file is of the whole network; it cannot be cut in steps")
    if wishes.curves and subject.called:
        raise PlanError("a sensitivity file is of the whole network; it cannot lose blocks first")
    shape = Size.of(imgsz).batch()
    allowed = limits(subject.groups, wishes.everywhere, wishes.layers, called=subject.called)
    now, chosen = subject, None
    of = costs(now.net, now.groups, shape)
    start = _cost(of, budget.kind)
    for step in range(1, wishes.steps + 1):
        target = round(start + (budget.limit - start) * step / wishes.steps)
        if _cost(of, budget.kind) <= target and (chosen or step < wishes.steps):
            continue  # the step before went further than it had to
        found = _evaluation(now, score(now), of, budget, wishes)
        picked = by_budget(
            now.groups,
            found,
            allowed,
            budget=replace(budget, limit=target),
            allocation=wishes.allocation,
            criterion=wishes.criterion,
        )
        plan = joined(subject.groups, chosen.plan, picked.plan) if chosen else picked.plan
        chosen = replace(picked, plan=plan)
        if step < wishes.steps:
            now, allowed = _after(now, picked, allowed)
            of = costs(now.net, now.groups, shape)
    assert chosen is not None, "there is at least one step"
    cut = {cut.layer for cut in chosen.plan.cuts}
    return replace(chosen, whole=tuple(pair for pair in chosen.whole if pair[0] not in cut))


def _evaluation(
    subject: Session, scores: Scores, of: Costs, budget: Budget, wishes: BudgetOptions
) -> Evaluation:
    return Evaluation(
        scores=scores,
        costs=of,
        kind=budget.kind,
        alike=structures(subject.net, subject.groups),
        curves=wishes.curves,
        baseline=wishes.baseline,
    )


def _after(
    subject: Session, picked: Selected, allowed: Sequence[Limit]
) -> tuple[Session, tuple[Limit, ...]]:
    """Cut the subject's network; say what may still be taken off each group."""
    net = apply_plan(subject.net, subject.groups, picked.plan, share=True)
    groups = detector_groups(net)
    assert [g.root for g in groups] == [g.root for g in subject.groups], "a cut keeps every group"
    left = (
        replace(limit, most=limit.most - before.channels + after.channels)
        for limit, before, after in zip(allowed, subject.groups, groups, strict=True)
    )
    return replace(subject, net=net, groups=groups), tuple(left)


def _cost(of: Costs, kind: str) -> int:
    return int(getattr(of.of(of.full), kind))
