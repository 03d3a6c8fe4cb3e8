"""What the optimiser is told at every batch: warm-up, then a learning rate that falls.

Pure functions of the batch's position, so that a resumed run needs to know nothing but where it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# The published code warms up for at least 1000 batches, which is more than a whole run on a few
# hundred pictures. Rates and momentum therefore warm up for a tenth of a run at most. How many
# batches an update gathers grows over the published time: a short run needs updates most of all.
_WARMUP_SHARE = 0.1
_LEAST_RAMP = 1000


class Setting(NamedTuple):
    """The optimiser's settings at one batch; `accumulate` is how many batches make an update."""

    rate: float
    bias_rate: float
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Schedule:
    """A whole run's settings.

    `total`, `warmup` and `ramp` are numbers of batches, `accumulate` is how many make an update
    after the ramp; the rest are hyper-parameters.
    """

    total: int
    warmup: int
    ramp: int
    accumulate: int
    linear: bool
    lr0: float
    lrf: float
    momentum: float
    warmup_momentum: float
    warmup_bias_lr: float

    def at(self, batch: int) -> Setting:
        """Return the settings for the batch at this position, counted from the run's start."""
        rate = self.lr0 * self.share(batch)
        warm = min(batch / self.warmup, 1.0) if self.warmup else 1.0
        return Setting(
            rate=warm * rate,
            bias_rate=_between(self.warmup_bias_lr, rate, warm),
            momentum=_between(self.warmup_momentum, self.momentum, warm),
            accumulate=self.gathered(batch),
        )

    def gathered(self, batch: int) -> int:
        """Return how many batches make an update at this position."""
        grown = min(batch / self.ramp, 1.0) if self.ramp else 1.0
        return round(_between(1, self.accumulate, grown))

    def updates(self) -> int:
        """Return about how many updates the run has."""
        ramp = min(self.ramp, self.total)
        early = sum(1 / self.gathered(batch) for batch in range(ramp))
        return max(1, round(early + (self.total - ramp) / self.accumulate))

    def share(self, batch: int) -> float:
        """Return the learning rate as a share of lr0, warm-up left aside: from 1 to lrf."""
        done = batch / max(self.total, 1)
        fallen = done if self.linear else (1 - math.cos(math.pi * done)) / 2
        return _between(1.0, self.lrf, fallen)


def plan(
    hyp: Mapping[str, float], *, epochs: int, batches: int, accumulate: int, linear: bool = False
) -> Schedule:
    """Lay out a run of `epochs` times `batches`; the rate falls by a cosine or linearly."""
    total, warmup = epochs * batches, hyp["warmup_epochs"] * batches
    return Schedule(
        total=total,
        warmup=round(min(warmup, _WARMUP_SHARE * total)),
        ramp=round(max(warmup, _LEAST_RAMP)) if warmup else 0,
        accumulate=accumulate,
        linear=linear,
        lr0=hyp["lr0"],
        lrf=hyp["lrf"],
        momentum=hyp["momentum"],
        warmup_momentum=hyp["warmup_momentum"],
        warmup_bias_lr=hyp["warmup_bias_lr"],
    )


def _between(start: float, end: float, share: float) -> float:
    return start * (1 - share) + end * share
