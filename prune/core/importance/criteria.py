"""Criteria: numbers of each channel -> its importance; the lowest are pruned first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from prune.errors import PlanError

Function = Callable[[Tensor, Generator], Tensor]
"""(rows, one per channel, [channels, k]; generator of random numbers) -> importance, [channels]."""


OF_IMAGES = ("change", "gate", "activity")
READS = ("weight", "scale", *OF_IMAGES)


@dataclass(frozen=True)
class Criterion:
    """One way to compute the importance of channels.

    Attributes:
        importance: rows of numbers -> importance per row.
        reads: what the rows are: "weight" (of the layers that compute a channel and that read it),
            "scale" (of its normalisations), or statistics of images (`statistics.Statistics`):
            "change" (weight times gradient), "gate" (gradient with respect to a gate on the
            channel, one column per image) and "activity" (mean absolute value where it is read).
        adds: whether rows of several layers are added first; else their importance is averaged.
    """

    importance: Function
    reads: str = "weight"
    adds: bool = False

    def __post_init__(self) -> None:
        if self.reads not in READS:
            raise PlanError(f"reads is {self.reads!r}; it must be one of {', '.join(READS)}")

    @property
    def needs_images(self) -> bool:
        """Return whether the criterion looks at images, not at weights alone."""
        return self.reads in OF_IMAGES

    def __call__(self, rows: Tensor, generator: Generator) -> Tensor:
        """Compute the importance of each row.

        Raises:
            PlanError: a criterion of the user's returns something else than one number per row.
        """
        result = self.importance(rows, generator)
        if not isinstance(result, Tensor) or result.shape != rows.shape[:1]:
            shape = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise PlanError(
                f"the criterion returned {shape} for {list(rows.shape)}; it must return one number "
                f"per row, a tensor of shape {list(rows.shape[:1])}"
            )
        return result.float()


def l1_norm(rows: Tensor, _: Generator) -> Tensor:
    """Return the absolute sum (Li et al. 2017, arXiv:1608.08710).

    Args:
        rows: [channels, k].

    Returns:
        Importance per channel, [channels].
    """
    return rows.abs().sum(dim=1)


def l2_norm(rows: Tensor, _: Generator) -> Tensor:
    """Return the Euclidean norm (He et al. 2018, arXiv:1808.06866); shapes as in l1_norm."""
    return rows.pow(2).sum(dim=1).sqrt()


def geometric_median(rows: Tensor, _: Generator) -> Tensor:
    """Return the sum of distances to all other rows (FPGM, He et al. 2019, arXiv:1811.00250).

    A filter near the geometric median can be replaced by the others. Shapes as in l1_norm.
    """
    return torch.cdist(rows, rows).sum(dim=1)


def lamp(rows: Tensor, _: Generator) -> Tensor:
    """Return a row's square over the sum of all squares that are no smaller (Lee et al. 2021).

    arXiv:2010.07611, with rows instead of single weights: the largest has importance 1 in every
    layer, so that layers can be compared. Shapes as in l1_norm.
    """
    squares = rows.pow(2).sum(dim=1)
    order = torch.argsort(squares, descending=True, stable=True)
    ratios = squares[order] / squares[order].cumsum(0).clamp(min=torch.finfo(rows.dtype).tiny)
    return torch.empty_like(ratios).index_copy(0, order, ratios)


def random(rows: Tensor, generator: Generator) -> Tensor:
    """Return random numbers, the baseline of criteria (Mittal et al. 2018, arXiv:1801.10447)."""
    return torch.rand(rows.shape[0], generator=generator)  # [channels]


def taylor(rows: Tensor, _: Generator) -> Tensor:
    """Return the first-order change of the loss without a channel (Molchanov et al. 2019).

    arXiv:1906.10771, equation 8 before squaring.

    Args:
        rows: weight times gradient, [channels, k].

    Returns:
        Importance per channel, [channels].
    """
    return rows.sum(dim=1).abs()


def fisher(rows: Tensor, _: Generator) -> Tensor:
    """Return the sum of squared changes of per-image losses (Liu et al. 2021, arXiv:2108.00708).

    Args:
        rows: gradient with respect to a gate on the channel, [channels, images].

    Returns:
        Importance per channel, [channels].
    """
    return rows.pow(2).sum(dim=1)


CRITERIA: dict[str, Criterion] = {
    "l1": Criterion(l1_norm),
    "l2": Criterion(l2_norm),
    "bn": Criterion(l1_norm, "scale"),  # Liu et al. 2017, arXiv:1708.06519
    "fpgm": Criterion(geometric_median),
    "lamp": Criterion(lamp),
    "taylor": Criterion(taylor, "change"),
    "fisher": Criterion(fisher, "gate", adds=True),
    "activation": Criterion(l1_norm, "activity"),  # Molchanov et al. 2017, arXiv:1611.06440
    "random": Criterion(random),
}
NEED_IMAGES = tuple(name for name, criterion in CRITERIA.items() if criterion.needs_images)
