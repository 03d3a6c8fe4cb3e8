"""Add what removed channels contributed on average to the layers that read them.

A layer that loses input channel j loses W[:, j] * x_j. Where x_j varies little, that is nearly a
constant: the sum of W[:, j] over the kernel times the mean of x_j. It is added to the layer's bias
or to the mean of the BatchNorm behind it. For a constant channel this is exact, except at the
border of a layer that pads with zeros: there the kernel covers fewer cells.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod, sqrt
from typing import cast

import torch
from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.core.plan import Plan, removed
from prune.core.recover.readers import Layer, Norm, axis, move_output, paired, watching
from prune.core.trace.groups import Group
from prune.errors import InputError

# Gauss-Hermite quadrature of a standard normal variable: (point, factor).
POINTS: dict[int, tuple[tuple[float, float], ...]] = {
    1: ((0.0, 1.0),),
    3: ((-sqrt(3), 1 / 6), (0.0, 2 / 3), (sqrt(3), 1 / 6)),
}


@dataclass(frozen=True)
class Compensated:
    """The layers that were compensated, and the others, each with the reason."""

    layers: tuple[str, ...]
    left: Mapping[str, str]


def compensate(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[Group],
    plan: Plan,
    *,
    means: Mapping[str, Tensor],
    image: Tensor,
    names: Mapping[str, str] | None = None,
) -> Compensated:
    """Add what removed channels contributed on average to the layers that read them.

    Args:
        original: the network before the cut.
        pruned: changed in place, without its shapes.
        groups: of the original.
        plan: the cut.
        means: of every layer's input channels, [in], by the layer's name; see the functions below.
        image: any input; it shows which BatchNorm stands behind which layer.
        names: of a network that lost whole layers: the original's names -> the pruned one's.

    Raises:
        PlanError: the plan does not fit the groups.
    """
    gone = removed(groups, plan)
    done, left = [], {}
    for name, reader in paired(pruned, image, names):
        leaving = gone.get((name, "in"))
        if not leaving:
            continue
        offset = _offset(original.get_submodule(name), means[name], leaving)
        lost = set(gone.get((name, "out"), ()))
        kept = [i for i in range(len(offset)) if i not in lost]
        if move_output(pruned, reader, offset[kept]):
            done.append(name)
        else:
            left[name] = "it has neither a bias nor a BatchNorm of its own behind it"
    return Compensated(tuple(done), left)


def means_from_images(net: nn.Module, images: Iterable[Tensor]) -> dict[str, Tensor]:
    """Average the input of every layer over images, each batch [N, 3, H, W].

    Raises:
        InputError: no images.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    note = _adding(net, sums, counts, factor=1.0)
    with evaluating(net), watching(net, Layer, before=note):
        for batch in images:
            net(batch)
    if not sums:
        raise InputError("there are no images to average over")
    return {name: total / counts[name] for name, total in sums.items()}


def means_from_norms(
    net: nn.Module, shape: tuple[int, ...], *, points: int = 3
) -> dict[str, Tensor]:
    """Estimate the mean input of every layer from the BatchNorms alone, without any image.

    After training, the output of a BatchNorm has the mean beta, its bias, and the deviation gamma,
    its weight. The network runs with every BatchNorm returning beta + t gamma everywhere, for the
    points t of a quadrature, so that the means pass through activations, concatenations, pools
    and sums to the layers behind. One point is the activation at its mean.

    Args:
        net: it does not change.
        shape: of an input, e.g. (1, 3, 64, 64); its values are 0.5.
        points: 1 or 3.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    image = torch.full(shape, 0.5).to(next(net.parameters()))
    for point, factor in POINTS[points]:
        note = _adding(net, sums, counts, factor=factor)
        with evaluating(net), _constant_norms(net, point), watching(net, Layer, before=note):
            net(image)
    return {name: total * points / counts[name] for name, total in sums.items()}


def _adding(
    net: nn.Module, sums: dict[str, Tensor], counts: dict[str, int], *, factor: float
) -> Callable[[str, Tensor], None]:
    def add(name: str, value: Tensor) -> None:
        channels = axis(net.get_submodule(name)) % value.dim()
        mean = value.mean([a for a in range(value.dim()) if a != channels]).double()  # [in]
        weight = len(value)
        sums[name] = sums.get(name, 0) + factor * weight * mean
        counts[name] = counts.get(name, 0) + weight

    return add


@contextmanager
def _constant_norms(net: nn.Module, point: float) -> Iterator[None]:
    def constant(norm: nn.Module, _: object, output: Tensor) -> Tensor:
        assert isinstance(norm, Norm)
        if not norm.affine:
            return torch.full_like(output, point)
        level = norm.bias + point * norm.weight.abs()  # [C]
        return level.view(1, -1, *[1] * (output.dim() - 2)).expand_as(output)

    hooks = [m.register_forward_hook(constant) for m in net.modules() if isinstance(m, Norm)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _offset(layer: nn.Module, mean: Tensor, leaving: Collection[int]) -> Tensor:
    """Return what input channels contribute to each output at their means, [out]."""
    constant = torch.zeros_like(mean)
    constant[list(leaving)] = mean[list(leaving)]
    weight = cast("nn.Linear", layer).weight.detach().to(mean)
    if isinstance(layer, nn.Linear):
        return weight @ constant
    assert isinstance(layer, nn.modules.conv._ConvNd)
    groups = layer.groups
    table = weight.flatten(2).sum(dim=2)  # [out, in / groups], transposed [in, out / groups]
    if layer.transposed:  # a stride apart, outputs see different cells of the kernel: on average
        table = table.view(groups, -1, table.shape[1]).transpose(1, 2) / prod(layer.stride)
    else:
        table = table.view(groups, -1, table.shape[1])  # [groups, out / groups, in / groups]
    return (table @ constant.view(groups, -1, 1)).flatten()
