"""What the optimiser is told at every batch: warm-up, then a learning rate that falls.

Pure functions of the batch's position, so that a resumed run needs to know nothing but where it is.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

# Warm-up may take this share of a run. The published code warms up for at least 1000 batches, which
# is more than a whole run on a few hundred pictures.
_WARMUP_SHARE = 0.1


class Setting(NamedTuple):
    """The optimiser's settings at one batch; `accumulate` is how many batches make an update."""

    rate: float
    bias_rate: float
    momentum: float
    accumulate: int


@dataclass(frozen=True)
class Schedule:
    """A whole run's settings.

    `total` and `warmup` are numbers of batches, `accumulate` batches an update after warm-up;
    the rest are hyper-parameters.
    """

    total: int
    warmup: int
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
        ramp = min(batch / self.warmup, 1.0) if self.warmup else 1.0
        return Setting(
            rate=ramp * rate,
            bias_rate=_between(self.warmup_bias_lr, rate, ramp),
            momentum=_between(self.warmup_momentum, self.momentum, ramp),
            accumulate=max(1, round(_between(1, self.accumulate, ramp))),
        )

    def share(self, batch: int) -> float:
        """Return the learning rate as a share of lr0, warm-up left aside: from 1 to lrf."""
        done = batch / max(self.total, 1)
        fallen = done if self.linear else (1 - math.cos(math.pi * done)) / 2
        return _between(1.0, self.lrf, fallen)


def plan(
    hyp: Mapping[str, float], *, epochs: int, batches: int, accumulate: int, linear: bool = False
) -> Schedule:
    """Lay out a run of `epochs` times `batches`; the rate falls by a cosine or linearly."""
    total = epochs * batches
    return Schedule(
        total=total,
        warmup=round(min(hyp["warmup_epochs"] * batches, _WARMUP_SHARE * total)),
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
