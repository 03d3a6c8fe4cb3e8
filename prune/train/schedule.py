"""What the optimiser is told at every batch: warm-up, then a learning rate that falls.

Pure functions of the batch's position (and, for a plateau, of the scores so far), so that a resumed
run needs to know nothing but where it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# The published code warms up for at least 1000 batches, which is more than a whole run on a few
# hundred pictures. Rates and momentum therefore warm up for a tenth of a run at most. How many
# batches an update gathers grows over the published time: a short run needs updates most of all.
_WARMUP_SHARE = 0.1
_LEAST_RAMP = 1000

_STEPS, _STEP = (0.8, 0.9), 0.1  # where a run's rate drops, to which share of what it was
_PEAK, _LOWEST = 0.3, 0.1  # one cycle: where it is highest, the share of that it begins at
_PLATEAU = 0.3  # what a plateau leaves of the rate


def cosine(done: float, lrf: float) -> float:
    """Fall along half a cosine (Loshchilov, Hutter 2017, arXiv:1608.03983, without restarts)."""
    return _between(1.0, lrf, (1 - math.cos(math.pi * done)) / 2)


def linear(done: float, lrf: float) -> float:
    """Fall along a straight line."""
    return _between(1.0, lrf, done)


def multistep(done: float, lrf: float) -> float:
    """Drop to a tenth at 80 % and again at 90 % of the run, as Darknet does; lrf plays no part."""
    return math.prod(_STEP for step in _STEPS if done >= step)


def one_cycle(done: float, lrf: float) -> float:
    """Climb from a tenth for 30 % of the run (Smith 2018, arXiv:1803.09820), then as the cosine."""
    if done < _PEAK:
        return _between(_LOWEST, 1.0, done / _PEAK)
    return cosine((done - _PEAK) / (1 - _PEAK), lrf)


def plateau(done: float, lrf: float) -> float:
    """Stay at lr0, but for what `plateau_factor` makes of the scores; lrf plays no part."""
    return 1.0


# How the rate goes: the share of the run that is done and lrf -> the share of lr0, warm-up aside.
SHAPES: dict[str, Callable[[float, float], float]] = {
    "cosine": cosine,
    "linear": linear,
    "multistep": multistep,
    "one-cycle": one_cycle,
    "plateau": plateau,
}


def plateau_factor(fitnesses: Sequence[float], patience: int) -> float:
    """Return what is left of the rate: 0.3 for each `patience` scores on end without a better one.

    Args:
        fitnesses: of all scored epochs so far.
        patience: a number of scores, from 1 on.
    """
    best, waited, factor = -math.inf, 0, 1.0
    for fitness in fitnesses:
        waited = 0 if fitness > best else waited + 1
        best = max(best, fitness)
        if waited == patience:
            waited, factor = 0, factor * _PLATEAU
    return factor


class Setting(NamedTuple):
    """The optimiser's settings at one batch."""

    rate: float
    bias_rate: float
    momentum: float


@dataclass(frozen=True)
class Schedule:
    """A whole run's settings.

    `total`, `batches` (an epoch's), `warmup` and `ramp` are numbers of batches, `accumulate` is
    how many make an update after the ramp; `shape` is a key of SHAPES, `lowered` what a plateau has
    left of the rate; the rest are hyper-parameters.
    """

    total: int
    batches: int
    warmup: int
    ramp: int
    accumulate: int
    shape: str
    lr0: float
    lrf: float
    momentum: float
    warmup_momentum: float
    warmup_bias_lr: float
    lowered: float = 1.0

    def at(self, batch: int) -> Setting:
        """Return the settings for the batch at this position, counted from the run's start."""
        rate = self.lr0 * self.share(batch)
        warm = min(batch / self.warmup, 1.0) if self.warmup else 1.0
        return Setting(
            rate=warm * rate,
            bias_rate=_between(self.warmup_bias_lr, rate, warm),
            momentum=_between(self.warmup_momentum, self.momentum, warm),
        )

    def gathered(self, batch: int) -> int:
        """Return how many batches make an update at this position."""
        grown = min(batch / self.ramp, 1.0) if self.ramp else 1.0
        return round(_between(1, self.accumulate, grown))

    def due(self, batch: int, *, waiting: int) -> bool:
        """Tell whether an update follows the batch at this position, the last of so many waiting.

        The last batch of an epoch always brings one.
        """
        return waiting >= self.gathered(batch) or (batch + 1) % self.batches == 0

    def updates(self) -> int:
        """Count the run's updates."""
        epochs = math.ceil(min(self.ramp, self.total) / self.batches)  # that the ramp reaches into
        count = waiting = 0
        for batch in range(epochs * self.batches):
            waiting += 1
            if self.due(batch, waiting=waiting):
                count, waiting = count + 1, 0
        rest = self.total // self.batches - epochs
        return count + rest * math.ceil(self.batches / self.accumulate)

    def share(self, batch: int) -> float:
        """Return the learning rate as a share of lr0, warm-up left aside."""
        return self.lowered * SHAPES[self.shape](batch / max(self.total, 1), self.lrf)


def plan(
    hyp: Mapping[str, float], *, epochs: int, batches: int, accumulate: int, shape: str = "cosine"
) -> Schedule:
    """Lay out a run of `epochs` times `batches`; the rate goes by one of SHAPES.

    One cycle begins low on its own: nothing warms up beside it.
    """
    total, warmup = epochs * batches, hyp["warmup_epochs"] * batches
    return Schedule(
        total=total,
        batches=batches,
        warmup=0 if shape == "one-cycle" else round(min(warmup, _WARMUP_SHARE * total)),
        ramp=round(max(warmup, _LEAST_RAMP)) if warmup else 0,
        accumulate=accumulate,
        shape=shape,
        lr0=hyp["lr0"],
        lrf=hyp["lrf"],
        momentum=hyp["momentum"],
        warmup_momentum=hyp["warmup_momentum"],
        warmup_bias_lr=hyp["warmup_bias_lr"],
    )


def in_last_share(epoch: int, *, epochs: int, share: float) -> bool:
    """Tell whether an epoch, counted from 0, is in the last share of a run's."""
    return epoch >= epochs - round(share * epochs)


def _between(start: float, end: float, share: float) -> float:
    return start * (1 - share) + end * share
