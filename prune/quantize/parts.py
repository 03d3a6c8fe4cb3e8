"""What of a detector's ONNX graph may be computed in INT8: layers, and what joins them.

Heads stay in float: in 8 bits a box 300 pixels wide has an edge of more than a pixel, and small
confidences are gone. So does a convolution that reads the image: three channels leave most lanes
of the INT8 instructions empty, which makes it slower than in float (yolor_csp_n: 8 % of the file).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from prune.errors import InputError

_MISH = ("Sub", "Div", "Softplus", "Tanh")  # the way of export.mish, and that of older files
# The nonlinear steps on a convolution's output before another layer reads it.
ACTIVATIONS = frozenset(
    ("Sigmoid", "Mul", "Relu", "LeakyRelu", "Clip", "HardSwish", "HardSigmoid", *_MISH)
)
_JOINS = ("Add", "Concat", "MaxPool", "Resize")

# What a runtime is best given in INT8. ONNX Runtime has INT8 kernels for activations and joins, and
# loses more by going to float and back. OpenVINO computes activations within the convolution, in
# float, for nothing, and finds by itself what else may be INT8.
OPERATORS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("Conv", *_JOINS, "Sigmoid", "Mul", "Relu", "LeakyRelu", "Clip"),
    "openvino": ("Conv",),
}

# Those of them whose outputs stay as they are. To OpenVINO a rounding between a convolution and its
# activation is a layer of its own (yolor_csp_s: 98 of them instead of 27, 13.9 instead of 11.8 ms).
OPEN_ENDED: dict[str, tuple[str, ...]] = {"onnxruntime": (), "openvino": ("Conv",)}


@dataclass(frozen=True)
class Layer:
    """A convolution with its activation: what is quantised, or given back to float, as one.

    Attributes:
        name: the convolution's.
        nodes: names of all its nodes, the convolution first.
    """

    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """A graph sorted by what INT8 may do with it.

    Attributes:
        layers: that may be quantised, in the order of the graph.
        floating: names of nodes that stay in float: those of heads, of the first convolution, and
            of a Mish, whose six steps would be rounded one by one.
    """

    layers: tuple[Layer, ...]
    floating: frozenset[str]


def named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give every node of a model a name of its own, in place; return the model."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)
    return model


def sort(model: onnx.ModelProto) -> Parts:
    """Sort a model's nodes; each must have a name of its own.

    Raises:
        InputError: nothing in it could be quantised, or something is already.
    """
    nodes = list(model.graph.node)
    if any(node.op_type in ("QuantizeLinear", "QLinearConv") for node in nodes):
        raise InputError("it is quantised already; start from the float file")
    readers = _readers(nodes)
    computed = {tensor for node in nodes for tensor in node.output}
    inner = _before_a_convolution(nodes)
    images = {value.name for value in model.graph.input}
    stem: set[str] = set()
    in_steps: set[str] = set()  # of activations
    layers = []
    kinds = {node.name: node.op_type for node in nodes}
    for node in nodes:
        if node.op_type == "Conv" and node.name in inner:
            layer = Layer(node.name, _with_activation(node, readers, computed))
            if any(kinds[name] == "Div" for name in layer.nodes):
                in_steps.update(layer.nodes[1:])
            if node.input[0] in images:
                stem.update(layer.nodes)
            else:
                layers.append(layer)
    if not layers:
        raise InputError("nothing to quantise: it has no convolutions but the first and last")
    heads = {node.name for node in nodes} - inner
    return Parts(tuple(layers), frozenset(heads | stem | in_steps))


def _readers(nodes: Iterable[onnx.NodeProto]) -> Mapping[str, list[onnx.NodeProto]]:
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for tensor in node.input:
            readers[tensor].append(node)
    return readers


def _before_a_convolution(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Name the nodes whose results reach a convolution; the others are the heads."""
    needed: set[str] = set()  # tensors
    inner: set[str] = set()
    for node in reversed(nodes):  # ONNX sorts nodes by what they read
        if needed.intersection(node.output):
            inner.add(node.name)
        if node.name in inner or node.op_type == "Conv":
            needed.update(node.input)
    return inner


def _with_activation(
    convolution: onnx.NodeProto,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    computed: Collection[str],
) -> tuple[str, ...]:
    """Return the names of a convolution and of its activation, which reads nothing else."""
    own = {convolution.output[0]}
    names = dict.fromkeys([convolution.name])
    waiting = list(readers[convolution.output[0]])
    while waiting:
        node = waiting.pop(0)
        alone = own.issuperset(tensor for tensor in node.input if tensor in computed)
        if node.op_type in ACTIVATIONS and alone and node.name not in names:
            names[node.name] = None
            own.update(node.output)
            waiting += readers[node.output[0]]  # a product whose factor was not there yet, again
    return tuple(names)
