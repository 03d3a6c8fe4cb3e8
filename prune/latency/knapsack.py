"""The channels that lose least score for the milliseconds they save."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prune.core.select.constraints import Limit, rounded
from prune.errors import OutOfReachError

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Predict = Callable[[NDArray[np.int64]], Numbers]
"""Kept channels [n, G] -> milliseconds [n]; more channels never take less."""

_WORTH = 1e-9  # ms; what saves less saves nothing


def allocate(
    scores: Sequence[Tensor | None],
    full: Counts,
    limits: Sequence[Limit],
    predict: Predict,
    *,
    budget: float,
) -> Counts:
    """Say how many channels of each group go, so that the network takes at most `budget` ms.

    What loses least score a millisecond goes first, in steps of a group's multiple, each weighed
    with all others as they are by then: the greedy solution of the knapsack, whose items change
    each other's weight. Then what costs most score comes back while the budget holds.

    Args:
        scores: of the channels of each group, [channels]; None where none may go.
        full: channels of each group, [G].
        limits: one a group.
        predict: milliseconds of a network.
        budget: of milliseconds.

    Raises:
        OutOfReachError: within the limits there is no such network; says what is the least.
    """
    limits = [limit if s is not None else Limit(0) for s, limit in zip(scores, limits, strict=True)]
    losses = [np.zeros(1) if s is None else _losses(s) for s in scores]
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
        price = np.where(saved > _WORTH, lost / np.maximum(saved, _WORTH), np.inf)
        # Where none saves alone, two together do, a block that both fill.
        best = int(price.argmin() if np.isfinite(price).any() else lost.argmin())
        removed[groups[best]], now = counts[best], float(left[best])
    return _given_back(removed, full, limits, losses, predict, budget=budget)


def _losses(scores: Tensor) -> Numbers:
    """Sum what is lost with the 0, 1, 2, ... lowest channels, [channels + 1]."""
    ordered = np.sort(scores.double().numpy())
    return np.concatenate(([0.0], np.cumsum(ordered)))


def _expect_reachable(
    full: Counts, limits: Sequence[Limit], predict: Predict, *, budget: float
) -> None:
    most = [rounded(int(n), limit.most, limit) for n, limit in zip(full, limits, strict=True)]
    least = float(predict((full - np.array(most, dtype=np.int64))[None])[0])
    if least > budget:
        raise OutOfReachError(
            f"a latency of {budget:.3f} ms cannot be reached: within the caps {least:.3f} ms is "
            "the least; allow more (--max-ratio, --min-channels, --round-to, --exclude), or --depth"
        )


def _steps(removed: Counts, full: Counts, limits: Sequence[Limit]) -> tuple[Counts, Counts]:
    """List what could go next: groups, and the channels that are gone from each then."""
    found = [
        (group, count)
        for group, limit in enumerate(limits)
        for count in _further(int(removed[group]), int(full[group]), limit)
    ]
    groups, counts = np.array(found, dtype=np.int64).T
    return groups, counts


def _further(gone: int, channels: int, limit: Limit) -> list[int]:
    """List numbers of channels to be gone next: 1, 2, 4, 8 multiples more, since 1 may save 0."""
    step = limit.multiple
    stays = ((channels - gone - 1) // step) * step
    counts = [channels - left for left in range(stays, 0, -step) if channels - left <= limit.most]
    places = {min(2**n, len(counts)) - 1 for n in range(len(counts).bit_length() + 1) if counts}
    return [counts[place] for place in sorted(places)]


def _given_back(
    removed: Counts,
    full: Counts,
    limits: Sequence[Limit],
    losses: Sequence[Numbers],
    predict: Predict,
    *,
    budget: float,
) -> Counts:
    """Give multiples back, what loses most score first, while the budget holds."""
    removed = removed.copy()
    waiting = set(np.flatnonzero(removed).tolist())
    while waiting:
        less = {group: max(removed[group] - limits[group].multiple, 0) for group in waiting}
        best = max(
            waiting, key=lambda group: losses[group][removed[group]] - losses[group][less[group]]
        )
        trial = removed.copy()
        trial[best] = less[best]
        fits = float(predict((full - trial)[None])[0]) <= budget
        if fits:
            removed = trial
        if not fits or not removed[best]:
            waiting.remove(best)
    return removed
