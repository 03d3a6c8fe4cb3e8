"""Which channels must leave together: the ports of a trace sorted into frozen groups.

Ports joined one to one form an axis. Concatenation, chunking and flattening join positions of two
axes; a grouped convolution and a chunk tie positions of one axis, so that every share loses equally
many. Positions joined in any way are one channel; channels that touch the same axes are a group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import nn

from prune.tracing import Port, Traced, traced

PRODUCERS = ("convolution", "depthwise", "linear")

Element = tuple[int, int]  # an axis, by its first port, and a position on it
Index = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Slot:
    """One place the channels of a group have in the network.

    Attributes:
        name: path of a module, or of a bare parameter such as "module_list.164.implicit".
        side: "out" where channels are made or passed on, "in" where a layer reads them.
        index: for each channel of the group its positions here.
        kind: "convolution", "depthwise", "linear", "norm", "prelu" or "parameter".
        dim: the axis of a bare parameter that holds channels.
    """

    name: str
    side: str
    index: Index
    kind: str = "convolution"
    dim: int = 0


@dataclass(frozen=True)
class Group:
    """Channels that can only leave together, in several layers at once.

    Attributes:
        root: the first layer that makes them.
        channels: how many there are to choose from.
        slots: everywhere they live, in network order.
        kept: why none of them may go; None where they may.
    """

    root: str
    channels: int
    slots: tuple[Slot, ...]
    kept: str | None = None

    @property
    def producers(self) -> tuple[str, ...]:
        """Name the convolutions and linear layers that make the channels, in network order."""
        return tuple(s.name for s in self.slots if s.side == "out" and s.kind in PRODUCERS)

    @property
    def width(self) -> int:
        """Count the channels as outputs of the root: tied channels are several there."""
        return sum(map(len, self.slot(self.root).index))

    def slot(self, name: str, side: str = "out") -> Slot:
        """Return the slot of one layer that is in the group."""
        return next(s for s in self.slots if (s.name, s.side) == (name, side))


def trace(
    net: nn.Module, shape: tuple[int, ...], *, protected: Collection[str] = ()
) -> tuple[Group, ...]:
    """Find every coupled group of a network once.

    Args:
        net: any module that takes one tensor and returns tensors in any nesting; it is not touched.
        shape: of the tensor it takes, e.g. (1, 3, 64, 64).
        protected: names of layers whose outputs must stay.

    Returns:
        The groups in network order of their roots.

    Raises:
        PlanError: the network cannot be run at this shape.
    """
    return groups_of(traced(net, shape), protected=protected)


def groups_of(run: Traced, *, protected: Collection[str] = ()) -> tuple[Group, ...]:
    """Sort the ports of a trace into groups."""
    axis_of = _axes(run)
    members: dict[int, list[Port]] = defaultdict(list)
    for number, port in enumerate(run.ports):
        if port.name:
            members[axis_of[number]].append(port)
    doubts = _doubts(run, axis_of, protected)
    channels = _channels(run, axis_of)
    alike: dict[tuple[tuple[int, int], ...], list[list[Element]]] = defaultdict(list)
    for channel in channels:
        alike[_signature(channel)].append(channel)
    found = (_group(same, members, doubts) for same in alike.values())
    order = {port.name: port.order for port in run.ports if port.name}
    return tuple(sorted(filter(None, found), key=lambda g: (order[g.root], g.slots[0].index)))


def _axes(run: Traced) -> list[int]:
    """Merge ports that are joined one to one; give each port the first of its axis."""
    sets = _Sets(range(len(run.ports)))
    for joint in run.joints:
        if joint.pairs is None:
            sets.join(joint.first, joint.second)
    return [sets.find(number) for number in range(len(run.ports))]


def _doubts(run: Traced, axis_of: list[int], protected: Collection[str]) -> dict[int, str]:
    doubts: dict[int, str] = {}
    for number, port in enumerate(run.ports):
        if port.name in protected and port.side == "out":
            doubts.setdefault(axis_of[number], f"it reaches {port.name}, whose outputs must stay")
    for number, reason in run.doubts.items():
        doubts.setdefault(axis_of[number], reason)
    return doubts


def _channels(run: Traced, axis_of: list[int]) -> Iterable[list[Element]]:
    """Collect the positions of each channel, over all axes."""
    starts, total = {}, 0
    for axis in sorted(set(axis_of)):
        starts[axis], total = total, total + run.ports[axis].size
    sets = _Sets(range(total))
    for joint in run.joints:
        first, second = starts[axis_of[joint.first]], starts[axis_of[joint.second]]
        for here, there in joint.pairs or ():
            sets.join(first + here, second + there)
    for number, share in run.ties.items():
        start = starts[axis_of[number]]
        for position in range(share, run.ports[number].size):
            sets.join(start + position % share, start + position)
    channels: dict[int, list[Element]] = defaultdict(list)
    for axis, start in starts.items():
        for position in range(run.ports[axis].size):
            channels[sets.find(start + position)].append((axis, position))
    return channels.values()


def _signature(channel: list[Element]) -> tuple[tuple[int, int], ...]:
    """Say which axes a channel touches and how often."""
    counts: dict[int, int] = defaultdict(int)
    for axis, _ in channel:
        counts[axis] += 1
    return tuple(counts.items())


def _group(
    channels: list[list[Element]], members: dict[int, list[Port]], doubts: dict[int, str]
) -> Group | None:
    """Make a group of channels that touch the same axes; None where no layer makes them."""
    axes = list(dict.fromkeys(axis for axis, _ in channels[0]))
    makers = [
        (port.order, axis, port.name)
        for axis in axes
        for port in members[axis]
        if port.side == "out" and port.kind in PRODUCERS
    ]
    if not makers:
        return None
    _, home, root = min(makers)
    channels = sorted(channels, key=lambda channel: next(p for a, p in channel if a == home))
    index = {
        axis: tuple(tuple(p for a, p in channel if a == axis) for channel in channels)
        for axis in axes
    }
    ports = [(port, index[axis]) for axis in axes for port in members[axis]]
    ports.sort(key=lambda pair: (pair[0].order, pair[0].side == "out"))
    return Group(
        root=root,
        channels=len(channels),
        slots=tuple(Slot(p.name, p.side, i, p.kind, p.dim) for p, i in ports),
        kept=next((doubts[axis] for axis in axes if axis in doubts), None),
    )


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
