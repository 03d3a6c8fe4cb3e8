"""The nodes of a recorded run: layers, leaves and operations, and what reads what.

A layer is one node, however many operations it is made of and however often it runs. Everything
that runs has nodes, also what the outputs do not depend on: its layers have to fit all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import Tensor, nn

from prune.core.trace.meta import Shape
from prune.core.trace.recorder import Edge, Function, Record, Source, kind, leaf_or

TWO_SIDED = ("convolution", "linear")
MAKERS = ("convolution", "depthwise", "linear")
LAYERS = (*MAKERS, "norm", "prelu")


@dataclass(eq=False)
class Node:
    """Something that makes tensors.

    Attributes:
        kind: of a layer, see record.kind; "parameter" for one outside these layers; "weight" for
            a parameter of such a layer that is used outside it; "input" for a tensor fed in; "" for
            an operation.
        source: the function or leaf behind it; of a layer the first.
        name: path of a layer or parameter.
        label: what to call it in a message.
        shape: of its first result.
        does: autograd's word for an operation, such as "Add".
        taken: what it reads; None for what nobody learns.
        readers: who reads it.
        origins: what its values come from: "layer", "parameter", "input", "weight".
    """

    kind: str
    source: Source
    name: str
    label: str
    shape: Shape
    does: str = ""
    module: nn.Module | None = None
    taken: list[tuple[Node, Edge] | None] = field(default_factory=list)
    readers: list[tuple[Node, Edge]] = field(default_factory=list)
    origins: set[str] = field(default_factory=set)

    @property
    def inputs(self) -> list[tuple[Node, Edge]]:
        """What it reads that can be learned or is fed in."""
        return [each for each in self.taken if each is not None]


def nodes_of(record: Record) -> dict[Source, Node]:
    """Find the nodes behind everything that ran; operations follow what they read.

    A layer that ran several times stands under each of its functions.
    """
    return _Walk(record).nodes


class _Walk:
    """Goes back from results through autograd's functions."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.nodes: dict[Source, Node] = {}
        self.names = {module: name for name, module in record.net.named_modules()}
        self.parameters = {id(p): name for name, p in record.net.named_parameters()}
        own = [m for m in record.net.modules() if kind(m) and m not in record.odd]
        self.weights = {id(p): m for m in own for p in m.parameters(recurse=False)}
        self.inputs = {id(tensor) for tensor in record.inputs}
        layers: dict[nn.Module, Node] = {}
        for call in record.calls:
            made = call.made
            name = self.names[call.module]
            node = layers.setdefault(
                call.module,
                Node(kind(call.module), made.source, name, name, made.shape, module=call.module),
            )
            node.origins.add("layer")
            self.nodes[made.source] = node
        for call in record.calls:
            if call.taken is not None:
                self._walk(call.taken.source)
                _link(self.nodes[call.taken.source], layers[call.module], call.taken)
        kept = [each for edges in record.kept.values() for each in edges]
        for source in (*(each.source for each in (*record.outputs, *kept)), *record.escaped):
            self._walk(source)

    def _walk(self, source: Source) -> None:
        """Make the nodes of a source and of all behind it, in an order in which they can run."""
        waiting = [(source, False)]
        while waiting:
            current, ready = waiting.pop()
            if current in self.nodes:
                continue
            behind = [] if isinstance(current, Tensor) else list(_behind(current))
            if ready or not behind:
                self._add(current, behind)
            else:
                waiting.append((current, True))
                waiting += [(each.source, False) for each in behind if each]

    def _add(self, source: Source, behind: list[Edge | None]) -> None:
        node = self._leaf(source) if isinstance(source, Tensor) else self._operation(source)
        self.nodes[source] = node
        for each in behind:
            if each is None:
                node.taken.append(None)
            else:
                _link(self.nodes[each.source], node, each)

    def _leaf(self, leaf: Tensor) -> Node:
        shape = tuple(leaf.shape)
        if id(leaf) in self.inputs:
            return Node("input", leaf, "", "the network's input", shape, origins={"input"})
        if owner := self.weights.get(id(leaf)):
            name = self.names[owner]
            return Node(
                "weight", leaf, name, f"weights of {name}", shape, module=owner, origins={"weight"}
            )
        name = self.parameters.get(id(leaf), "a tensor made in forward()")
        found = "parameter" if id(leaf) in self.parameters else "weight"
        return Node(found, leaf, name, name, shape, origins={found})

    def _operation(self, function: Function) -> Node:
        does = function.name().split(":")[-1].rstrip("0123456789").removesuffix("Backward")
        label = self.record.labels.get(function) or does
        return Node("", function, "", label, shape_of(function, 0), does)


def _link(source: Node, reader: Node, edge: Edge) -> None:
    reader.taken.append((source, edge))
    source.readers.append((reader, edge))
    if not reader.kind:
        reader.origins |= source.origins


def _behind(function: Function) -> Iterator[Edge | None]:
    for before, number in function.next_functions:
        if before is None:
            yield None
        else:
            yield Edge(leaf_or(before), number, shape_of(before, number))


def shape_of(function: Function, number: int) -> Shape:
    """Return the shape of what a function made, or of the leaf it stands for."""
    if hasattr(function, "variable"):
        return tuple(function.variable.shape)
    return tuple(function._input_metadata[number].shape)


def behind(node: Node) -> list[Node]:
    """List a node and everything it is made from, what can run first first."""
    order: dict[Node, None] = {}
    waiting = [(node, False)]
    while waiting:
        current, ready = waiting.pop()
        if ready:
            order.setdefault(current)
        elif current not in order:
            waiting.append((current, True))
            waiting += [(each, False) for each, _ in current.inputs]
    return list(order)
