"""What a checkpoint's network is made of and what each layer costs, as plain rows."""

from __future__ import annotations

from dataclasses import dataclass

from prune.checkpoint.file import Checkpoint, network
from prune.common.size import Size
from prune.core.cost.macs import Cost, per_layer
from prune.core.trace.groups import Group
from prune.models.darknet import Darknet
from prune.models.groups import detector_groups


@dataclass(frozen=True)
class Layer:
    """One row of a network: channels, cost of one picture, output size in cells.

    `activation` is a key of `models.layers.ACTIVATIONS`, None for a layer that has none to name.
    """

    index: int
    type: str
    activation: str | None
    inputs: tuple[int, ...]
    in_channels: int
    out_channels: int
    params: int
    macs: int
    height: int
    width: int


@dataclass(frozen=True)
class Inventory:
    """A network's layers for one picture size, and what is coupled in it.

    Attributes:
        imgsz: size of the image.
        params: learned numbers in all.
        macs: multiply-adds of one picture.
    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    imgsz: Size
    params: int
    macs: int


def take(found: Checkpoint, *, imgsz: Size | None = None) -> Inventory:
    """List a checkpoint's layers and couplings.

    Args:
        found: the checkpoint.
        imgsz: size of the image; the checkpoint's own without it.

    Raises:
        CheckpointError: the weights do not fit the cfg.
        PlanError: the network cannot take a picture of that size.
    """
    net = network(found)
    size = imgsz or found.imgsz
    costs = per_layer(net, size.batch())
    return Inventory(
        layers=_layers(net, costs),
        groups=detector_groups(net),
        imgsz=size,
        params=sum(parameter.numel() for parameter in net.parameters()),
        macs=sum(cost.macs for cost in costs.values()),
    )


def _layers(net: Darknet, costs: dict[str, Cost]) -> tuple[Layer, ...]:
    return tuple(
        Layer(
            info.index,
            info.kind,
            section.options.get("activation"),
            info.inputs,
            info.in_channels,
            info.out_channels,
            *_sums(costs, f"module_list.{info.index}"),
        )
        for info, section in zip(net.layers, net.sections[1:], strict=True)
    )


def _sums(costs: dict[str, Cost], name: str) -> tuple[int, int, int, int]:
    """Add up a layer's parts: parameters, MACs; and take its output's height and width."""
    parts = [cost for path, cost in costs.items() if path == name or path.startswith(f"{name}.")]
    output = costs[name].output
    height, width = output[2:] if len(output) == 4 else (1, 1)
    return sum(p.params for p in parts), sum(p.macs for p in parts), height, width
