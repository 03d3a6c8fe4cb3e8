"""A network as a list of layers that take time, each of a kind, with widths that groups decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune.costs import Costs
from prune.models.darknet import Darknet
from prune.models.layout import LayerInfo
from prune.models.sections import Section

Numbers = NDArray[np.float64]

# What says how long a layer of given widths takes on given maps.
_SHAPING = ("size", "stride", "stride_x", "stride_y", "groups", "activation")


@dataclass(frozen=True)
class Timed:
    """A layer of a network as it is deployed.

    Attributes:
        index: its position in the deployed network's module_list.
        kind: what it does on which maps, e.g. "convolutional size=3 stride=1 silu 40x40".
        channels_in: width of what it reads.
        channels_out: width of what it gives.
    """

    index: int
    kind: str
    channels_in: int
    channels_out: int


def timed(net: Darknet, imgsz: int) -> tuple[Timed, ...]:
    """List the layers of a network as it is deployed, for square pictures of `imgsz` pixels."""
    pairs = zip(net.sections[1:], net.layers, strict=True)
    return tuple(
        Timed(info.index, _kind(section, info, imgsz), info.in_channels, info.out_channels)
        for section, info in pairs
    )


def _kind(section: Section, info: LayerInfo, imgsz: int) -> str:
    said = [f"{key}={section.options[key]}" for key in _SHAPING if key in section.options]
    sides = [imgsz // stride if stride else 1 for stride in info.strides]
    return " ".join((section.kind, *said, "x".join(map(str, sides))))


@dataclass(frozen=True)
class Widths:
    """Widths of L layers as functions of the channels that G groups keep: fixed + by @ kept.

    Attributes:
        fixed_in: [L].
        by_in: [L, G].
        fixed_out: [L].
        by_out: [L, G].
    """

    fixed_in: Numbers
    by_in: Numbers
    fixed_out: Numbers
    by_out: Numbers


def widths(deployed: Darknet, of: Costs) -> Widths:
    """Follow the widths of a network through all its layers.

    Args:
        deployed: the network with all folded that can be: its convolutions are those of the
            network that `of` was read from, in the same order.
        of: widths of the convolutions as functions of the groups.
    """
    groups = len(of.full)
    empty = np.zeros(groups + 1)
    outs: dict[int, Numbers] = {-1: empty + np.eye(1, groups + 1, groups)[0] * 3}
    ins: dict[int, Numbers] = {}
    convolutions = iter(range(len(of.names)))
    for section, info in zip(deployed.sections[1:], deployed.layers, strict=True):
        read = [outs[index] for index in info.inputs]
        if section.kind == "convolutional":
            row = next(convolutions)
            ins[info.index] = np.append(of.by_in[row], of.fixed_in[row])
            outs[info.index] = np.append(of.by_out[row], of.fixed_out[row])
            continue
        ins[info.index] = _joined(section, info, read) if read else empty
        outs[info.index] = _given(section, info, ins[info.index], groups)
    rows_in, rows_out = (
        np.stack([side[i] for i in range(len(deployed.layers))]) for side in (ins, outs)
    )
    return Widths(rows_in[:, -1], rows_in[:, :-1], rows_out[:, -1], rows_out[:, :-1])


def _joined(section: Section, info: LayerInfo, read: Sequence[Numbers]) -> Numbers:
    """Say how wide what a layer reads is: of a route all inputs, of a sum or product one."""
    return np.sum(read, axis=0) if section.kind == "route" else read[0]


def _given(section: Section, info: LayerInfo, came: Numbers, groups: int) -> Numbers:
    """Say how wide what a layer gives is: a fixed share of what came, or of its own width."""
    if info.in_channels:
        return came * (info.out_channels / info.in_channels)
    own = np.zeros(groups + 1)
    own[-1] = info.out_channels
    return own
