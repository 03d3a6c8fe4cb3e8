"""The channels that lose least score for the milliseconds they save."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from prune.errors import PlanError
from prune.limits import Limit

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]
Predict = Callable[[NDArray[np.int64]], Numbers]
"""Kept channels [n, G] -> milliseconds [n]."""

_AHEAD = 4  # steps of one group that are looked at together: one alone may save nothing
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
        PlanError: within the limits there is no such network; says what is the least.
    """
    losses = [None if s is None else _losses(s) for s in scores]
    removed = np.zeros(len(full), dtype=np.int64)
    now = float(predict(full[None])[0])
    while now > budget:
        steps = _steps(removed, full, limits, losses)
        if not len(steps):
            raise _missed(now, budget)
        trials = np.tile(full - removed, (len(steps), 1))
        groups, counts = steps.T
        trials[np.arange(len(steps)), groups] = full[groups] - counts
        saved = now - predict(trials)
        lost = np.array([_lost(losses, int(g), removed[g], int(c)) for g, c in steps])
        if saved.max() <= _WORTH:
            raise _missed(now, budget)
        price = np.where(saved > _WORTH, lost / np.maximum(saved, _WORTH), np.inf)
        best = int(price.argmin())
        removed[groups[best]] = counts[best]
        now -= float(saved[best])
    return _given_back(removed, full, limits, losses, predict, budget=budget)


def _missed(least: float, budget: float) -> PlanError:
    return PlanError(
        f"a latency of {budget:.3g} ms cannot be reached: within the caps {least:.3g} ms is the "
        "least; allow more (--max-ratio, --min-channels, --round-to, --exclude), or --depth"
    )


def _losses(scores: Tensor) -> Numbers:
    """Sum what is lost with the 0, 1, 2, ... lowest channels, [channels + 1]."""
    ordered = np.sort(scores.double().numpy())
    return np.concatenate(([0.0], np.cumsum(ordered)))


def _lost(losses: Sequence[Numbers | None], group: int, before: int, after: int) -> float:
    own = losses[group]
    assert own is not None, "only groups with scores are cut"
    return float(own[after] - own[before])


def _steps(
    removed: Counts, full: Counts, limits: Sequence[Limit], losses: Sequence[Numbers | None]
) -> Counts:
    """List what could go next: pairs of a group and the channels that are gone from it then."""
    found = [
        (group, count)
        for group, (limit, own) in enumerate(zip(limits, losses, strict=True))
        if own is not None
        for count in _further(int(removed[group]), int(full[group]), limit)
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _further(gone: int, channels: int, limit: Limit) -> list[int]:
    """List the next numbers of channels to be gone: multiples of what stays."""
    step = limit.multiple
    stays = ((channels - gone - 1) // step) * step
    counts = [channels - left for left in range(stays, 0, -step)][:_AHEAD]
    return [count for count in counts if count <= limit.most]


def _given_back(
    removed: Counts,
    full: Counts,
    limits: Sequence[Limit],
    losses: Sequence[Numbers | None],
    predict: Predict,
    *,
    budget: float,
) -> Counts:
    """Give steps back, what loses most score first, while the budget holds."""
    removed = removed.copy()
    waiting = {group for group in range(len(full)) if removed[group]}
    while waiting:
        gone = {group: int(removed[group]) for group in waiting}
        less = {group: max(gone[group] - limits[group].multiple, 0) for group in waiting}
        best = max(waiting, key=lambda group: _lost(losses, group, less[group], gone[group]))
        trial = removed.copy()
        trial[best] = less[best]
        if float(predict((full - trial)[None])[0]) <= budget:
            removed = trial
        if removed is not trial or not trial[best]:
            waiting.remove(best)
    return removed
