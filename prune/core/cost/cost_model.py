"""The cost of a network with fewer channels, computed from its groups without cutting it.

MACs and weights of a layer grow with its inputs times its outputs; its other parameters grow with
its channels. So the cost of any plan is a sum of products of widths: the same that `count` returns
for the pruned network, in microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prune.core.cost.macs import Cost, per_layer
from prune.core.trace.groups import Group, Slot
from prune.core.trace.meta import Inputs

Numbers = NDArray[np.float64]
Kept = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class CostModel:
    """The cost of a network as a function of the channels that each group keeps.

    L convolutions and linear layers, G groups. A width is fixed + by @ kept.

    Attributes:
        names: of the layers, [L].
        macs: MACs per pair of an input and an output of a layer, [L].
        weights: weights per such pair, [L].
        fixed_in: inputs of each layer that belong to no group, [L].
        fixed_out: likewise outputs, [L].
        by_in: inputs of a layer per channel of a group, [L, G].
        by_out: likewise outputs, [L, G].
        rest: parameters that no channel count changes.
        per_channel: other parameters per channel: biases, normalisations, parameters, [G].
        full: channels of each group, [G].
    """

    names: tuple[str, ...]
    macs: Numbers
    weights: Numbers
    fixed_in: Numbers
    fixed_out: Numbers
    by_in: Numbers
    by_out: Numbers
    rest: float
    per_channel: Numbers
    full: NDArray[np.int64]

    def of(self, kept: Kept) -> Cost:
        """Return the cost of the network when each group keeps so many channels, [G]."""
        channels = np.asarray(kept, dtype=np.float64)
        products = self._products(channels)
        params = self.weights @ products + self.per_channel @ channels + self.rest
        return Cost(params=round(float(params)), macs=round(float(self.macs @ products)))

    def layers(self, kept: Kept) -> dict[str, int]:
        """Return the MACs of each layer when each group keeps so many channels, [G]."""
        each = self.macs * self._products(np.asarray(kept, dtype=np.float64))
        return {name: round(macs) for name, macs in zip(self.names, each, strict=True)}

    def total(self, metric: str, kept: Kept | None = None) -> int:
        """Return the "macs" or "params" when each group keeps so many channels; None for all."""
        return self.of(self.full if kept is None else kept).total(metric)

    def saved(self, kept: Kept, *, metric: str) -> Numbers:
        """Return what removing one more channel of each group saves, [G]: "macs" or "params"."""
        channels = np.asarray(kept, dtype=np.float64)
        width_in = self.fixed_in + self.by_in @ channels
        width_out = self.fixed_out + self.by_out @ channels
        both = self.by_in * width_out[:, None] + self.by_out * width_in[:, None]
        both -= self.by_in * self.by_out
        gain: Numbers = (self.macs if metric == "macs" else self.weights) @ both
        return gain if metric == "macs" else gain + self.per_channel

    def _products(self, channels: Numbers) -> Numbers:
        inputs = self.fixed_in + self.by_in @ channels
        outputs = self.fixed_out + self.by_out @ channels
        products: Numbers = inputs * outputs
        return products


def cost_model(net: nn.Module, groups: Sequence[Group], inputs: Inputs) -> CostModel:
    """Read the coefficients off a network.

    Args:
        net: any module the groups were found in.
        groups: all of them, protected ones included.
        inputs: the shapes it takes, e.g. (1, 3, 640, 640).

    Raises:
        PlanError: the network cannot be run with these inputs.
    """
    measured = per_layer(net, inputs)
    layers = {n: m for n, m in net.named_modules() if isinstance(m, _LAYERS) and n in measured}
    widths = {name: _widths(layer) for name, layer in layers.items()}
    by = {side: np.zeros((len(layers), len(groups))) for side in ("in", "out")}
    row = {name: number for number, name in enumerate(layers)}
    for column, group in enumerate(groups):
        for slot in group.slots:
            if slot.name in row:
                by[slot.side][row[slot.name], column] = len(slot.index[0])
    for name, layer in layers.items():
        if is_depthwise(layer):  # each output reads its own input: a width of one, whatever is cut
            by["in"][row[name]] = 0
            widths[name] = (1, widths[name][1])
    full = np.array([group.channels for group in groups], dtype=np.int64)
    width_in = np.array([widths[name][0] for name in layers], dtype=np.float64)
    width_out = np.array([widths[name][1] for name in layers], dtype=np.float64)
    per_channel = _per_channel(net, groups, layers)
    weights = np.array([_weight(layer).numel() for layer in layers.values()], dtype=np.float64)
    all_params = sum(parameter.numel() for parameter in net.parameters())
    return CostModel(
        names=tuple(layers),
        macs=np.array([measured[name].macs for name in layers]) / (width_in * width_out),
        weights=weights / (width_in * width_out),
        fixed_in=width_in - by["in"] @ full,
        fixed_out=width_out - by["out"] @ full,
        by_in=by["in"],
        by_out=by["out"],
        rest=float(all_params - weights.sum() - per_channel @ full),
        per_channel=per_channel,
        full=full,
    )


_LAYERS = (nn.modules.conv._ConvNd, nn.Linear)


def _widths(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return layer.in_channels, layer.out_channels


def is_depthwise(layer: nn.Module) -> bool:
    """Return whether each output of a layer reads a single input, its own."""
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return False
    return layer.groups > 1 and layer.groups == layer.in_channels == layer.out_channels


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _per_channel(
    net: nn.Module, groups: Sequence[Group], layers: Mapping[str, nn.Module]
) -> Numbers:
    """Count the parameters per channel of each group beside weights, [G]."""
    counts = np.zeros(len(groups))
    for number, group in enumerate(groups):
        for slot in group.slots:
            if slot.side == "out":
                counts[number] += len(slot.index[0]) * _parameters_of(
                    net, slot, slot.name in layers
                )
    return counts


def _parameters_of(net: nn.Module, slot: Slot, weighted: bool) -> float:
    """Count the parameters of one position of a slot, except the weights of a layer."""
    if slot.kind == "parameter":
        parameter = net.get_parameter(slot.name)
        return parameter.numel() / parameter.shape[slot.dim]
    own = dict(net.get_submodule(slot.name).named_parameters(recurse=False))
    if weighted:
        return float("bias" in own and own["bias"] is not None)
    return float(len(own))
