"""Time things side by side: in turn, round after round, so that what the machine does hits all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time

import numpy as np
from numpy.typing import NDArray

WARM_UP = 3  # rounds that are not counted; the first runs allocate
_RESAMPLES = 2000
_CONFIDENCE = (2.5, 97.5)  # percentiles: 95 %

Times = NDArray[np.float64]
"""Milliseconds of each thing in each round, [rounds, things]."""

Clock = Callable[[], float]
"""Gives seconds."""

WALL: Clock = perf_counter
OWN: Clock = process_time  # what this process had on the processors, all threads together


@dataclass(frozen=True)
class Spread:
    """Milliseconds per run: the median, and what a tenth of the runs stayed below or above."""

    median: float
    p10: float
    p90: float


@dataclass(frozen=True)
class Ratio:
    """How many times as long one thing takes as another, with its 95 % confidence interval."""

    middle: float
    low: float
    high: float

    @property
    def doubt(self) -> float:
        """Return how far the interval reaches from the middle, as a fraction of it."""
        return max(self.high - self.middle, self.middle - self.low) / self.middle

    def __str__(self) -> str:
        """Write the ratio and its interval."""
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"

    @property
    def level(self) -> bool:
        """Return whether the two may as well be equal."""
        return self.low <= 1 <= self.high


def in_turn(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = WARM_UP,
    seed: int = 0,
    clock: Clock = WALL,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Times:
    """Time each thing once per round, in an order that is drawn anew for every round.

    Before it is timed, it runs once more: its weights are then in the caches again, as in a program
    that runs nothing else, and threads of the one before have gone to sleep.

    Args:
        runs: what to time.
        rounds: timed runs of each.
        warm_up: rounds before, not counted.
        seed: of the orders.
        clock: gives seconds.
        watch: passes the numbers of the rounds on; a progress bar.

    Returns:
        Milliseconds, [rounds, runs].
    """
    random = np.random.default_rng(seed)
    times = np.empty((warm_up + rounds, len(runs)))
    with _uncollected():
        for turn in watch(range(warm_up + rounds)):
            for which in random.permutation(len(runs)):
                runs[which]()
                start = clock()
                runs[which]()
                times[turn, which] = 1e3 * (clock() - start)
    return times[warm_up:]


def spread(times: Times) -> Spread:
    """Summarise the milliseconds of one thing, [rounds]."""
    p10, middle, p90 = np.percentile(times, (10, 50, 90)).tolist()
    return Spread(middle, p10, p90)


def ratio(times: Times, first: Times, *, seed: int = 0) -> Ratio:
    """Compare two things by their ratio in each round, which drift leaves alone.

    Args:
        times: milliseconds of the one, [rounds].
        first: of the other, in the same rounds, [rounds].
        seed: of the resamples.

    Returns:
        The median ratio; its interval is that of the medians of rounds drawn with replacement
        (Efron's percentile bootstrap).
    """
    ratios = times / first
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(ratios[drawn], axis=1), _CONFIDENCE).tolist()
    return Ratio(float(np.median(ratios)), low, high)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector out of the block, as timeit does."""
    before = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
