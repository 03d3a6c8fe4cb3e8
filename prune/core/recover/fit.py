"""One layer fitted: from what it sees and what it should make to its new weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from prune.core.recover.normal import Change, Sums, error, solve
from prune.core.recover.patches import seen, solve_shape
from prune.core.recover.readers import Reader, level, move_output, norm_mean

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT = 5  # every fifth picture judges the ridges
UNCHANGED = 1e-10  # of the squared output: what rounding makes
BLOCK = 64 << 20  # bytes of patches at a time


@dataclass(frozen=True)
class Solved:
    """One layer: its squared error as a share of its squared output, before and after.

    `left` says why it was not changed; the shares are then equal, or 0 where nothing was measured.
    """

    name: str
    before: float
    after: float
    left: str | None = None


@dataclass(frozen=True)
class Target:
    """Where a layer is looked at, [N, p], and what the original makes there, [N, p, out].

    What it makes is counted from the mean of the BatchNorm behind it: a level that moved there
    since is part of what the layer makes.
    """

    at: Tensor
    value: Tensor


@dataclass
class _Seen:
    """What a layer's pictures come to.

    Attributes:
        fitted: sums over the pictures that the weights are solved on while ridges are compared.
        judged: sums over the others.
        total: the squared output that is wished for.
    """

    fitted: Sums
    judged: Sums
    total: float = 0.0


def fit(net: nn.Module, reader: Reader, inputs: Iterable[Tensor], target: Target) -> Solved:
    """Change a layer's weights and what stands behind it so that its output meets the target.

    Args:
        net: the network the layer is in.
        reader: the layer.
        inputs: batches of what runs into it, [n, in, H, W], all pictures of the target in order.
        target: what it should make.
    """
    layer = cast("nn.Conv2d", net.get_submodule(reader.name))
    constant = layer.bias is not None or norm_mean(net, reader) is not None
    found = _sums(layer, inputs, target, level(net, reader), constant=constant)
    everything = found.fitted + found.judged
    scale = max(found.total, torch.finfo(torch.float64).tiny)
    before = everything.rr / scale
    if before <= UNCHANGED:
        return Solved(reader.name, before, before)
    ridge = _best(found, constant=constant)
    change = None if ridge is None else solve(everything, ridge=ridge, constant=constant)
    if change is None or error(everything, change) >= everything.rr:
        return Solved(reader.name, before, before, "no other weights do better on other pictures")
    _take(net, reader, change, everything.origin)
    return Solved(reader.name, before, max(error(everything, change), 0.0) / scale)


def _sums(
    layer: nn.Conv2d, inputs: Iterable[Tensor], target: Target, own: Tensor, *, constant: bool
) -> _Seen:
    """Sum up what is seen; `own` is the level that the layer has now, [out]."""
    weight = solve_shape(layer.weight, getattr(layer, "groups", 1))  # [shares, O, F]
    row = weight.shape[0] * weight.shape[2] * weight.element_size() * target.at.shape[1]
    every = min(HELD_OUT, len(target.at))
    found: _Seen | None = None
    number = 0
    for piece in (piece for batch in inputs for piece in torch.split(batch, max(1, BLOCK // row))):
        end = number + len(piece)
        x = seen(piece, layer, target.at[number:end])  # [n p, shares, F]
        wish = target.value[number:end].flatten(0, 1).to(x).view(len(x), len(weight), -1)
        r = wish - torch.einsum("nsf,sof->nso", x, weight)
        r -= own.view(len(weight), -1)
        if found is None:
            origin = x.mean(dim=0) * constant
            found = _Seen(Sums.empty(origin, r.shape[2]), Sums.empty(origin, r.shape[2]))
        judges = torch.arange(number, end, device=x.device) % every == every - 1
        judges = judges.repeat_interleave(target.at.shape[1])
        found.fitted.add(x[~judges], r[~judges])
        found.judged.add(x[judges], r[judges])
        found.total += wish.double().square().sum().item()
        number = end
    assert found is not None
    return found


def _best(found: _Seen, *, constant: bool) -> float | None:
    """Choose the ridge that does best on the pictures held out; None if the present weights do."""
    if not found.fitted.rows:  # one picture: nothing to judge by
        return RIDGES[len(RIDGES) // 2]
    best, lowest = None, found.judged.rr
    for ridge in RIDGES:
        change = solve(found.fitted, ridge=ridge, constant=constant)
        left = error(found.judged, change)
        if change is not None and left < lowest:
            best, lowest = ridge, left
    return best


def _take(net: nn.Module, reader: Reader, change: Change, origin: Tensor) -> None:
    layer = cast("nn.Conv2d", net.get_submodule(reader.name))
    moved = change.level - (origin[:, None].double() @ change.weight)[:, 0]  # [shares, O]
    with torch.no_grad():
        layer.weight += change.weight.transpose(1, 2).reshape(layer.weight.shape).to(layer.weight)
    if change.constant:
        move_output(net, reader, moved.flatten())
