"""A network as a list of timed layers, each of a kind, with widths as functions of the groups."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune.core.cost.cost_model import CostModel, is_depthwise
from prune.models.darknet import Darknet
from prune.models.layout import LayerInfo
from prune.models.sections import Section

Numbers = NDArray[np.float64]

NOBODY = -1  # index of what belongs to no layer: decoding, reordering, the call itself

# The options that decide how long a layer of given widths takes on given maps.
_SHAPING = ("size", "stride", "stride_x", "stride_y", "groups", "activation", "weights_type")


@dataclass(frozen=True)
class Timed:
    """A layer of a network as it is deployed.

    Attributes:
        index: its position in the deployed network's module_list, or NOBODY.
        kind: its operation and the size of its maps, e.g. "convolutional size=3 stride=1
            activation=silu 40x40".
        channels_in: width of its input; 1 for a depthwise convolution, which reads one per output.
        channels_out: width of its output.
    """

    index: int
    kind: str
    channels_in: int
    channels_out: int


def timed(
    net: Darknet, imgsz: tuple[int, int], *, known: Collection[str] | None = None
) -> tuple[Timed, ...]:
    """List the layers of a network as it is deployed, for images of `imgsz` pixels, H and W.

    A layer without inputs is a constant and takes no time. What belongs to no layer comes last, as
    one layer with the inputs of all.

    Args:
        net: the network.
        imgsz: of its images.
        known: for a pruned network the kinds of the original. A grouped convolution with one
            channel per group left looks depthwise; it keeps its kind if that one is not known.
    """
    each = zip(net.sections[1:], net.layers, net.module_list, strict=True)
    layers = [_layer(*one, imgsz=imgsz, known=known) for one in each if one[1].inputs]
    width = sum(layer.channels_in for layer in layers)
    return (*layers, Timed(NOBODY, f"rest {imgsz[0]}x{imgsz[1]}", width, 0))


def _layer(
    section: Section,
    info: LayerInfo,
    module: nn.Module,
    *,
    imgsz: tuple[int, int],
    known: Collection[str] | None,
) -> Timed:
    said = {key: section.options[key] for key in _SHAPING if key in section.options}
    sides = [side // by if by else 1 for side, by in zip(imgsz, info.strides, strict=True)]
    plain = Timed(info.index, _kind(section, said, sides), info.in_channels, info.out_channels)
    if not is_depthwise(getattr(module, "Conv2d", module)):
        return plain
    kind = _kind(section, {**said, "groups": "each"}, sides)  # their number follows the width
    return replace(plain, kind=kind, channels_in=1) if known is None or kind in known else plain


def _kind(section: Section, said: Mapping[str, str], sides: Sequence[int]) -> str:
    options = (f"{key}={value}" for key, value in said.items())
    return " ".join((section.kind, *options, "x".join(map(str, sides))))


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

    def of(self, kept: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
        """Return the widths of inputs and outputs for kept channels, [..., G] -> [..., L] each."""
        return self.fixed_in + kept @ self.by_in.T, self.fixed_out + kept @ self.by_out.T


def widths(deployed: Darknet, costs: CostModel) -> Widths:
    """Follow the widths of a network through all layers that `timed` lists.

    Args:
        deployed: the network with its BatchNorms folded: its convolutions are those of the
            network that `costs` was read from, in the same order.
        costs: widths of the convolutions as functions of the groups.
    """
    groups = len(costs.full)
    outs = {-1: _constant(deployed.layers[0].in_channels, groups)}  # rows: by, then fixed
    rows = []  # in and out
    convolutions = iter(range(len(costs.names)))
    for info in deployed.layers:
        read = [outs[index] for index in info.inputs]
        if info.kind == "convolutional":
            row = next(convolutions)
            inflow = np.append(costs.by_in[row], costs.fixed_in[row])
            outs[info.index] = np.append(costs.by_out[row], costs.fixed_out[row])
        elif read:
            inflow = np.sum(read if info.kind == "route" else read[:1], axis=0)
            outs[info.index] = inflow * (info.out_channels / info.in_channels)
        else:
            outs[info.index] = _constant(info.out_channels, groups)
            continue
        rows.append((inflow, outs[info.index]))
    rows.append((np.sum([inflow for inflow, _ in rows], axis=0), np.zeros(groups + 1)))
    wide_in, wide_out = np.swapaxes(np.array(rows), 0, 1)  # each [L, G + 1]
    return Widths(wide_in[:, -1], wide_in[:, :-1], wide_out[:, -1], wide_out[:, :-1])


def _constant(width: int, groups: int) -> Numbers:
    row = np.zeros(groups + 1)
    row[-1] = width
    return row
