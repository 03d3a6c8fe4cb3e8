"""Compute only what a masked group changes: the layers behind those that read it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

from prune.core.masking import masked
from prune.core.plan import Plan, Removed, cut_of, removed
from prune.core.trace.groups import Group
from prune.models.darknet import Darknet


@dataclass(frozen=True)
class Mask:
    """Channels of one group at zero.

    Attributes:
        gone: the positions, see `plan.removed`.
        layers: the layers that the zeros reach, ascending.
        needs: outputs of other layers that are read there or are head maps; -1 is the image.
    """

    gone: Removed
    layers: tuple[int, ...]
    needs: frozenset[int]


def mask(net: Darknet, group: Group, channels: Collection[int]) -> Mask:
    """Describe what to compute of a network without some channels of a group; none are allowed."""
    inputs = {layer.index: layer.inputs for layer in net.layers}
    reached = reach(inputs, group) if channels else ()
    read = {source for index in reached for source in inputs[index]}
    needs = (read | set(net.map_layers)) - set(reached)
    cuts = (cut_of(group, channels),) if channels else ()
    gone = removed((group,), Plan("", "given", cuts))
    return Mask(gone, reached, frozenset(needs))


def reach(inputs: Mapping[int, Collection[int]], group: Group) -> tuple[int, ...]:
    """List the layers that depend on the channels of a group, from the first reader on.

    Args:
        inputs: the layers each layer reads, in network order.
        group: of the network.
    """
    readers = {int(slot.name.split(".")[1]) for slot in group.slots if slot.side == "in"}
    reached: list[int] = []
    for index, sources in inputs.items():
        if index in readers or not set(reached).isdisjoint(sources):
            reached.append(index)
    return tuple(reached)


def outputs(net: Darknet, images: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """Compute the outputs of some layers, and only the layers that they depend on.

    Args:
        net: in eval mode.
        images: RGB in 0..1, [N, 3, H, W].
        wanted: layers, -1 for the images.

    Returns:
        The outputs of the wanted layers, [N, C, H / s, W / s] each.
    """
    live = {-1: images}
    kept = {-1: images} if -1 in wanted else {}
    for index in _sources(net, wanted):
        net.run(live, (index,))
        if index in wanted:
            kept[index] = live[index]
    return kept


def _sources(net: Darknet, wanted: Collection[int]) -> list[int]:
    """List layers and all that they depend on, ascending."""
    found = set(wanted)
    for layer in reversed(net.layers):
        if layer.index in found:
            found.update(layer.inputs)
    return sorted(found - {-1})


def maps(net: Darknet, kept: Mapping[int, Tensor], hidden: Mask) -> tuple[Tensor, ...]:
    """Compute the head maps with a group masked; `kept` contains all that the mask needs."""
    live = dict(kept)
    with masked(net, hidden.gone):
        net.run(live, hidden.layers)
    return tuple(live[index] for index in net.map_layers)
