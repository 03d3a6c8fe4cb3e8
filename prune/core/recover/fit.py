"""Fit one layer: from its inputs and its target outputs to its new weights."""

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
HELD_OUT = 5  # every fifth image is held out to choose the ridge
UNCHANGED = 1e-10  # of the squared output: what rounding causes
BLOCK = 64 << 20  # bytes of patches at a time


@dataclass(frozen=True)
class Solved:
    """One layer and the errors of its output.

    Attributes:
        name: of the layer.
        before: its squared error as a fraction of its squared output, before the fit.
        after: likewise after it; equal, or 0 where nothing was measured, if it was not changed.
        left: the reason why it was not changed; None where it was.
    """

    name: str
    before: float
    after: float
    left: str | None = None


@dataclass(frozen=True)
class Target:
    """The outputs of a layer of the original at some places.

    Attributes:
        at: the places, [N, p].
        value: the outputs there, [N, p, out], less the mean of the BatchNorm behind the layer: a
            mean that has moved since is part of the output.
    """

    at: Tensor
    value: Tensor


@dataclass
class _Seen:
    """Sums over the images of a layer.

    Attributes:
        fitted: sums over the images that the weights are solved on while ridges are compared.
        held_out: sums over the others.
        total: the squared target output.
    """

    fitted: Sums
    held_out: Sums
    total: float = 0.0


def fit(net: nn.Module, reader: Reader, inputs: Iterable[Tensor], target: Target) -> Solved:
    """Change the weights of a layer, and the norm behind it, so that its output meets the target.

    Args:
        net: the network the layer is in.
        reader: the layer.
        inputs: batches of its inputs, [n, in, H, W], all images of the target in order.
        target: the outputs that it should have.
    """
    layer = cast("nn.Conv2d", net.get_submodule(reader.name))
    constant = layer.bias is not None or norm_mean(net, reader) is not None
    found = _sums(layer, inputs, target, level(net, reader), constant=constant)
    everything = found.fitted + found.held_out
    scale = max(found.total, torch.finfo(torch.float64).tiny)
    before = everything.rr / scale
    if before <= UNCHANGED:
        return Solved(reader.name, before, before)
    ridge = _best(found, constant=constant)
    change = None if ridge is None else solve(everything, ridge=ridge, constant=constant)
    if change is None or error(everything, change) >= everything.rr:
        return Solved(reader.name, before, before, "no other weights do better on other images")
    _take(net, reader, change, everything.origin)
    return Solved(reader.name, before, max(error(everything, change), 0.0) / scale)


def _sums(
    layer: nn.Conv2d, inputs: Iterable[Tensor], target: Target, own: Tensor, *, constant: bool
) -> _Seen:
    """Sum up what is seen; `own` is the level that the layer has now, [out]."""
    weight = solve_shape(layer.weight, getattr(layer, "groups", 1))  # [groups, O, F]
    row = weight.shape[0] * weight.shape[2] * weight.element_size() * target.at.shape[1]
    every = min(HELD_OUT, len(target.at))
    found: _Seen | None = None
    number = 0
    for piece in (piece for batch in inputs for piece in torch.split(batch, max(1, BLOCK // row))):
        end = number + len(piece)
        x = seen(piece, layer, target.at[number:end])  # [n p, groups, F]
        target_output = target.value[number:end].flatten(0, 1).to(x).view(len(x), len(weight), -1)
        r = target_output - torch.einsum("nsf,sof->nso", x, weight)
        r -= own.view(len(weight), -1)
        if found is None:
            origin = x.mean(dim=0) * constant
            found = _Seen(Sums.empty(origin, r.shape[2]), Sums.empty(origin, r.shape[2]))
        others = torch.arange(number, end, device=x.device) % every == every - 1
        others = others.repeat_interleave(target.at.shape[1])
        found.fitted.add(x[~others], r[~others])
        found.held_out.add(x[others], r[others])
        found.total += target_output.double().square().sum().item()
        number = end
    assert found is not None
    return found


def _best(found: _Seen, *, constant: bool) -> float | None:
    """Choose the ridge with the least error on held-out images; None for the present weights."""
    if not found.fitted.rows:  # one image: none is held out
        return RIDGES[len(RIDGES) // 2]
    best, lowest = None, found.held_out.rr
    for ridge in RIDGES:
        change = solve(found.fitted, ridge=ridge, constant=constant)
        left = error(found.held_out, change)
        if change is not None and left < lowest:
            best, lowest = ridge, left
    return best


def _take(net: nn.Module, reader: Reader, change: Change, origin: Tensor) -> None:
    layer = cast("nn.Conv2d", net.get_submodule(reader.name))
    moved = change.level - (origin[:, None].double() @ change.weight)[:, 0]  # [groups, O]
    with torch.no_grad():
        layer.weight += change.weight.transpose(1, 2).reshape(layer.weight.shape).to(layer.weight)
    if change.constant:
        move_output(net, reader, moved.flatten())
