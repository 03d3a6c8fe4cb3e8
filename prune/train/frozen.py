"""Layers that do not train: their weights stay, and the statistics of their BatchNorms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from prune.errors import InputError

if TYPE_CHECKING:
    from prune.models.darknet import Darknet


def freeze(net: Darknet, layers: Sequence[int]) -> int:
    """Take layers, by their indices, out of training; return how many parameters these are.

    Raises:
        InputError: nothing would be left to train.
    """
    chosen = [parameter for i in layers for parameter in net.module_list[i].parameters()]
    for parameter in chosen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise InputError("every layer is frozen; leave at least one to train")
    return sum(parameter.numel() for parameter in chosen)


def training_mode(net: nn.Module, *, norms: bool = True) -> None:
    """Put a network in training mode, but for BatchNorms that do not train.

    Args:
        net: the network.
        norms: whether BatchNorms normalise by the batch, and learn its statistics; otherwise all
            go by what they have learned, as they will in use.
    """
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and not (norms and module.weight.requires_grad):
            module.eval()
