"""Least squares from sums alone: normal equations that grow by blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Sums:
    """Sums over rows x, [F], and the residuals there, r, [O]; all in float64.

    There is one sum per group of a grouped convolution. `x` is counted from `origin`, so that the
    products of float32 rows are exact where their mean is far from zero.
    """

    origin: Tensor  # [groups, F]
    rows: int
    x: Tensor  # [groups, F]
    r: Tensor  # [groups, O]
    xx: Tensor  # [groups, F, F]
    xr: Tensor  # [groups, F, O]
    rr: float

    @classmethod
    def empty(cls, origin: Tensor, outputs: int) -> Sums:
        """Begin with no rows; `outputs` is O, those of one group."""
        groups, width = origin.shape
        zeros = origin.new_zeros
        return cls(
            origin=origin,
            rows=0,
            x=zeros((groups, width), dtype=torch.float64),
            r=zeros((groups, outputs), dtype=torch.float64),
            xx=zeros((groups, width, width), dtype=torch.float64),
            xr=zeros((groups, width, outputs), dtype=torch.float64),
            rr=0.0,
        )

    def add(self, x: Tensor, r: Tensor) -> None:
        """Add rows: x [rows, groups, F] and r [rows, groups, O]."""
        x = (x - self.origin).transpose(0, 1)  # [groups, rows, F]
        r = r.transpose(0, 1)
        self.rows += x.shape[1]
        self.x += x.sum(dim=1, dtype=torch.float64)
        self.r += r.sum(dim=1, dtype=torch.float64)
        self.xx += x.transpose(1, 2) @ x
        self.xr += x.transpose(1, 2) @ r
        self.rr += r.double().square().sum().item()

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        return Sums(
            origin=self.origin,
            rows=self.rows + other.rows,
            x=self.x + other.x,
            r=self.r + other.r,
            xx=self.xx + other.xx,
            xr=self.xr + other.xr,
            rr=self.rr + other.rr,
        )


@dataclass(frozen=True)
class Change:
    """What to add to the weights, [groups, F, O], and to the output, [groups, O]."""

    weight: Tensor
    level: Tensor  # counted at the origin of the sums
    constant: bool  # whether a level was asked for


def solve(sums: Sums, *, ridge: float, constant: bool) -> Change | None:
    """Find the change that explains r best; a ridge penalises its size.

    Minimises |r - x W - b|^2 + ridge mean(diag(x'x)) |W|^2, x'x around the mean of x with a
    constant b and around zero without, by Cholesky in float64.

    Returns:
        The change; None where x is constant or the equations cannot be solved.
    """
    xx, xr = sums.xx, sums.xr
    if constant:
        xx = xx - sums.x[:, :, None] * sums.x[:, None] / sums.rows
        xr = xr - sums.x[:, :, None] * sums.r[:, None] / sums.rows
    scale = xx.diagonal(dim1=1, dim2=2).mean(dim=1)  # [groups]
    eye = torch.eye(xx.shape[1], dtype=xx.dtype, device=xx.device)
    scale = scale.clamp(min=torch.finfo(xx.dtype).tiny)
    factor, failed = torch.linalg.cholesky_ex(xx + ridge * scale[:, None, None] * eye)
    if failed.any():
        return None
    weight = torch.cholesky_solve(xr, factor)
    level = sums.r.new_zeros(sums.r.shape)
    if constant:
        level = (sums.r - (sums.x[:, None] @ weight)[:, 0]) / sums.rows
    return Change(weight, level, constant)


def error(sums: Sums, change: Change | None) -> float:
    """Return the sum of squares that remains after a change; None for no change."""
    if change is None:
        return sums.rr
    w, b = change.weight, change.level
    explained = 2 * (w * sums.xr).sum() + 2 * (b * sums.r).sum()
    again = (w * (sums.xx @ w)).sum() + 2 * (b * (sums.x[:, None] @ w)[:, 0]).sum()
    return float(sums.rr - explained + again + sums.rows * b.square().sum())
