"""Criteria: what a layer holds of each channel -> one score a channel; the lowest go first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

# One row a channel, [channels, k], and a generator for those that draw numbers -> [channels].
Score = Callable[[Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Criterion:
    """One way to rank channels.

    Attributes:
        score: rows of numbers -> one score a row.
        reads: what the rows are: "weight" (of the layers that make a channel and that read it),
            "scale" (of its normalisations), or what only pictures tell (`evidence.Evidence`):
            "change" (weight times gradient), "gate" (gradient of switching it off, a picture a
            column) and "activity" (mean size where it is read).
        adds: rows of several places are added before they are scored; else scores are averaged.
    """

    score: Score
    reads: str = "weight"
    adds: bool = False


def l1_norm(rows: Tensor, _: Generator) -> Tensor:
    """Score by the absolute sum (Li et al. 2017, arXiv:1608.08710).

    Args:
        rows: [channels, k].

    Returns:
        One score a channel, [channels].
    """
    return rows.abs().sum(dim=1)


def l2_norm(rows: Tensor, _: Generator) -> Tensor:
    """Score by the Euclidean norm (He et al. 2018, arXiv:1808.06866); shapes as in l1_norm."""
    return rows.pow(2).sum(dim=1).sqrt()


def geometric_median(rows: Tensor, _: Generator) -> Tensor:
    """Score by the sum of distances to all the others (FPGM, He et al. 2019, arXiv:1811.00250).

    What lies near the middle is what the others can stand in for. Shapes as in l1_norm.
    """
    return torch.cdist(rows, rows).sum(dim=1)


def lamp(rows: Tensor, _: Generator) -> Tensor:
    """Score by a row's share of all squared rows that are no smaller (Lee et al. 2021).

    arXiv:2010.07611, with rows in place of single weights: the largest scores 1 in every layer, so
    that layers can be ranked together. Shapes as in l1_norm.
    """
    squares = rows.pow(2).sum(dim=1)
    order = torch.argsort(squares, descending=True, stable=True)
    shares = squares[order] / squares[order].cumsum(0).clamp(min=torch.finfo(rows.dtype).tiny)
    return torch.empty_like(shares).index_copy(0, order, shares)


def random(rows: Tensor, generator: Generator) -> Tensor:
    """Score by chance: what any criterion has to beat (Mittal et al. 2018, arXiv:1801.10447)."""
    return torch.rand(rows.shape[0], generator=generator)  # [channels]


def taylor(rows: Tensor, _: Generator) -> Tensor:
    """Score by the first-order change of the loss without a channel (Molchanov et al. 2019).

    arXiv:1906.10771, equation 8 before squaring.

    Args:
        rows: weight times gradient, [channels, k].

    Returns:
        One score a channel, [channels].
    """
    return rows.sum(dim=1).abs()


def fisher(rows: Tensor, _: Generator) -> Tensor:
    """Score by the squared change of each picture's loss (Liu et al. 2021, arXiv:2108.00708).

    Args:
        rows: gradient of switching a channel off, [channels, pictures].

    Returns:
        One score a channel, [channels].
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
FROM_PICTURES = tuple(n for n, c in CRITERIA.items() if c.reads in ("change", "gate", "activity"))
