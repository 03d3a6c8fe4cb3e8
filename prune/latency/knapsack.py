"""Choose the channels whose importance is least per millisecond that their removal saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prune.core.select.constraints import Counts, Limit, give_back, rounded
from prune.errors import OutOfReachError

Numbers = NDArray[np.float64]
Predict = Callable[[NDArray[np.int64]], Numbers]
"""Kept channels, [n, G] -> milliseconds, [n]; more channels never take less."""

_NOTHING = 1e-9  # ms; what saves less saves nothing


def allocate(
    importance: Sequence[Tensor | None],
    full: Counts,
    limits: Sequence[Limit],
    predict: Predict,
    *,
    budget: float,
) -> Counts:
    """Return how many channels of each group to prune, to run in at most `budget` ms.

    The channels with the least importance per millisecond are removed first, in steps of a group's
    multiple, each compared with all others as they are by then: the greedy solution of a knapsack
    whose items change each other's weight. Then the most important ones are given back while the
    budget holds.

    Args:
        importance: of the channels of each group, [channels]; None where none may be pruned.
        full: channels of each group, [G].
        limits: one per group.
        predict: milliseconds of a network.
        budget: milliseconds.

    Raises:
        OutOfReachError: the limits allow no such network; the message has the least time.
    """
    limits = [
        Limit(0) if own is None else limit for own, limit in zip(importance, limits, strict=True)
    ]
    losses = [np.zeros(1) if own is None else _losses(own) for own in importance]
    _expect_reachable(full, limits, predict, budget=budget)
    removed = np.zeros_like(full)
    now = float(predict(full[None])[0])
    while now > budget:
        groups, counts = _steps(removed, full, limits)
        trials = np.tile(full - removed, (len(groups), 1))
        trials[np.arange(len(groups)), groups] = full[groups] - counts
        left = predict(trials)
        saved = now - left
        lost = np.array(
            [losses[g][c] - losses[g][removed[g]] for g, c in zip(groups, counts, strict=True)]
        )
        price = np.where(saved > _NOTHING, lost / np.maximum(saved, _NOTHING), np.inf)
        # Where none saves time alone, two together do: they fill one block of the runtime.
        best = int(price.argmin() if np.isfinite(price).any() else lost.argmin())
        removed[groups[best]], now = counts[best], float(left[best])

    def value(group: int, count: int) -> float:
        less = max(count - limits[group].multiple, 0)
        return float(losses[group][count] - losses[group][less])

    def fits(removed: Counts) -> bool:
        return float(predict((full - removed)[None])[0]) <= budget

    return give_back(removed, limits, value, fits)


def _losses(importance: Tensor) -> Numbers:
    """Sum the importance of the 0, 1, 2, ... least important channels, [channels + 1]."""
    ordered = np.sort(importance.double().numpy())
    return np.concatenate(([0.0], np.cumsum(ordered)))


def _expect_reachable(
    full: Counts, limits: Sequence[Limit], predict: Predict, *, budget: float
) -> None:
    most = [rounded(int(n), limit.most, limit) for n, limit in zip(full, limits, strict=True)]
    least = float(predict((full - np.array(most, dtype=np.int64))[None])[0])
    if least > budget:
        raise OutOfReachError(
            f"a latency of {budget:.3f} ms cannot be reached: within the limits {least:.3f} ms "
            "is the least; allow more (--max-ratio, --min-channels, --round-to, --exclude), or "
            "--depth"
        )


def _steps(removed: Counts, full: Counts, limits: Sequence[Limit]) -> tuple[Counts, Counts]:
    """List the next steps: groups, and the number of channels that each has lost then."""
    found = [
        (group, count)
        for group, limit in enumerate(limits)
        for count in _further(int(removed[group]), int(full[group]), limit)
    ]
    groups, counts = np.array(found, dtype=np.int64).T
    return groups, counts


def _further(gone: int, channels: int, limit: Limit) -> list[int]:
    """List numbers of channels lost next: 1, 2, 4, 8 multiples more, since 1 may save nothing."""
    step = limit.multiple
    stays = ((channels - gone - 1) // step) * step
    counts = [channels - left for left in range(stays, 0, -step) if channels - left <= limit.most]
    places = {min(2**n, len(counts)) - 1 for n in range(len(counts).bit_length() + 1) if counts}
    return [counts[place] for place in sorted(places)]
