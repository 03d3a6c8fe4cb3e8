"""Meet a budget: scores and costs and wishes -> how many channels of each group go.

An allocation puts a price on every removal of every group: how bad it is to take one more channel
off it. Channels then leave from the cheapest removal on until the network is within its budget,
and the dearest come back where that leaves it there. One way for all allocations, so that caps
and rounding hold in each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prune.core.cost.cost_model import Costs
from prune.core.select.constraints import Limit, rounded
from prune.errors import PlanError, WithinBudgetError

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Budget:
    """What the network may cost: at most `limit` of `kind`, "macs" or "params"."""

    kind: str
    limit: int


@dataclass(frozen=True)
class Evaluation:
    """What an allocation may look at: one entry a group in each.

    Attributes:
        scores: of the channels, [channels]; None where a group may not be cut.
        costs: of the network.
        kind: what is to be saved, "macs" or "params".
        alike: groups of one structure have one name.
        curves: measured drops of a metric, (share removed, drop) pairs; () where unknown.
        baseline: what the drops are of: the metric with nothing cut.
    """

    scores: Sequence[Tensor | None]
    costs: Costs
    kind: str
    alike: Sequence[str]
    curves: Sequence[Sequence[tuple[float, float]]] = ()
    baseline: float = 0.0


# An allocation takes an evaluation and returns for each group the price of its first, second, ...
# removal, [channels], never falling; None where the group may not be cut.
Allocation = Callable[[Evaluation], "list[Numbers | None]"]


def uniform(found: Evaluation) -> list[Numbers | None]:
    """Take the same share off every group."""
    return [None if s is None else np.arange(1, len(s) + 1) / len(s) for s in found.scores]


def ranked(found: Evaluation) -> list[Numbers | None]:
    """Rank the channels of all groups together by their scores."""
    return [None if s is None else _sorted(s) for s in found.scores]


def per_cost(found: Evaluation) -> list[Numbers | None]:
    """Rank the channels of all groups together by score for what they save."""
    saved = found.costs.saved(found.costs.full, kind=found.kind)
    return [
        None if s is None else _sorted(s) / max(gain, 1e-12)
        for s, gain in zip(found.scores, saved, strict=True)
    ]


def isomorphic(found: Evaluation) -> list[Numbers | None]:
    """Rank channels among groups of like structure (Fang et al. 2024, arXiv:2407.04616).

    The price is the share of the class that scores no higher, so that all classes lose alike.
    """
    pools: dict[str, list[Numbers]] = defaultdict(list)
    for name, scores in zip(found.alike, found.scores, strict=True):
        if scores is not None:
            pools[name].append(_sorted(scores))
    pooled = {name: np.sort(np.concatenate(parts)) for name, parts in pools.items()}

    def share(name: str, scores: Tensor) -> Numbers:
        places: Numbers = np.searchsorted(pooled[name], _sorted(scores), "right") / len(
            pooled[name]
        )
        return places

    pairs = zip(found.alike, found.scores, strict=True)
    return [None if scores is None else share(name, scores) for name, scores in pairs]


def by_sensitivity(found: Evaluation) -> list[Numbers | None]:
    """Price a removal by the measured drop it adds, for what it saves.

    Between measured shares the drop's slope changes linearly; it never falls, since a curve that
    dips is noise. Groups that were not measured take the dearest slope of all.
    """
    if len(found.curves) != len(found.scores):
        raise PlanError("allocation sensitivity needs measured drops; see prune sensitivity")
    saved = found.costs.saved(found.costs.full, kind=found.kind)
    prices: list[Numbers | None] = []
    for scores, curve, gain in zip(found.scores, found.curves, saved, strict=True):
        if scores is None or not any(share for share, _ in curve):
            prices.append(None)
            continue
        slopes = _slopes(curve, len(scores))
        prices.append(slopes / len(scores) / max(gain, 1e-12))
    dearest = max((float(p[-1]) for p in prices if p is not None), default=1.0)
    return [
        np.full(len(s), dearest) if p is None and s is not None else p
        for p, s in zip(prices, found.scores, strict=True)
    ]


ALLOCATIONS: dict[str, Allocation] = {
    "uniform": uniform,
    "global": ranked,
    "per-cost": per_cost,
    "isomorphic": isomorphic,
    "sensitivity": by_sensitivity,
}


def meet(
    prices: Sequence[Numbers | None], costs: Costs, budget: Budget, limits: Sequence[Limit]
) -> Counts:
    """Say how many channels of each group go, so that the network is within its budget.

    Args:
        prices: one entry a group, see Allocation.
        costs: of the network.
        budget: what it may cost.
        limits: one a group.

    Returns:
        [G]; what is left costs at most the budget, and no channel could come back within it.

    Raises:
        WithinBudgetError: the network is within the budget as it is.
        PlanError: it cannot come within it.
    """

    def cost(removed: Counts) -> int:
        return int(getattr(costs.of(costs.full - removed), budget.kind))

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
            f"nothing to remove: the network has {cost(nothing):,} {budget.kind}, "
            f"within the budget of {budget.limit:,}"
        )
    ladder = np.unique(np.concatenate([p for p in prices if p is not None] or [np.zeros(0)]))
    if not len(ladder) or cost(at(float(ladder[-1]))) > budget.limit:
        least = cost(at(float(ladder[-1]))) if len(ladder) else cost(nothing)
        raise PlanError(
            f"the budget of {budget.limit:,} {budget.kind} cannot be met: within the caps "
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
    return _given_back(at(float(ladder[high])), prices, limits, lambda r: cost(r) <= budget.limit)


def _given_back(
    removed: Counts,
    prices: Sequence[Numbers | None],
    limits: Sequence[Limit],
    fits: Callable[[Counts], bool],
) -> Counts:
    """Give channels back, the dearest removals first, while what is left fits."""
    waiting = {
        number: float(price[removed[number] - 1])
        for number, price in enumerate(prices)
        if price is not None and removed[number]
    }
    while waiting:
        best = max(waiting, key=lambda number: waiting[number])
        price, trial = prices[best], removed.copy()
        assert price is not None, "only priced groups wait"
        trial[best] = max(trial[best] - limits[best].multiple, 0)  # whole is no odd rest
        if fits(trial):
            removed = trial
            waiting[best] = float(price[trial[best] - 1])
        if removed is not trial or not trial[best]:
            del waiting[best]
    return removed


def _sorted(scores: Tensor) -> Numbers:
    result: Numbers = torch.sort(scores.double()).values.numpy()
    return result


def _slopes(curve: Sequence[tuple[float, float]], channels: int) -> Numbers:
    """Turn measured drops into the slope of the drop at each removal, [channels]."""
    points = sorted({**dict(curve), 0.0: 0.0}.items())
    share = np.array([p[0] for p in points])
    drop = np.maximum.accumulate(np.array([max(p[1], 0.0) for p in points]))
    slope = np.diff(drop) / np.diff(share)
    middle = (share[1:] + share[:-1]) / 2
    at = (np.arange(channels) + 0.5) / channels
    inside = np.interp(at, middle, slope)
    beyond = at > middle[-1]  # the last measured slope goes on rising as it did
    if len(slope) > 1:
        rise = max((slope[-1] - slope[-2]) / (middle[-1] - middle[-2]), 0.0)
        inside[beyond] += rise * (at[beyond] - middle[-1])
    result: Numbers = np.maximum.accumulate(inside)
    return result
