"""Cut, time what came of it, and cut again until it runs in the part of the time that is wanted.

A table predicts; only the pruned network beside the original says. What is far from its prediction
comes of a table that is wrong, and what is far from the target is not handed on: an hour of
training is spent on it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from prune.errors import OffTargetError, OutOfReachError, PlanError
from prune.runtimes.timing import Ratio

TRIES = 5
NEAR = 0.03  # a cut is on target if it misses by so much: what a clock can tell
AMISS = 1.5  # times off its prediction, or its target, that a cut may be

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """A cut and its time, as ratios to the time of the original.

    Attributes:
        cut: what was chosen.
        requested: what its prediction was to come down to.
        predicted: what it came down to.
        measured: what the pruned network takes, timed in turn with the original.
    """

    cut: T
    requested: float
    predicted: float
    measured: Ratio


@dataclass(frozen=True)
class Means(Generic[T]):
    """What an approach is made by.

    Attributes:
        cut: cuts so that the prediction is at most a ratio; PlanError where that cannot be.
        predict: predicts a cut's ratio.
        measure: measures it.
        measure_layers: measures the layers anew, from which all is predicted.
        say: told of every attempt.
    """

    cut: Callable[[float], T]
    predict: Callable[[T], float]
    measure: Callable[[T], Ratio]
    measure_layers: Callable[[], None]
    say: Callable[[str], None]


def approach(target: float, means: Means[T]) -> Attempt[T]:
    """Cut until the measured ratio is on target; else return the nearest attempt.

    Where a measured ratio is far from its prediction, the layers are measured anew, once.

    Args:
        target: ratio of the time of the original that a cut is to take.
        means: see there.

    Raises:
        PlanError: the target cannot be reached.
        OffTargetError: a cut is far from its prediction again, or no cut is near the target.
    """
    attempts = _attempts(target, means)
    if attempts is None:
        means.say("the cut is not used; the layers are measured anew")
        means.measure_layers()
        attempts = _attempts(target, means)
    if attempts is None:
        raise OffTargetError(
            "the pruned network's time is far from its prediction again, although the layers were "
            "measured anew; nothing is written: measure on a machine that does less meanwhile"
        )
    # Too slow is too slow by however little: what is fast enough is nearer.
    best = min(
        attempts, key=lambda one: (not _fits(one, target), _off(one.measured.middle, target))
    )
    if _off(best.measured.middle, target) > AMISS:
        raise OffTargetError(
            f"the nearest cut runs in {best.measured} of the original's time, but {target:.3g} was "
            "requested; nothing is written: request another ratio, or allow other widths "
            "(--round-to, --max-ratio, --min-channels)"
        )
    return best


def _attempts(target: float, means: Means[T]) -> list[Attempt[T]] | None:
    """Make attempts, each corrected by the last; None where one is far from its prediction."""
    attempts: list[Attempt[T]] = []
    requested, correction = target, 1.0
    while len(attempts) < TRIES and requested not in [one.requested for one in attempts]:
        try:
            cut = means.cut(requested) if attempts else _first(requested, means)
        except PlanError:
            if not attempts:
                raise
            break  # no cut is deeper, or milder: one before has to do
        attempt = Attempt(cut, requested, means.predict(cut), means.measure(cut))
        found, expected = attempt.measured.middle, correction * attempt.predicted
        means.say(
            f"a cut predicted to run in {expected:.3f} of the time takes {attempt.measured} of it; "
            f"{target:.3g} is requested"
        )
        if _off(found, expected) > AMISS:
            means.say(f"that is {found / expected:.2f} times the prediction")
            return None
        attempts.append(attempt)
        if abs(found / target - 1) <= NEAR:
            break
        correction = found / attempt.predicted
        requested *= target / found
    return attempts


def _first(target: float, means: Means[T]) -> T:
    """Cut to the target, or as little beside it as still counts as on target."""
    try:
        return means.cut(target)
    except OutOfReachError:
        with suppress(OutOfReachError):
            return means.cut((1 + NEAR) * target)
        raise  # the message is of what was requested


def _fits(attempt: Attempt[T], target: float) -> bool:
    return attempt.measured.middle <= (1 + NEAR) * target


def _off(ratio: float, wanted: float) -> float:
    """Return how many times one is the other, whichever is larger."""
    return max(ratio / wanted, wanted / ratio)
