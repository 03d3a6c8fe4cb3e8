"""One run of a network, as ports where channels live and joints between them.

torch-pruning's DependencyGraph says what reads what. What it takes for granted is read from
autograd instead: it numbers the outputs of a split in the order it meets them, guesses the widths
of concatenated parts, and sees neither broadcasting nor constants. What cannot be followed becomes
a doubt, and a doubt is never cut through.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prune.errors import PlanError
from prune.nodes import (
    ON_PARAMETERS,
    TWO_SIDED,
    TYPE,
    Function,
    Node,
    Shape,
    aligned,
    along_channels,
    behind,
    channels,
    doubt,
    flattened,
    kind,
    operation,
    output_shape,
    parts,
    reads,
    result_shape,
    widths,
)
from prune.shapes import Shapes, on_meta

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
    """

    ports: list[Port] = field(default_factory=list)
    joints: list[Joint] = field(default_factory=list)
    ties: dict[int, int] = field(default_factory=dict)
    doubts: dict[int, str] = field(default_factory=dict)


def traced(net: nn.Module, shape: Shape) -> Traced:
    """Run a network on shapes alone; `net` is not touched.

    Raises:
        PlanError: the network cannot be run with this shape.
    """
    return _Reader(_run(on_meta(net).eval().requires_grad_(True), shape)).read()


@dataclass(frozen=True)
class _Run:
    """What one forward pass left behind.

    Attributes:
        nodes: module, parameter or operation -> torch-pruning's node.
        by_function: autograd function -> node.
        order: module -> when it first ran.
        outputs: the tensors the network returned.
        chunks: functions of torch.chunk, which splits evenly at any width.
        constants: (function, shape of a tensor nobody learns that went into it).
    """

    net: nn.Module
    picture: Tensor
    nodes: dict[Any, Node]
    by_function: dict[Function, Node]
    order: dict[nn.Module, int]
    outputs: list[Tensor]
    chunks: set[Function]
    constants: list[tuple[Function, Shape]]


class _Watch(TorchFunctionMode):
    """Note what autograd forgets: which splits were chunks, which operands were constants."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: set[Function] = set()
        self.constants: list[tuple[Function, Shape]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.chunk, Tensor.chunk):
            self.chunks.add(result[0].grad_fn)
        elif isinstance(result, Tensor) and result.grad_fn is not None:
            fixed = (a for a in args if isinstance(a, Tensor) and not a.requires_grad)
            self.constants += [(result.grad_fn, tuple(a.shape)) for a in fixed]
        return result


def _run(net: nn.Module, shape: Shape) -> _Run:
    picture = torch.empty(shape, device="meta", requires_grad=True)
    order: dict[nn.Module, int] = {}
    calls: list[tuple[nn.Module, Tensor]] = []
    results: list[object] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        order.setdefault(module, len(order))
        if isinstance(output, Tensor):
            calls.append((module, output))

    hooks = [module.register_forward_hook(note) for module in net.modules()]
    with Shapes(), _Watch() as watch, torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(
            net,
            (picture,),
            forward_fn=_forward(shape, results),
            unwrapped_parameters=[(p, min(1, p.dim() - 1)) for p in _bare_parameters(net)],
            verbose=False,
        )
    for hook in hooks:
        hook.remove()
    nodes: dict[Any, Node] = graph.module2node
    by_function = {node.grad_fn: node for node in nodes.values()}
    # A layer that ran twice has one node but two functions.
    by_function |= {t.grad_fn: nodes[m] for m, t in calls if m in nodes and kind(nodes[m])}
    outputs = [t for t in tp.utils.flatten_as_list(results[0]) if isinstance(t, Tensor)]
    return _Run(net, picture, nodes, by_function, order, outputs, watch.chunks, watch.constants)


def _forward(shape: Shape, results: list[object]) -> Callable[[nn.Module, tuple[Tensor]], object]:
    """Make the function that runs the network, keeps its result and says what it stumbled over."""

    def forward(net: nn.Module, inputs: tuple[Tensor]) -> object:
        try:
            results.append(net(*inputs))
        except Exception as error:  # whatever the user's own code raises
            raise PlanError(f"the network cannot be run with {list(shape)}: {error}") from error
        return results[0]

    return forward


def _bare_parameters(net: nn.Module) -> list[nn.Parameter]:
    known = tuple(tp.ops.type2class(each) for each in TYPE if each is not TYPE.PARAMETER)
    inside = {id(p) for m in net.modules() if isinstance(m, known) for p in m.parameters()}
    return [p for p in net.parameters() if id(p) not in inside]


class _Reader:
    """Turns the nodes of a run into ports, joints, ties and doubts."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.out = Traced()
        self.origins = _origins(run)
        self.numbers: dict[tuple[Node, str], int] = {}  # node, side -> port
        self.names: dict[Any, str] = {module: name for name, module in run.net.named_modules()}
        self.names |= {parameter: name for name, parameter in run.net.named_parameters()}

    def read(self) -> Traced:
        channelled = [node for node in self.run.nodes.values() if "layer" in self.origins[node]]
        for node in channelled:
            self._open(node)
        for node in channelled:
            met: Counter[Node] = Counter()
            for reader in node.outputs:
                if "layer" in self.origins[reader]:
                    self._join(node, reader, met[reader])
                    met[reader] += 1
        for node, origin in self.origins.items():
            if origin == {"parameter"}:
                self._join_parameter(node)
        self._doubt_constants()
        self._doubt_outputs()
        self._doubt_shared_weights()
        return self.out

    def _open(self, node: Node) -> None:
        """Open the ports of a node and note what is special about them."""
        if kind(node) in TWO_SIDED:
            self._open_layer(node)
            return
        size = channels(node)
        self._add(node, "out", size)
        if self._meets_picture(node) and not along_channels(node, TYPE.CONCAT):
            self._doubt(node, "out", "it is joined with the network's input")
        elif not size:
            self._doubt(node, "out", f"{operation(node)} leaves it no channel axis")
        elif reason := doubt(node, self.run.chunks):
            self._doubt(node, "out", reason)
        elif node.grad_fn in self.run.chunks:
            self.out.ties[self.numbers[node, "out"]] = parts(node)[0]

    def _open_layer(self, node: Node) -> None:
        """Open both sides of a convolution or linear layer; tie the shares of a grouped one."""
        groups = getattr(node.module, "groups", 1)
        for side, size in zip(("in", "out"), widths(node.module), strict=True):
            self._add(node, side, size)
            if groups > 1:
                self.out.ties[self.numbers[node, side]] = size // groups
            if groups > 1 and node.module.transposed:
                self._doubt(node, side, "it meets a grouped transposed convolution")

    def _join(self, node: Node, reader: Node, time: int) -> None:
        """Join a node with the `time`-th place where a reader takes it."""
        side = "in" if kind(reader) in TWO_SIDED else "out"
        source, target = self.numbers[node, "out"], self.numbers[reader, side]
        width, room = self.out.ports[source].size, self.out.ports[target].size
        pairs = self._pairs(node, reader, time)
        if pairs is None and width == 1 and room > 1:
            return  # broadcast: one channel meets every channel and is coupled to none
        fits = width == room if pairs is None else bool(pairs) and max(pairs)[1] < room
        if fits:
            self.out.joints.append(Joint(source, target, pairs))
            return
        label = self.names.get(reader.module) or operation(reader)
        known = self.out.doubts.get(target) or self.out.doubts.get(source)
        for number in (source, target):
            reason = known or f"its {width} channels meet {room} in {label}"
            self.out.doubts.setdefault(number, reason)

    def _pairs(self, node: Node, reader: Node, time: int) -> Pairs | None:
        """Match positions in a node with positions in its reader; None: one to one, empty: unknown.

        Autograd says which output of a split is read and where a part of a concatenation begins.
        """
        split, joined = along_channels(node, TYPE.SPLIT), along_channels(reader, TYPE.CONCAT)
        stride = flattened(reader) if reader.type == TYPE.RESHAPE else 1
        if not split and not joined and stride == 1:
            return None
        low, high, start = 0, self.out.ports[self.numbers[node, "out"]].size, 0
        if split or joined:
            taken = reader.grad_fn.next_functions
            places = [i for i, (f, _) in enumerate(taken) if self.run.by_function.get(f) is node]
            if time >= len(places) or (joined and None in dict(taken)):
                return ()  # the reader runs twice, or a constant of unknown width is joined in
            if split:
                sizes, number = parts(node), taken[places[time]][1]
                low = sum(sizes[:number])
                high = low + sizes[number]
            if joined:
                start = sum(output_shape(*part)[1] for part in taken[: places[time]])
        return tuple(
            (place, start + (place - low) * stride + step)
            for place in range(low, high)
            for step in range(stride)
        )

    def _join_parameter(self, node: Node) -> None:
        """Join what a bare parameter was made into with the channels it meets."""
        steps = list(behind(node))
        sources = [step for step in steps if kind(step) == "parameter"]
        for reader in node.outputs:
            if "layer" not in self.origins[reader]:
                continue
            room = channels(reader)
            width = aligned(result_shape(node), result_shape(reader))
            if width == 1:
                continue  # one number for all channels
            axes = [[i for i, size in enumerate(s.module.shape) if size == room] for s in sources]
            followed = all(operation(s) in ON_PARAMETERS for s in steps if s not in sources)
            if width != room or not followed or any(len(found) != 1 for found in axes):
                names = " and ".join(self.names[source.module] for source in sources)
                self._doubt(reader, "out", f"it is unclear which axis of {names} holds channels")
                continue
            for source, (axis,) in zip(sources, axes, strict=True):
                self._couple(source, axis, reader)

    def _couple(self, source: Node, axis: int, reader: Node) -> None:
        if (source, "out") not in self.numbers:
            self._add(source, "out", source.module.shape[axis], axis)
        port = self.numbers[source, "out"]
        if self.out.ports[port].dim != axis:
            self._doubt(source, "out", f"{self.names[source.module]} has channels on two axes")
            self._doubt(reader, "out", f"{self.names[source.module]} has channels on two axes")
            return
        self.out.joints.append(Joint(port, self.numbers[reader, "out"]))

    def _doubt_constants(self) -> None:
        for function, shape in self.run.constants:
            node = self.run.by_function.get(function)
            if node is None or kind(node) or (node, "out") not in self.numbers:
                continue  # the running statistics of a normalisation are constants too
            if aligned(shape, result_shape(node)) > 1:
                self._doubt(node, "out", f"it meets a constant tensor of shape {list(shape)}")

    def _doubt_outputs(self) -> None:
        for tensor in self.run.outputs:
            node = self.run.by_function.get(tensor.grad_fn)
            if (node, "out") in self.numbers:
                self._doubt(node, "out", "it reaches the network's output")

    def _doubt_shared_weights(self) -> None:
        owners: dict[int, list[str]] = defaultdict(list)
        for name, parameter in self.run.net.named_parameters(remove_duplicate=False):
            owners[id(parameter)].append(name.rpartition(".")[0])
        shared = {name: names for names in owners.values() if len(names) > 1 for name in names}
        for number, port in enumerate(self.out.ports):
            if names := shared.get(port.name):
                reason = f"its weights are shared by {' and '.join(names)}"
                self.out.doubts.setdefault(number, reason)

    def _add(self, node: Node, side: str, size: int, dim: int = 0) -> None:
        order = self.run.order.get(node.module, len(self.run.order))
        name = self.names.get(node.module, "")
        self.numbers[node, side] = len(self.out.ports)
        self.out.ports.append(Port(size, name, side, kind(node), dim, order))

    def _doubt(self, node: Node, side: str, reason: str) -> None:
        self.out.doubts.setdefault(self.numbers[node, side], reason)

    def _meets_picture(self, node: Node) -> bool:
        """Say whether a node takes the network's input, or something made of it by no layer."""
        origins = [self.origins[n] for n in node.inputs]
        made = any("picture" in origin and "layer" not in origin for origin in origins)
        return made or reads(node, self.run.picture)


def _origins(run: _Run) -> dict[Node, set[str]]:
    """Say for every node what its values come from: "layer", "parameter", "picture"."""
    found: dict[Node, set[str]] = {}
    for node in run.nodes.values():
        own = {"parameter"} if kind(node) == "parameter" else {"layer"} if kind(node) else set()
        found[node] = own or ({"picture"} if reads(node, run.picture) else set())
    waiting = list(found)
    while waiting:
        node = waiting.pop()
        for reader in node.outputs:
            if not kind(reader) and not found[node] <= found[reader]:
                found[reader] = found[reader] | found[node]
                waiting.append(reader)
    return found
