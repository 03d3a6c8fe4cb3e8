"""Which channels can only be removed together: the ports of a trace, sorted into frozen groups.

Ports joined one to one form an axis. Concatenation, chunking and flattening join positions of two
axes; a grouped convolution and a chunk tie positions of one axis, so that every group of the
convolution loses equally many. Positions joined in any way are one channel; channels that touch the
same axes are a group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prune.core.trace.coupling import Port, Traced, record_coupling
from prune.core.trace.dataflow import MAKERS
from prune.core.trace.meta import Inputs

Index = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Slot:
    """One place of a group's channels in the network.

    Attributes:
        name: path of a module, or of a bare parameter such as "module_list.164.implicit".
        side: "out" where channels are computed or passed on, "in" where a layer reads them.
        index: for each channel of the group its positions here.
        kind: "convolution", "depthwise", "linear", "norm", "prelu" or "parameter".
        dim: the channel axis of a bare parameter.
    """

    name: str
    side: str
    index: Index
    kind: str = "convolution"
    dim: int = 0


@dataclass(frozen=True)
class Group:
    """Channels that can only be removed together, in several layers at once.

    Attributes:
        root: the first layer that computes them.
        channels: how many there are to choose from.
        slots: all places of them, in network order.
        protected: why they cannot be pruned; None where they can.
    """

    root: str
    channels: int
    slots: tuple[Slot, ...]
    protected: str | None = None

    @property
    def producers(self) -> tuple[str, ...]:
        """Name the convolutions and linear layers that compute the channels, in network order."""
        return tuple(s.name for s in self.slots if s.side == "out" and s.kind in MAKERS)

    @property
    def width(self) -> int:
        """Count the channels as outputs of the root, where a tied channel is several."""
        return sum(map(len, self.slot(self.root).index))

    def slot(self, name: str, side: str = "out") -> Slot:
        """Return the slot of one layer that is in the group."""
        return next(s for s in self.slots if (s.name, s.side) == (name, side))


def trace(net: nn.Module, inputs: Inputs, *, protected: Collection[str] = ()) -> tuple[Group, ...]:
    """Find every coupled group of a network once.

    Args:
        net: any module that takes tensors and returns tensors in any nesting; it does not change.
        inputs: the shapes it takes, e.g. (1, 3, 64, 64).
        protected: names of modules whose outputs are protected.

    Returns:
        The groups in network order of their roots.

    Raises:
        PlanError: the network cannot be run with these inputs, or a protected module never runs.
    """
    return groups_of(record_coupling(net, inputs, keep=protected))


def groups_of(run: Traced) -> tuple[Group, ...]:
    """Sort the ports of a trace into groups."""
    axis_of = _axes(run)
    members: dict[int, list[Port]] = defaultdict(list)
    for number, port in enumerate(run.ports):
        if port.name:
            members[axis_of[number]].append(port)
    doubts: dict[int, str] = {}
    for number, reason in run.doubts.items():
        doubts.setdefault(axis_of[number], reason)
    alike: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    for axes, positions in _channels(run, axis_of):
        alike[axes].append(positions)
    found = (_group(axes, channels, members, doubts) for axes, channels in alike.items())
    order = {port.name: port.order for port in run.ports if port.name}
    return tuple(sorted(filter(None, found), key=lambda g: (order[g.root], g.slots[0].index)))


def structures(net: nn.Module, groups: Sequence[Group]) -> tuple[str, ...]:
    """Name the structure of each group: kinds, sides and kernels of its places, in order."""
    kernels = {name: getattr(m, "kernel_size", ()) for name, m in net.named_modules()}
    return tuple(
        " ".join(f"{s.kind}/{s.side}{kernels.get(s.name, ())}" for s in group.slots)
        for group in groups
    )


def _axes(run: Traced) -> list[int]:
    """Merge ports that are joined one to one; give each port the first of its axis."""
    sets = _Sets(range(len(run.ports)))
    for joint in run.joints:
        if joint.pairs is None:
            sets.join(joint.first, joint.second)
    return [sets.find(number) for number in range(len(run.ports))]


def _channels(
    run: Traced, axis_of: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Collect the places of each channel: the axes, once a place, and the position on each."""
    if not axis_of:
        return
    axes = sorted(set(axis_of))
    sizes = [run.ports[axis].size for axis in axes]
    starts = dict(zip(axes, [0, *accumulate(sizes)], strict=False))
    links = [
        (starts[axis_of[joint.first]] + here, starts[axis_of[joint.second]] + there)
        for joint in run.joints
        for here, there in joint.pairs or ()
    ]
    for number, share in run.ties.items():
        start = starts[axis_of[number]]
        links += [(start + p % share, start + p) for p in range(share, run.ports[number].size)]
    names = _lowest_of_each(sum(sizes), links)
    axis = np.repeat(axes, sizes)  # of every place
    position = np.concatenate([np.arange(size) for size in sizes])
    together = np.argsort(names, kind="stable")
    borders = [0, *(np.flatnonzero(np.diff(names[together])) + 1).tolist(), len(names)]
    of_axis, of_position = axis[together].tolist(), position[together].tolist()
    for low, high in pairwise(borders):
        yield tuple(of_axis[low:high]), tuple(of_position[low:high])


def _lowest_of_each(count: int, links: Sequence[tuple[int, int]]) -> NDArray[np.intp]:
    """Name every place 0..count-1 by the lowest one it is linked with, directly or not."""
    names = np.arange(count)
    first, second = np.array(links, dtype=np.intp).reshape(-1, 2).T
    while (names[first] != names[second]).any():
        lower = np.minimum(names[first], names[second])
        for ends in (first, second):
            np.minimum.at(names, names[ends], lower)
        names = names[names]
    return names


def _group(
    axes: tuple[int, ...],
    channels: list[tuple[int, ...]],
    members: dict[int, list[Port]],
    doubts: dict[int, str],
) -> Group | None:
    """Make a group of channels that touch the same axes; None where no layer makes them."""
    makers = [
        (port.order, axis, port.name)
        for axis in set(axes)
        for port in members[axis]
        if port.side == "out" and port.kind in MAKERS
    ]
    if not makers:
        return None
    _, home, root = min(makers)
    channels = sorted(channels, key=itemgetter(axes.index(home)))
    index = {axis: _columns(axes, axis, channels) for axis in dict.fromkeys(axes)}
    ports = [(port, index[axis]) for axis in index for port in members[axis]]
    ports.sort(key=lambda pair: (pair[0].order, pair[0].side == "out"))
    return Group(
        root=root,
        channels=len(channels),
        slots=tuple(Slot(p.name, p.side, i, p.kind, p.dim) for p, i in ports),
        protected=next((doubts[axis] for axis in index if axis in doubts), None),
    )


def _columns(axes: tuple[int, ...], axis: int, channels: list[tuple[int, ...]]) -> Index:
    """Take the positions on one axis out of every channel."""
    low = axes.index(axis)  # places are sorted, so those of an axis stand together
    high = low + axes.count(axis)
    return tuple(channel[low:high] for channel in channels)


class _Sets:
    """Disjoint sets of numbers (union-find with path halving); a set is named by its lowest."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._parent = list(numbers)

    def find(self, number: int) -> int:
        parent = self._parent
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    def join(self, first: int, second: int) -> None:
        low, high = sorted((self.find(first), self.find(second)))
        self._parent[high] = low
