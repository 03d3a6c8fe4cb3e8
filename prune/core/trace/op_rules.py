"""What an operation does to the axis that channels lie along.

An operation that no table here has is never taken for granted: what it does is doubted.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from prune.core.trace.dataflow import Node, behind
from prune.core.trace.meta import Shape
from prune.core.trace.recorder import Edge, Function

Answer = int | str
"""The axis of the result, or why the channels cannot be followed."""

# Autograd's names, less "Backward0". Each value is one value's doing; axes are counted from behind
# where ranks differ, as broadcasting does.
ELEMENTWISE = frozenset(
    """
    Abs Add Sub Rsub Mul Div Neg Pow Exp Expm1 Log Log1P Sqrt Rsqrt Reciprocal Sin Cos Atan Erf Sign
    Sgn Clamp ClampMin ClampMax Maximum Minimum Lerp Addcmul Addcdiv Relu LeakyRelu PreluKernel Elu
    Celu Gelu Silu Mish Sigmoid LogSigmoid Tanh Softplus Threshold Hardtanh Hardswish Hardsigmoid
    Hardshrink Softshrink NativeDropout Clone Alias ToCopy
    """.split()  # noqa: SIM905  one name a line would be a page
)
# Operations that work along the last one, two or three axes.
TRAILING = {
    "UpsampleNearest1D": 1,
    "UpsampleNearestExact1D": 1,
    "UpsampleLinear1D": 1,
    "ReflectionPad1D": 1,
    "ReplicationPad1D": 1,
    "MaxPool2DWithIndices": 2,
    "AvgPool2D": 2,
    "AdaptiveAvgPool2D": 2,
    "AdaptiveMaxPool2D": 2,
    "UpsampleNearest2D": 2,
    "UpsampleNearestExact2D": 2,
    "UpsampleBilinear2D": 2,
    "UpsampleBicubic2D": 2,
    "ReflectionPad2D": 2,
    "ReplicationPad2D": 2,
    "MaxPool3DWithIndices": 3,
    "AvgPool3D": 3,
    "AdaptiveAvgPool3D": 3,
    "AdaptiveMaxPool3D": 3,
    "UpsampleNearest3D": 3,
    "UpsampleNearestExact3D": 3,
    "UpsampleTrilinear3D": 3,
    "ReflectionPad3D": 3,
    "ReplicationPad3D": 3,
}
# Operations that work along the axes they are given, and may drop them.
ALONG = frozenset(
    """
    Mean Sum Prod Amax Amin Max Min Var Std Logsumexp LinalgVectorNorm Select Squeeze Softmax
    LogSoftmax Cumsum Cat Slice Split SplitWithSizes Flip Glu
    """.split()  # noqa: SIM905  as above
)
SPLITS = ("Split", "SplitWithSizes")


def after(node: Node, edge: Edge, axis: int, *, even: bool = False) -> Answer:
    """Follow channels that reach an operation along one axis of an operand.

    Args:
        node: an operation.
        edge: the operand.
        axis: where its channels lie.
        even: it splits into equal parts at any width.
    """
    name = node.does
    if name in ELEMENTWISE:
        return axis + len(node.shape) - len(edge.shape)
    if name in TRAILING:
        inside = axis < len(edge.shape) - TRAILING[name]
        return axis if inside else _mixes(node)
    if name in ALONG:
        return _along(node, edge, axis, even)
    return SPECIAL[name](node, edge, axis) if name in SPECIAL else _mixes(node)


def joins(node: Node, axis: int) -> bool:
    """Return whether a node concatenates along an axis."""
    return not node.kind and node.does == "Cat" and axis in _given(node.source, node.shape)


def splits(node: Node, axis: int) -> bool:
    """Return whether a node splits along an axis."""
    named = not node.kind and node.does in SPLITS
    return named and axis in _given(node.source, node.shape)


def slices(node: Node, axis: int) -> bool:
    """Return whether a node takes some places of an axis that lie side by side."""
    named = not node.kind and node.does == "Slice"
    return named and axis in _given(node.source, node.shape)


def first_place(node: Node) -> int:
    """Return where a slice begins."""
    return _signed(node.source._saved_start)


def parts(node: Node, axis: int) -> list[int]:
    """Return the widths of all results of an operation along an axis."""
    return [metadata.shape[axis] for metadata in node.source._input_metadata]


def stride(node: Node, edge: Edge, axis: int, result: int) -> int:
    """Return how many places in a row a channel takes in the result; 1 but for a flattening."""
    reshaped = not node.kind and node.does in ("View", "UnsafeView", "ReshapeAlias")
    return node.shape[result] // edge.shape[axis] if reshaped else 1


def aligned(operand: Shape, result: Shape, axis: int) -> int:
    """Return how many channels an operand has once it is broadcast to a result."""
    place = axis + len(operand) - len(result)
    return operand[place] if place >= 0 else 1


def carried(made: Node, room: int, axis: int) -> dict[Node, int]:
    """Find the axes of parameters that end up as a certain axis of what was made of them.

    Args:
        made: of parameters alone.
        room: how many channels there are.
        axis: of `made`, where they have to be.

    Returns:
        Parameter -> axis; empty where it is unclear.
    """
    found: dict[Node, int] = {}
    at: dict[Node, int] = {}  # where the channels lie in each step
    for step in behind(made):
        if step.kind == "parameter":
            places = [i for i, size in enumerate(step.shape) if size == room]
            if len(places) > 1 or (not places and prod(step.shape) > 1):
                return {}
            if places:
                found[step] = at[step] = places[0]
            continue
        answers = {after(step, e, at[source]) for source, e in step.inputs if source in at}
        if not answers and prod(step.shape) == 1:
            continue
        if len(answers) != 1 or not isinstance(answer := answers.pop(), int):
            return {}
        others = (e for source, e in step.inputs if source not in at)
        if step.shape[answer] != room or any(
            aligned(e.shape, step.shape, answer) > 1 for e in others
        ):
            return {}
        at[step] = answer
    return found if at.get(made) == axis else {}


def _along(node: Node, edge: Edge, axis: int, even: bool) -> Answer:
    axes, name = _given(node.source, edge.shape), node.does
    if axis in axes:
        if name == "Cat" or (name == "Slice" and node.shape == edge.shape):
            return axis
        if name in ("Slice", *SPLITS):
            return axis if even and len(set(parts(node, axis))) == 1 else _FIXED
        return _mixes(node)
    if len(node.shape) == len(edge.shape):
        return axis
    dropped = [each for each in axes if name != "Squeeze" or edge.shape[each] == 1]
    return axis - sum(each < axis for each in dropped)


_FIXED = "it is split at fixed places"


def _given(function: Function, shape: Shape) -> tuple[int, ...]:
    """Return the axes an operation was given; all of them where autograd does not say."""
    saved = getattr(function, "_saved_dim", getattr(function, "_saved_dims", None))
    axes = saved if isinstance(saved, tuple) else () if saved is None else (saved,)
    return tuple(_signed(axis) % len(shape) for axis in axes) or tuple(range(len(shape)))


def _signed(axis: int) -> int:
    """Autograd hands negative axes out as unsigned 64-bit numbers."""
    return axis - 2**64 if axis >= 2**63 else axis


def _mixes(node: Node) -> str:
    return f"its channels go through {node.label}, which may mix them"


def _reshape(node: Node, edge: Edge, axis: int) -> Answer:
    """A reshape keeps an axis where as many values lie before it, and may flatten what follows."""
    before, result = edge.shape, node.shape
    ahead = prod(before[:axis])
    places = [i for i in range(len(result)) if prod(result[:i]) == ahead]
    flattened = {prod(before[axis : end + 1]) for end in range(axis, len(before))}
    for place in places:
        if result[place] == before[axis]:
            return place
    return next((place for place in places if result[place] in flattened), _mixes(node))


def _permute(node: Node, edge: Edge, axis: int) -> Answer:
    return _given(node.source, edge.shape).index(axis)


def _transpose(node: Node, edge: Edge, axis: int) -> Answer:
    rank, function = len(edge.shape), node.source
    pair = [_signed(function._saved_dim0) % rank, _signed(function._saved_dim1) % rank]
    return sum(pair) - axis if axis in pair else axis


def _turn(node: Node, edge: Edge, axis: int) -> Answer:
    return len(edge.shape) - 1 - axis


def _unsqueeze(node: Node, edge: Edge, axis: int) -> Answer:
    (new,) = _given(node.source, node.shape)
    return axis + (new <= axis)


def _expand(node: Node, edge: Edge, axis: int) -> Answer:
    result = axis + len(node.shape) - len(edge.shape)
    same = node.shape[result] == edge.shape[axis]
    return result if same else f"it is expanded to {node.shape[result]} channels"


def _pad(node: Node, edge: Edge, axis: int) -> Answer:
    place = 2 * (len(edge.shape) - 1 - axis)
    own = node.source._saved_pad[place : place + 2]
    return _mixes(node) if any(map(_signed, own)) else axis


SPECIAL: dict[str, Callable[[Node, Edge, int], Answer]] = {
    "View": _reshape,
    "UnsafeView": _reshape,
    "ReshapeAlias": _reshape,
    "Permute": _permute,
    "Transpose": _transpose,
    "T": _turn,
    "Unsqueeze": _unsqueeze,
    "Expand": _expand,
    "ConstantPadNd": _pad,
}
