"""What one node of a trace does to channels: torch-pruning's types, autograd's shapes.

An operation that no table here has is never taken for granted: its channels are doubted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn

Shape = tuple[int, ...]
Node = Any  # torch-pruning's, which has no types: .module, .type, .grad_fn, .inputs, .outputs
Function = Any  # autograd's, likewise

TYPE = tp.ops.OPTYPE
KINDS = {
    TYPE.CONV: "convolution",
    TYPE.DEPTHWISE_CONV: "depthwise",
    TYPE.LINEAR: "linear",
    TYPE.BN: "norm",
    TYPE.PRELU: "prelu",
    TYPE.PARAMETER: "parameter",
}
TWO_SIDED = ("convolution", "linear")

# Autograd's names, less "Backward0": operations that keep every channel where it is.
KEEPS_CHANNELS = frozenset(
    """
    Abs Add Sub Rsub Mul Div Neg Pow Exp Log Sqrt Rsqrt Clamp ClampMin ClampMax Maximum Minimum
    Relu LeakyRelu PreluKernel Elu Celu Gelu Silu Mish Sigmoid LogSigmoid Tanh Softplus Threshold
    Hardtanh Hardswish Hardsigmoid NativeDropout Clone Alias ToCopy Expand
    MaxPool2DWithIndices MaxPool3DWithIndices AvgPool2D AvgPool3D AdaptiveAvgPool2D
    AdaptiveAvgPool3D AdaptiveMaxPool2D AdaptiveMaxPool3D UpsampleNearest1D UpsampleNearest2D
    UpsampleNearest3D UpsampleNearestExact2D UpsampleLinear1D UpsampleBilinear2D UpsampleBicubic2D
    UpsampleTrilinear3D ConstantPadNd ReflectionPad2D ReplicationPad2D
    """.split()  # noqa: SIM905  one name a line would be a page
)
# Operations that do so where they work along other axes than batch and channels.
KEEPS_CHANNELS_ALONG = frozenset(
    """
    Mean Sum Amax Amin Var Std Select Squeeze Unsqueeze Softmax LogSoftmax Cat Slice Split
    SplitWithSizes
    """.split()  # noqa: SIM905  as above
)
# What may happen to a bare parameter before it meets channels.
ON_PARAMETERS = KEEPS_CHANNELS | KEEPS_CHANNELS_ALONG | {"View", "ReshapeAlias", "UnsafeView"}


def kind(node: Node) -> str:
    """Return the kind of a layer or parameter that can be cut, "" for anything else."""
    return KINDS.get(node.type, "")


def doubt(node: Node, chunks: set[Function]) -> str | None:
    """Say why channels cannot be followed through a one-sided node; None where they can.

    Args:
        node: anything but a convolution or linear layer of two sides.
        chunks: functions of torch.chunk, which splits evenly at any width.
    """
    if kind(node):
        return _doubt_layer(node.module)
    name = operation(node)
    if name in KEEPS_CHANNELS or along_channels(node, TYPE.CONCAT):
        return None
    if name in KEEPS_CHANNELS_ALONG and min(_axes(node.grad_fn), default=0) > 1:
        return None
    if node.type == TYPE.RESHAPE and flattened(node):
        return None
    if name == "Slice" and result_shape(node) == argument_shape(node):
        return None
    if name in ("Split", "Slice", "SplitWithSizes"):
        even = node.grad_fn in chunks and len(set(parts(node))) == 1
        return None if even else "it is split at fixed places"
    return f"its channels go through {name}, which may mix them"


def _doubt_layer(module: Any) -> str | None:
    """Say why a one-sided layer cannot be cut; torch-pruning calls more depthwise than is."""
    convolution = isinstance(module, nn.modules.conv._ConvNd)
    if convolution and (module.transposed or module.in_channels != module.out_channels):
        return "it meets a grouped convolution of unequal sides"
    return None


def along_channels(node: Node, operation_type: object) -> bool:
    """Say whether a node is a concatenation or split, and along axis 1."""
    return bool(node.type == operation_type and 1 in _axes(node.grad_fn))


def flattened(node: Node) -> int:
    """Return into how many places a reshape takes each channel, in order; 0: it does not do so."""
    before, after = argument_shape(node), result_shape(node)
    if before[:2] == after[:2]:
        return 1
    if len(after) == 2 and before[:1] == after[:1] and after[1] == prod(before[1:]):
        return prod(before[2:])
    return 0


def _axes(function: Function) -> tuple[int, ...]:
    """Return the axes an operation works along; all of them where autograd does not say."""
    shapes = (output_shape(*function.next_functions[0]), output_shape(function, 0))
    rank = max(map(len, shapes))
    saved = getattr(function, "_saved_dim", tuple(range(rank)))
    axes = saved if isinstance(saved, tuple) else (saved,)
    # Autograd hands negative axes out as unsigned 64-bit numbers.
    return tuple((axis - 2**64 if axis >= 2**63 else axis) % rank for axis in axes)


def operation(node: Node) -> str:
    """Name what a node does: a layer's class, or autograd's word for an operation."""
    if isinstance(node.module, nn.Module) and type(node.module).__module__.startswith("torch.nn"):
        return type(node.module).__name__
    return re.sub(r"Backward\d*$", "", node.grad_fn.name())


def widths(layer: Any) -> tuple[int, int]:
    """Return the inputs and outputs of a convolution or linear layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def channels(node: Node) -> int:
    """Return the width of a one-sided node, of a split before it; 0: it has no channel axis."""
    shape = argument_shape(node) if node.type == TYPE.SPLIT else result_shape(node)
    return shape[1] if len(shape) > 1 else 0


def parts(node: Node) -> list[int]:
    """Return the widths of all results of a node, in order."""
    return [metadata.shape[1] for metadata in node.grad_fn._input_metadata]


def result_shape(node: Node) -> Shape:
    """Return the shape of a node's (first) result."""
    return tuple(node.module.shape) if kind(node) == "parameter" else output_shape(node.grad_fn, 0)


def argument_shape(node: Node) -> Shape:
    """Return the shape of a node's first argument."""
    return output_shape(*node.grad_fn.next_functions[0])


def output_shape(function: Function, number: int) -> Shape:
    """Return the shape of what an autograd function made; () where nothing was recorded."""
    if function is None:
        return ()
    if hasattr(function, "variable"):  # a leaf: a parameter or the network's input
        return tuple(function.variable.shape)
    return tuple(function._input_metadata[number].shape)


def aligned(operand: Shape, result: Shape) -> int:
    """Return how many channels an operand has once it is broadcast to a result [N, C, ...]."""
    place = len(operand) - (len(result) - 1)
    return operand[place] if place >= 0 else 1


def reads(node: Node, tensor: Tensor) -> bool:
    """Say whether a node takes this very tensor, a leaf of the graph."""
    functions = getattr(node.grad_fn, "next_functions", ())
    return any(getattr(function, "variable", None) is tensor for function, _ in functions)


def behind(node: Node) -> Iterator[Node]:
    """Walk back from a node to everything it is made from, itself included."""
    seen, waiting = {node}, [node]
    while waiting:
        current = waiting.pop()
        yield current
        fresh = [n for n in current.inputs if n not in seen]
        seen.update(fresh)
        waiting += fresh
