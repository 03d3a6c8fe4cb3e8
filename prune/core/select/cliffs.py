"""Cliffs: what the last few per cent of a budget take where the measured drop explodes.

Nobody sees from a budget that its end is what hurts. So the same cut is laid out for a slightly
easier budget, and a group that both treat alike or that can afford the rest is no cliff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prune.core.select.allocation import Budget, Counts, Evaluation, Numbers, meet
from prune.core.select.constraints import Limit
from prune.core.trace.groups import Group

EASED = 0.05  # of the whole network's cost: how much more the easier budget allows
STEEP = 2.0  # a cliff at least doubles the drop,
HIGH = 0.05  # and adds so much of the metric itself


@dataclass(frozen=True)
class Cliff:
    """A group whose measured drop explodes over the last of a budget.

    Attributes:
        root: the group's first layer.
        channels: how many it has.
        eased: how many it keeps under the easier budget.
        kept: how many it keeps.
        drop_eased: what cutting it alone to `eased` costs, in the metric's own unit.
        drop: likewise to `kept`.
    """

    root: str
    channels: int
    eased: int
    kept: int
    drop_eased: float
    drop: float


def cliffs(
    groups: Sequence[Group],
    found: Evaluation,
    prices: Sequence[Numbers | None],
    limits: Sequence[Limit],
    *,
    budget: Budget,
    counts: Counts,
) -> tuple[Cliff, ...]:
    """Look for groups that the last EASED of the network's cost takes over a cliff.

    Args:
        groups: of a network.
        found: with measured curves and their baseline; without, no cliff is known.
        prices: see `budget.Allocation`.
        limits: one a group.
        budget: what the network may cost.
        counts: channels that go to meet it, [G].

    Returns:
        The cliffs, the highest first.
    """
    if not any(found.curves):
        return ()
    whole = int(getattr(found.costs.of(found.costs.full), budget.kind))
    easier = replace(budget, limit=budget.limit + int(EASED * whole))
    eased = np.zeros_like(counts)
    if easier.limit < whole:
        eased = meet(prices, found.costs, easier, limits)
    all_of = [
        Cliff(
            root=group.root,
            channels=group.channels,
            eased=group.channels - int(before),
            kept=group.channels - int(after),
            drop_eased=drop_at(curve, int(before) / group.channels),
            drop=drop_at(curve, int(after) / group.channels),
        )
        for group, curve, before, after in zip(groups, found.curves, eased, counts, strict=True)
        if any(share for share, _ in curve)  # of a narrow group a small share is no channel
    ]
    steep = (c for c in all_of if _is_steep(c, least=HIGH * abs(found.baseline)))
    return tuple(sorted(steep, key=lambda cliff: cliff.drop_eased - cliff.drop))


def drop_at(curve: Sequence[tuple[float, float]], share: float) -> float:
    """Read a measured drop off its curve: linear in between, and on as it last rose."""
    points = sorted({**dict(curve), 0.0: 0.0}.items())
    shares = [point[0] for point in points]
    drops = np.maximum.accumulate([max(point[1], 0.0) for point in points])  # a dip is noise
    if share <= shares[-1]:
        return float(np.interp(share, shares, drops))
    slope = (drops[-1] - drops[-2]) / (shares[-1] - shares[-2])
    return float(drops[-1] + slope * (share - shares[-1]))


def _is_steep(cliff: Cliff, *, least: float) -> bool:
    rise = cliff.drop - cliff.drop_eased
    return rise > least and cliff.drop >= STEEP * cliff.drop_eased
