"""Run a network on shapes alone: no values, no memory for weights, the same autograd graph.

PyTorch's meta device does this, but a good part of its kernels is Python that first imports a
symbolic algebra system and a compiler: two seconds, more than everything else a cut does. The
operations that detectors are made of are answered by the table here; every other goes the ordinary
way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Module = TypeVar("Module", bound=nn.Module)

_aten = torch.ops.aten


def copied(net: Module, new: Callable[[Tensor], Tensor]) -> Module:
    """Copy a module's structure; `new` gives the tensor for each parameter and buffer.

    A parameter stays a parameter and keeps `requires_grad`; tensors that were one stay one. A `new`
    that hands its argument back makes the copy share that tensor with the original.
    """
    memo: dict[int, object] = {}
    for tensor in (*net.parameters(), *net.buffers()):
        other = new(tensor)
        if other is not tensor and isinstance(tensor, nn.Parameter):
            other = nn.Parameter(other, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = other
    return copy.deepcopy(net, memo)


def on_meta(net: Module) -> Module:
    """Copy a module to the meta device, where numbers of any precision count as float32."""
    return copied(net, _without_values)


def _without_values(tensor: Tensor) -> Tensor:
    kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=kind, device="meta")


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """While active, operations on the meta device are answered by the table first."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # the wrapper that this asks for is what imports the compiler

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Answer from the table where the operation is in it and its inputs are on meta."""
        answer = ANSWERS.get(func)
        if answer is None or kwargs or not _first(args).is_meta:
            return func(*args, **(kwargs or {}))
        return answer(*args)


def _first(args: Sequence[Any]) -> Tensor:
    tensor: Tensor = args[0][0] if isinstance(args[0], (list, tuple)) else args[0]
    return tensor


def _same(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _broadcast(x: Tensor, other: object) -> Tensor:
    if not isinstance(other, Tensor):
        return x.new_empty(x.shape)
    rank = max(x.dim(), other.dim())
    sides = [(1,) * (rank - t.dim()) + tuple(t.shape) for t in (x, other)]
    if any(a != b and 1 not in (a, b) for a, b in zip(*sides, strict=True)):
        raise RuntimeError(f"shapes {list(x.shape)} and {list(other.shape)} do not fit")
    return x.new_empty([b if a == 1 else a for a, b in zip(*sides, strict=True)])


def _convolution(  # noqa: PLR0913  the operator's own arguments
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor:
    """Follow the size formulas of nn.Conv2d and nn.ConvTranspose2d."""
    width = weight.shape[0] if transposed else weight.shape[1] * groups
    if x.dim() != weight.dim() or x.shape[1] != width:
        raise RuntimeError(f"a convolution of {width} channels got {list(x.shape)}")
    spread = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    sides = zip(x.shape[2:], spread, stride, padding, output_padding, strict=True)
    if transposed:
        size = [(n - 1) * s - 2 * p + k + o + 1 for n, k, s, p, o in sides]
    else:
        size = [(n + 2 * p - k - 1) // s + 1 for n, k, s, p, _ in sides]
    if min(size) < 1:
        raise RuntimeError(
            f"a convolution with kernel {list(weight.shape[2:])} got {list(x.shape)}"
        )
    return x.new_empty(
        (x.shape[0], weight.shape[1] * groups if transposed else weight.shape[0], *size)
    )


def _batch_norm(x: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(0), x.new_empty(0)


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    shapes = [list(tensor.shape) for tensor in tensors]
    total = sum(shape[dim] for shape in shapes)
    for shape in shapes:
        shape[dim] = total
    if any(shape != shapes[0] for shape in shapes):
        raise RuntimeError(
            f"cannot concatenate {[list(t.shape) for t in tensors]} along axis {dim}"
        )
    return tensors[0].new_empty(shapes[0])


def _upsample(x: Tensor, size: Sequence[int], *_: object) -> Tensor:
    return x.new_empty((*x.shape[:2], *size))


def _max_pool(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    if ceil_mode or x.dim() != 4 or prod(dilation) != 1:
        found: tuple[Tensor, Tensor] = _aten.max_pool2d_with_indices(
            x, kernel, stride, padding, dilation, ceil_mode
        )
        return found
    sides = zip(x.shape[2:], _pair(kernel), _pair(stride or kernel), _pair(padding), strict=True)
    shape = (*x.shape[:2], *((n + 2 * p - k) // s + 1 for n, k, s, p in sides))
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.long)


def _pair(values: Sequence[int]) -> Sequence[int]:
    return values if len(values) == 2 else (values[0], values[0])


# An answer takes an operation's positional arguments and gives its results without values.
ANSWERS: dict[object, Callable[..., object]] = {
    _aten.convolution.default: _convolution,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.cat.default: _cat,
    _aten.add.Tensor: _broadcast,
    _aten.mul.Tensor: _broadcast,
    _aten.elu.default: _same,
    _aten.hardsigmoid.default: _same,
    _aten.hardswish.default: _same,
    _aten.hardtanh.default: _same,
    _aten.leaky_relu.default: _same,
    _aten.mish.default: _same,
    _aten.relu.default: _same,
    _aten.sigmoid.default: _same,
    _aten.silu.default: _same,
    _aten.softplus.default: _same,
    _aten.tanh.default: _same,
    _aten.max_pool2d_with_indices.default: _max_pool,
    _aten.upsample_nearest2d.default: _upsample,
}
