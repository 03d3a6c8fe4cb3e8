"""Cut, time the pruned model, and cut again until it runs in the requested fraction of the time.

A table only predicts; what counts is the pruned model, timed in turn with the original. A cut whose
time is far from its prediction shows that the table is wrong. A cut that is far from the target is
an error: an hour of training would be spent on it otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from prune.common.notes import Report
from prune.errors import OffTargetError, OutOfReachError, PlanError
from prune.runtimes.timing import Ratio

TRIES = 5
NEAR = 0.03  # relative error at which a cut is on target: what timing can resolve
AMISS = 1.5  # factor by which a cut may miss its prediction, or its target

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """A cut and its time, as ratios to the time of the original.

    Attributes:
        cut: what was chosen.
        requested: ratio that the prediction had to reach.
        predicted: ratio that was predicted.
        measured: ratio of the pruned model, timed in turn with the original.
    """

    cut: T
    requested: float
    predicted: float
    measured: Ratio


@dataclass(frozen=True)
class Means(Generic[T]):
    """The functions that an approach calls.

    Attributes:
        cut: cuts so that the prediction is at most a ratio; raises PlanError where it cannot.
        predict: predicts the ratio of a cut.
        measure: measures the ratio of a cut.
        measure_layers: measures the layers anew, which all predictions are made from.
        report: receives a line per attempt.
    """

    cut: Callable[[float], T]
    predict: Callable[[T], float]
    measure: Callable[[T], Ratio]
    measure_layers: Callable[[], None]
    report: Report


def approach(target: float, means: Means[T]) -> Attempt[T]:
    """Cut until the measured ratio is on target; else return the nearest attempt.

    Where a measured ratio is far from its prediction, the layers are measured anew, once.

    Args:
        target: requested ratio of the original's time.
        means: the functions to call.

    Raises:
        PlanError: the target cannot be reached.
        OffTargetError: a cut is far from its prediction again, or no cut is near the target.
    """
    attempts = _attempts(target, means)
    if attempts is None:
        means.report("the cut is not used; the layers are measured anew")
        means.measure_layers()
        attempts = _attempts(target, means)
    if attempts is None:
        raise OffTargetError(
            "the pruned network's time is far from its prediction again, although the layers were "
            "measured anew; nothing is written: measure on a machine that does less meanwhile"
        )
    # A cut that is too slow, however little, is worse than any that is fast enough.
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
    """Make attempts, each corrected by the last; return None if one is far from its prediction."""
    attempts: list[Attempt[T]] = []
    requested, correction = target, 1.0
    while len(attempts) < TRIES and requested not in [one.requested for one in attempts]:
        try:
            cut = means.cut(requested) if attempts else _first(requested, means)
        except PlanError:
            if not attempts:
                raise
            break  # no cut is deeper, or milder: an earlier one has to do
        attempt = Attempt(cut, requested, means.predict(cut), means.measure(cut))
        found, expected = attempt.measured.middle, correction * attempt.predicted
        means.report(
            f"a cut predicted to run in {expected:.3f} of the time takes {attempt.measured} of it; "
            f"{target:.3g} is requested"
        )
        if _off(found, expected) > AMISS:
            means.report(f"that is {found / expected:.2f} times the prediction")
            return None
        attempts.append(attempt)
        if abs(found / target - 1) <= NEAR:
            break
        correction = found / attempt.predicted
        requested *= target / found
    return attempts


def _first(target: float, means: Means[T]) -> T:
    """Cut to the target, or to as little above it as still counts as on target."""
    try:
        return means.cut(target)
    except OutOfReachError:
        with suppress(OutOfReachError):
            return means.cut((1 + NEAR) * target)
        raise  # the message names what was requested


def _fits(attempt: Attempt[T], target: float) -> bool:
    return attempt.measured.middle <= (1 + NEAR) * target


def _off(ratio: float, target: float) -> float:
    """Return the ratio of both, the larger by the smaller."""
    return max(ratio / target, target / ratio)
