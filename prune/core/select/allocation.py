"""Meet a budget: importance, costs and limits -> how many channels of each group to prune.

An allocation puts a price on every removal of every group: how bad it is to prune one more channel
of it. Channels are then removed from the cheapest removal on until the network is within its
budget, and the dearest are given back where the budget still holds. This is the same for all
allocations, so that limits and rounding hold in each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prune.core.cost.cost_model import CostModel
from prune.core.select.constraints import Counts, Limit, give_back, rounded
from prune.errors import PlanError, WithinBudgetError

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """What the network may cost: at most `limit` of `metric`, "macs" or "params"."""

    metric: str
    limit: int


@dataclass(frozen=True)
class Evaluation:
    """What an allocation may look at: one entry per group in each.

    Attributes:
        importance: of the channels, [channels]; None where a group may not be cut.
        costs: of the network.
        metric: what is to be saved, "macs" or "params".
        alike: a name per group; groups of one structure have the same.
        curves: measured drops, pairs of (fraction removed, drop); () where unknown.
        baseline: the metric that drops, with nothing cut.
    """

    importance: Sequence[Tensor | None]
    costs: CostModel
    metric: str
    alike: Sequence[str]
    curves: Sequence[Sequence[tuple[float, float]]] = ()
    baseline: float = 0.0


Allocation = Callable[[Evaluation], "list[Numbers | None]"]
"""Returns for each group the price of its first, second, ... removal, [channels], never falling;
None where the group may not be cut."""


def uniform(found: Evaluation) -> list[Numbers | None]:
    """Prune the same fraction of every group."""
    return [None if s is None else np.arange(1, len(s) + 1) / len(s) for s in found.importance]


def ranked(found: Evaluation) -> list[Numbers | None]:
    """Compare the importance of all channels of all groups."""
    return [None if s is None else _sorted(s) for s in found.importance]


def per_cost(found: Evaluation) -> list[Numbers | None]:
    """Compare the importance of all channels of all groups by what they save."""
    saved = found.costs.saved(found.costs.full, metric=found.metric)
    return [
        None if s is None else _sorted(s) / max(gain, 1e-12)
        for s, gain in zip(found.importance, saved, strict=True)
    ]


def isomorphic(found: Evaluation) -> list[Numbers | None]:
    """Compare channels among groups of one structure (Fang et al. 2024, arXiv:2407.04616).

    The price is the fraction of the class that is no more important: all classes lose alike.
    """
    pools: dict[str, list[Numbers]] = defaultdict(list)
    for name, own in zip(found.alike, found.importance, strict=True):
        if own is not None:
            pools[name].append(_sorted(own))
    pooled = {name: np.sort(np.concatenate(parts)) for name, parts in pools.items()}

    def rank(name: str, own: Tensor) -> Numbers:
        pool = pooled[name]
        places: Numbers = np.searchsorted(pool, _sorted(own), "right") / len(pool)
        return places

    pairs = zip(found.alike, found.importance, strict=True)
    return [None if own is None else rank(name, own) for name, own in pairs]


def by_sensitivity(found: Evaluation) -> list[Numbers | None]:
    """Price a removal by the measured drop it adds, per what it saves.

    Between measured fractions the slope of the drop changes linearly; it never falls, since a curve
    that dips is noise. Groups that were not measured take the dearest slope of all.
    """
    if len(found.curves) != len(found.importance):
        raise PlanError("allocation sensitivity needs measured drops; see prune sensitivity")
    saved = found.costs.saved(found.costs.full, metric=found.metric)
    prices: list[Numbers | None] = []
    for own, curve, gain in zip(found.importance, found.curves, saved, strict=True):
        if own is None or not any(fraction for fraction, _ in curve):
            prices.append(None)
            continue
        slopes = _slopes(curve, len(own))
        prices.append(slopes / len(own) / max(gain, 1e-12))
    dearest = max((float(p[-1]) for p in prices if p is not None), default=1.0)
    return [
        np.full(len(s), dearest) if p is None and s is not None else p
        for p, s in zip(prices, found.importance, strict=True)
    ]


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": uniform,
    "global": ranked,
    "per-cost": per_cost,
    "isomorphic": isomorphic,
    "sensitivity": by_sensitivity,
}


def meet(
    prices: Sequence[Numbers | None], costs: CostModel, budget: Budget, limits: Sequence[Limit]
) -> Counts:
    """Return how many channels of each group to prune, so that the network is within its budget.

    Args:
        prices: one entry per group, see Allocation.
        costs: of the network.
        budget: what the network may cost.
        limits: one per group.

    Returns:
        [G]; the rest costs at most the budget, and no channel could be given back within it.

    Raises:
        WithinBudgetError: the network is within the budget as it is.
        PlanError: it cannot come within it.
    """

    def cost(removed: Counts) -> int:
        return costs.total(budget.metric, costs.full - removed)

    def at(price: float) -> Counts:
        return np.array(
            [
                rounded(len(p), int(np.searchsorted(p, price, "right")), limit)
                if p is not None
                else 0
                for p, limit in zip(prices, limits, strict=True)
            ],
            dtype=np.int64,
        )

    nothing = np.zeros(len(prices), dtype=np.int64)
    if cost(nothing) <= budget.limit:
        raise WithinBudgetError(
            f"nothing to remove: the network has {cost(nothing):,} {budget.metric}, "
            f"within the budget of {budget.limit:,}"
        )
    ladder = np.unique(np.concatenate([p for p in prices if p is not None] or [np.zeros(0)]))
    if not len(ladder) or cost(at(float(ladder[-1]))) > budget.limit:
        least = cost(at(float(ladder[-1]))) if len(ladder) else cost(nothing)
        raise PlanError(
            f"the budget of {budget.limit:,} {budget.metric} cannot be met: within the limits "
            f"{least:,} is the least; allow more "
            "(--max-ratio, --min-channels, --round-to, --exclude)"
        )
    low, high = -1, len(ladder) - 1  # ladder[high] meets the budget, ladder[low] does not
    while high - low > 1:
        middle = (low + high) // 2
        if cost(at(float(ladder[middle]))) <= budget.limit:
            high = middle
        else:
            low = middle

    def price_of(group: int, count: int) -> float:
        own = prices[group]
        assert own is not None, "only priced groups are cut"
        return float(own[count - 1])

    return give_back(
        at(float(ladder[high])), limits, price_of, lambda removed: cost(removed) <= budget.limit
    )


def _sorted(importance: Tensor) -> Numbers:
    result: Numbers = torch.sort(importance.double()).values.numpy()
    return result


def _slopes(curve: Sequence[tuple[float, float]], channels: int) -> Numbers:
    """Turn measured drops into the slope of the drop at each removal, [channels]."""
    points = sorted({**dict(curve), 0.0: 0.0}.items())
    fraction = np.array([p[0] for p in points])
    drop = np.maximum.accumulate(np.array([max(p[1], 0.0) for p in points]))
    slope = np.diff(drop) / np.diff(fraction)
    middle = (fraction[1:] + fraction[:-1]) / 2
    at = (np.arange(channels) + 0.5) / channels
    inside = np.interp(at, middle, slope)
    beyond = at > middle[-1]  # the last measured slope goes on rising as it did
    if len(slope) > 1:
        rise = max((slope[-1] - slope[-2]) / (middle[-1] - middle[-2]), 0.0)
        inside[beyond] += rise * (at[beyond] - middle[-1])
    result: Numbers = np.maximum.accumulate(inside)
    return result
