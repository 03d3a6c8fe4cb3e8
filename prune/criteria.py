"""Criteria: a layer's weights -> one score a filter; the lowest go first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

# A criterion takes filters, [out, in, ...], and a generator for those that draw numbers; it
# returns one score a filter, [out].
Criterion = Callable[[Tensor, Generator], Tensor]


def filters(layer: nn.Module) -> Tensor:
    """Return the weight of a convolution or linear layer in float32, [out, in / groups, ...]."""
    weight = layer.weight
    assert isinstance(weight, Tensor), f"{type(layer).__name__} makes no channels"
    turned = weight.transpose(0, 1) if getattr(layer, "transposed", False) else weight
    return turned.detach().float()


def l1_norm(weight: Tensor, _: Generator) -> Tensor:
    """Score each filter by its absolute sum (Li et al. 2017, arXiv:1608.08710).

    Args:
        weight: filters, [out, in, ...].

    Returns:
        One score a filter, [out].
    """
    return weight.abs().flatten(1).sum(dim=1)


def l2_norm(weight: Tensor, _: Generator) -> Tensor:
    """Score each filter by its Euclidean norm (He et al. 2018, arXiv:1808.06866).

    Args:
        weight: filters, [out, in, ...].

    Returns:
        One score a filter, [out].
    """
    return weight.pow(2).flatten(1).sum(dim=1).sqrt()


def random(weight: Tensor, generator: Generator) -> Tensor:
    """Score by chance: what any criterion has to beat (Mittal et al. 2018, arXiv:1801.10447)."""
    return torch.rand(weight.shape[0], generator=generator)  # [out]


CRITERIA: dict[str, Criterion] = {"l1": l1_norm, "l2": l2_norm, "random": random}
