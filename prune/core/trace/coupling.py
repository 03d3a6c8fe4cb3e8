"""One run of a network, as ports where channels live and joints between them.

Everything is read from autograd, so that broadcasting, slices and constants are seen. What cannot
be followed becomes a doubt, and a doubt is never cut through.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import nn

from prune.core.trace import op_rules
from prune.core.trace.dataflow import LAYERS, MAKERS, TWO_SIDED, Node, behind, nodes_of
from prune.core.trace.meta import Inputs
from prune.core.trace.op_rules import aligned, carried, first_place, joins, parts, slices, splits
from prune.core.trace.recorder import Edge, Record, kind, recorded, shared_weights

Pairs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Port:
    """One side of something that carries channels; operations between layers have no name.

    Attributes:
        size: its number of channels; 0 where it has no channel axis.
        dim: the axis of a bare parameter that holds channels.
        order: when its layer first ran.
    """

    size: int
    name: str = ""
    side: str = "out"
    kind: str = ""
    dim: int = 0
    order: int = 0


@dataclass(frozen=True)
class Joint:
    """Two ports, by number, whose positions hold the same channels; no pairs: one to one."""

    first: int
    second: int
    pairs: Pairs | None = None


@dataclass(frozen=True)
class Traced:
    """A network's ports and what joins them.

    Attributes:
        ties: port -> share; positions that are equal modulo the share must leave together.
        doubts: port -> why its channels must stay.
        odd: layer -> why it is no layer that can be followed.
        unreached: convolutions and linear layers that never ran.
    """

    ports: list[Port] = field(default_factory=list)
    joints: list[Joint] = field(default_factory=list)
    ties: dict[int, int] = field(default_factory=dict)
    doubts: dict[int, str] = field(default_factory=dict)
    odd: dict[str, str] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)


def record_coupling(net: nn.Module, inputs: Inputs, *, keep: Collection[str] = ()) -> Traced:
    """Run a network on shapes alone; `net` is not touched.

    Args:
        net: any module.
        inputs: what it takes.
        keep: names of modules whose results must keep their channels.

    Raises:
        PlanError: the network cannot be run with these inputs, or a kept module never runs.
    """
    return _Reader(recorded(net, inputs, keep=keep)).read()


class _Reader:
    """Turns the nodes of a run into ports, joints, ties and doubts."""

    def __init__(self, run: Record) -> None:
        self.run = run
        self.out = Traced()
        self.nodes = nodes_of(run)
        self.numbers: dict[tuple[Node, str], int] = {}  # node, side -> port
        self.fixed: dict[Node, str] = {}  # parameter -> where its width is taken for granted
        self.axis: dict[Node, int] = {}  # of operations that keep channels, in their results

    def read(self) -> Traced:
        channelled = dict.fromkeys(n for n in self.nodes.values() if "layer" in n.origins)
        for node in sorted(channelled, key=lambda node: not node.kind):  # layers know their axes
            (self._open_layer if node.kind else self._open)(node)
        for node in channelled:
            self._join_all(node)
        for node in dict.fromkeys(self.nodes.values()):
            if node.origins == {"parameter"}:
                self._join_parameter(node)
        self._doubt_constants()
        self._doubt_what_must_stay()
        shared = shared_weights(self.run.net)
        for number, port in enumerate(self.out.ports):
            if port.name in shared:
                self.out.doubts.setdefault(number, shared[port.name])
        used = {node.module for node in self.nodes.values()}  # also by their weights alone
        for name, module in self.run.net.named_modules():
            if module in self.run.odd:
                self.out.odd[name] = self.run.odd[module]
            elif kind(module) in MAKERS and module not in used:
                self.out.unreached.append(name)
        return self.out

    # Opening: every node that carries channels gets its ports.

    def _open_layer(self, node: Node) -> None:
        """Open both sides of a layer; tie the shares of a grouped convolution."""
        if node.kind not in TWO_SIDED:
            self._add(node, "out", node.shape[1])
            if reason := _unequal(node.module):
                self._doubt(node, "out", reason)
            return
        groups = getattr(node.module, "groups", 1)
        for side, size in zip(("in", "out"), _widths(node.module), strict=True):
            self._add(node, side, size)
            if groups > 1:
                self.out.ties[self.numbers[node, side]] = size // groups
            if groups > 1 and getattr(node.module, "transposed", False):
                self._doubt(node, side, "it meets a grouped transposed convolution")

    def _open(self, node: Node) -> None:
        """Open the port of an operation, which lies where its operands put the channels."""
        placed: list[tuple[Node, Edge]] = []
        lost: list[Node] = []
        answers: set[int | str] = set()
        for source, edge in node.inputs:
            if "layer" in source.origins:
                if (axis := self._at(source, edge)) is None:
                    lost.append(source)
                    continue
                placed.append((source, edge))
                even = node.source in self.run.chunks or node.source in self.run.leading
                answers.add(op_rules.after(node, edge, axis, even=even))
        found = sorted(answer for answer in answers if isinstance(answer, int))
        reasons = [answer for answer in answers if isinstance(answer, str)]
        if len(found) > 1:
            reasons.append(f"its channels meet on axes {found} in {node.label}")
        if reasons or not found:
            self._add(node, "out", 0)
            self._doubt(node, "out", min(reasons) if reasons else self._why(lost[0]))
            return
        self.axis[node] = axis = found[0]
        source, edge = placed[0]
        at = self._at(source, edge)
        split = at is not None and splits(node, axis)
        self._add(node, "out", edge.shape[at] if split and at is not None else node.shape[axis])
        if split:
            self.out.ties[self.numbers[node, "out"]] = parts(node, axis)[0]
        if reason := self._foreign(node, axis):
            self._doubt(node, "out", reason)

    def _why(self, node: Node) -> str:
        return self.out.doubts[self.numbers[node, "out"]]

    def _at(self, source: Node, edge: Edge) -> int | None:
        """Return the axis along which the channels of a tensor lie."""
        if source.kind:
            return len(edge.shape) - 1 if source.kind == "linear" else 1
        return self.axis.get(source)

    def _foreign(self, node: Node, axis: int) -> str:
        """Say what has channels and is no layer's meets those of layers; "" for nothing."""
        if joins(node, axis):
            return "a constant is joined in" if None in node.taken else ""
        for source, edge in node.inputs:
            if aligned(edge.shape, node.shape, axis) > 1 and (
                reason := self._strange(source, edge)
            ):
                return reason
        return ""

    def _strange(self, source: Node, edge: Edge) -> str:
        """Return why what a tensor holds cannot be cut; "" where it can, or is a parameter's."""
        if "layer" in source.origins:
            return self._why(source) if self._at(source, edge) is None else ""
        if source.origins == {"parameter"}:
            return ""
        label = source.label if "weight" in source.origins else "the network's input"
        return f"it is joined with {label}"

    # Joining: what is read holds the channels of what reads it.

    def _join_all(self, node: Node) -> None:
        for source, edge in node.inputs:
            known = "layer" in source.origins
            axis = self.axis.get(node)
            if (
                axis is not None
                and joins(node, axis)
                and not (known and self._at(source, edge) is not None)
            ):
                self._hold(source, edge, node)
            elif known:
                self._join(source, edge, node)
            elif node.kind:
                self._doubt_reader(source, node)

    def _hold(self, source: Node, edge: Edge, reader: Node) -> None:
        """Keep the part of a concatenation that cannot be cut; the others may be."""
        axis = self.axis[reader]
        start, width = _before(reader, edge, axis), edge.shape[axis]
        first, second = len(self.out.ports), self.numbers[reader, "out"]
        self.out.ports.append(Port(width))
        self.out.joints.append(Joint(first, second, _pairs(0, width, start, 1)))
        self.out.doubts[first] = self._strange(source, edge) or f"it is joined with {source.label}"

    def _join(self, source: Node, edge: Edge, reader: Node) -> None:
        first = self.numbers[source, "out"]
        second = self.numbers[reader, "in" if reader.kind in TWO_SIDED else "out"]
        axis, result = self._at(source, edge), self._read_along(reader, edge)
        if axis is None:
            if reader.kind:
                self._part(first, second, self._why(source))
        elif result is None:
            self._part(first, second, self._why(reader))
        elif reader.kind and axis != result:
            place = f"axis {axis} of {list(edge.shape)}"
            self._part(first, second, f"its channels lie along {place}, which {reader.label} mixes")
        else:
            self._match(source, edge, reader, axis)

    def _read_along(self, reader: Node, edge: Edge) -> int | None:
        """Return the axis along which a reader takes the channels of a tensor."""
        if reader.kind == "linear":
            return len(edge.shape) - 1
        return 1 if reader.kind else self.axis.get(reader)

    def _match(self, source: Node, edge: Edge, reader: Node, axis: int) -> None:
        """Join two ports whose channels lie along the same axis."""
        first = self.numbers[source, "out"]
        second = self.numbers[reader, "in" if reader.kind in TWO_SIDED else "out"]
        low, width = 0, edge.shape[axis]
        if not source.kind and splits(source, axis):
            low = sum(parts(source, axis)[: edge.number])
        if not reader.kind and slices(reader, axis) and reader.shape[axis] < width:
            here = low + first_place(reader)
            taken = _pairs(here, reader.shape[axis], 0, 1)
            self.out.joints.append(Joint(first, second, taken))
            return
        step, joined = 1, False
        if not reader.kind:
            step = op_rules.stride(reader, edge, axis, self.axis[reader])
            joined = joins(reader, axis)
        room = self.out.ports[second].size
        if step == 1 and not joined and width == 1 and room > 1:
            return  # broadcast: one channel meets every channel and is coupled to none
        start = _before(reader, edge, axis) if joined else 0
        if start + width * step > room or (not joined and width * step != room):
            label = reader.label
            self._part(first, second, f"its {width} channels meet {room} in {label}")
            return
        whole = width == self.out.ports[first].size == room and step == 1
        pairs = None if whole else _pairs(low, width, start, step)
        self.out.joints.append(Joint(first, second, pairs))

    def _doubt_reader(self, source: Node, reader: Node) -> None:
        """Keep what a layer reads where no layer made it: its width is given."""
        label = source.label if "input" not in source.origins else "the network's input"
        side = "in" if reader.kind in TWO_SIDED else "out"
        self._doubt(reader, side, f"it is joined with {label}")

    def _part(self, first: int, second: int, reason: str) -> None:
        """Leave two ports apart: neither may lose a channel."""
        for number in (first, second):
            self.out.doubts.setdefault(number, reason)

    # Bare parameters: values a channel that were reshaped, clamped or scaled before they meet it.

    def _join_parameter(self, made: Node) -> None:
        """Join what a bare parameter was made into with the channels it meets."""
        for reader, edge in made.readers:
            if "layer" not in reader.origins:
                continue
            axis = self.axis.get(reader)
            if axis is None or aligned(edge.shape, reader.shape, axis) == 1:
                continue  # in doubt already, or one number for all channels
            sources = [step for step in behind(made) if step.kind == "parameter"]
            if joins(reader, axis):  # its share of the concatenation keeps its place and width
                self.fixed.update(dict.fromkeys(sources, reader.label))
                continue
            room = reader.shape[axis]
            found = carried(made, room, axis + len(edge.shape) - len(reader.shape))
            if not found:
                names = " and ".join(source.name for source in sources)
                self._doubt(reader, "out", f"it is unclear which axis of {names} holds channels")
                continue
            for source, dim in found.items():
                self._couple(source, dim, reader)

    def _couple(self, source: Node, dim: int, reader: Node) -> None:
        if (source, "out") not in self.numbers:
            self._add(source, "out", source.shape[dim], dim)
        port = self.numbers[source, "out"]
        if self.out.ports[port].dim != dim:
            self._part(port, self.numbers[reader, "out"], f"{source.name} has channels on two axes")
            return
        self.out.joints.append(Joint(port, self.numbers[reader, "out"]))

    # Doubts: what is seen only once everything stands.

    def _doubt_constants(self) -> None:
        for function, shape in self.run.constants:
            node = self.nodes.get(function)
            if node is None or node not in self.axis:
                continue  # of a layer, such as the running statistics of a normalisation
            if aligned(shape, node.shape, self.axis[node]) > 1:
                self._doubt(node, "out", f"it meets a constant tensor of shape {list(shape)}")

    def _doubt_what_must_stay(self) -> None:
        stays = [
            (each, f"it reaches {name}, whose outputs must stay")
            for name, edges in self.run.kept.items()
            for each in edges
        ]
        stays += [(each, "it reaches the network's output") for each in self.run.outputs]
        for each, reason in stays:
            self._doubt(self.nodes[each.source], "out", reason)
        for source in self.run.escaped:
            reason = "its values are used behind autograd's back (detach, no_grad, comparison)"
            self._doubt(self.nodes[source], "out", reason)
        for node, label in self.fixed.items():
            self._doubt(node, "out", f"{node.name} is joined in {label}")
        for node in self.nodes.values():
            if node.kind == "weight" and node.module is not None:
                self._doubt_layer(node.module, "its weights are also used outside it")

    def _doubt_layer(self, module: nn.Module, reason: str) -> None:
        for (node, _), number in self.numbers.items():
            if node.module is module:
                self.out.doubts.setdefault(number, reason)

    def _add(self, node: Node, side: str, size: int, dim: int = 0) -> None:
        order = len(self.run.order)
        if node.module is not None:
            order = self.run.order.get(node.module, order)
        self.numbers[node, side] = len(self.out.ports)
        named = node.kind in (*LAYERS, "parameter") and not _single(node)
        name = node.name if named else ""
        self.out.ports.append(Port(size, name, side, node.kind if named else "", dim, order))

    def _doubt(self, node: Node, side: str, reason: str) -> None:
        if (node, side) in self.numbers:
            self.out.doubts.setdefault(self.numbers[node, side], reason)


def _single(node: Node) -> bool:
    """Return whether a layer has one number for all channels: a PReLU may, and is no place then."""
    return isinstance(node.module, nn.PReLU) and node.module.num_parameters == 1


def _unequal(module: nn.Module | None) -> str:
    """Return why a layer cannot pass on what it reads one to one; "" where it does."""
    if not isinstance(module, nn.modules.conv._ConvNd):
        return ""
    same = module.in_channels == module.out_channels and not module.transposed
    return "" if same else "it meets a grouped convolution of unequal sides"


def _widths(layer: nn.Module | None) -> tuple[int, int]:
    """Return the inputs and outputs of a convolution or linear layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return layer.in_channels, layer.out_channels


def _before(reader: Node, edge: Edge, axis: int) -> int:
    """Return where an operand begins in a concatenation."""
    start = 0
    for _, other in reader.inputs:
        if other is edge:
            return start
        start += other.shape[axis]
    raise AssertionError("unreachable: the edge is one of the reader's")


def _pairs(low: int, width: int, start: int, step: int) -> Pairs:
    return tuple(
        (low + place, start + place * step + inside)
        for place in range(width)
        for inside in range(step)
    )
