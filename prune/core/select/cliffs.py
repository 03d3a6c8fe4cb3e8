"""Cliffs: groups whose measured drop rises steeply over the last few per cent of a budget.

A budget does not show that its last part does the harm. So the same cut is planned for a slightly
milder budget, too; a group whose drop is about the same under both is no cliff.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from prune.core.select.allocation import Budget, Evaluation, Numbers, meet
from prune.core.select.constraints import Counts, Limit
from prune.core.trace.groups import Group

EASED = 0.05  # fraction of the original's cost by which the milder budget is larger
STEEP = 2.0  # the drop at a cliff is at least this many times the drop under the milder budget,
HIGH = 0.05  # and larger by this fraction of the metric itself


@dataclass(frozen=True)
class Cliff:
    """A group whose measured drop rises steeply over the last part of a budget.

    Attributes:
        root: the group's first layer.
        channels: how many it has.
        eased: how many it keeps under the milder budget.
        kept: how many it keeps.
        drop_eased: drop of the metric when it alone is cut to `eased` channels.
        drop: likewise to `kept` channels.
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
    """Find the groups that the last EASED of the network's cost takes over a cliff.

    Args:
        groups: of a network.
        found: with measured curves and their baseline; without them no cliff is known.
        prices: see `allocation.Allocation`.
        limits: one per group.
        budget: what the network may cost.
        counts: channels that are pruned to meet it, [G].

    Returns:
        The cliffs, the highest first.
    """
    if not any(found.curves):
        return ()
    total = found.costs.total(budget.metric)
    milder = replace(budget, limit=budget.limit + int(EASED * total))
    eased = np.zeros_like(counts)
    if milder.limit < total:
        eased = meet(prices, found.costs, milder, limits)
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
        if any(
            fraction for fraction, _ in curve
        )  # a small fraction of a narrow group is no channel
    ]
    steep = (c for c in all_of if _is_steep(c, least=HIGH * abs(found.baseline)))
    return tuple(sorted(steep, key=lambda cliff: cliff.drop_eased - cliff.drop))


def drop_at(curve: Sequence[tuple[float, float]], fraction: float) -> float:
    """Interpolate a measured drop linearly; beyond the last point it rises as before it."""
    points = sorted({**dict(curve), 0.0: 0.0}.items())
    fractions = [point[0] for point in points]
    drops = np.maximum.accumulate([max(point[1], 0.0) for point in points])  # a dip is noise
    if fraction <= fractions[-1]:
        return float(np.interp(fraction, fractions, drops))
    slope = (drops[-1] - drops[-2]) / (fractions[-1] - fractions[-2])
    return float(drops[-1] + slope * (fraction - fractions[-1]))


def _is_steep(cliff: Cliff, *, least: float) -> bool:
    rise = cliff.drop - cliff.drop_eased
    return rise > least and cliff.drop >= STEEP * cliff.drop_eased
