"""Hooks that mask removed channels or skip removed layers, inside a `with` block.

Zeros are put where a channel is read, in front of each consumer: so the mask is
exact for every activation and normalisation, also for those that do not map zero to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prune.core.plan import Removed


@dataclass(frozen=True)
class Skip:
    """Layers that were removed from a network.

    Attributes:
        passes: module of the original -> which of its inputs it returns instead of its output.
        names: name in the original -> name in the pruned network, of every remaining module.
    """

    passes: Mapping[str, int] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def masked(net: nn.Module, gone: Removed) -> Iterator[None]:
    """Zero the removed channels in front of whatever reads them, inside the `with` block."""
    hooks = [
        net.get_submodule(name).register_forward_pre_hook(_zeroing(positions))
        for (name, side), positions in gone.items()
        if side == "in"
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def skipped(net: nn.Module, passes: Mapping[str, int]) -> Iterator[None]:
    """Let modules return one of their inputs as their output, inside the `with` block."""
    hooks = [
        net.get_submodule(name).register_forward_hook(_passing(number))
        for name, number in passes.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _passing(number: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    return lambda module, inputs, output: inputs[number]


def _zeroing(positions: tuple[int, ...]) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    index = torch.tensor(positions)

    def zero(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].index_fill(channel_axis(module), index.to(inputs[0].device), 0),)

    return zero


def channel_axis(layer: nn.Module) -> int:
    """Return the axis of a layer's output, and of its input, along which channels lie."""
    return -1 if isinstance(layer, nn.Linear) else 1
