"""Run a network on shapes alone: no values, no memory for weights, the same autograd graph.

PyTorch's meta device does this, but a good part of its kernels is Python that first imports a
symbolic algebra system and a compiler: two seconds, more than everything else a cut does. The
operations that detectors are made of are answered by the table here; every other goes the ordinary
way.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from prune.errors import PlanError

Shape = tuple[int, ...]
Module = TypeVar("Module", bound=nn.Module)

_aten = torch.ops.aten


@dataclass(frozen=True)
class Spec:
    """What is known of an input without its values; dtype is torch's word for it, "float32"."""

    shape: Shape
    dtype: str = "float32"

    def on_meta(self) -> Tensor:
        """Make the tensor without values; numbers of any precision count as float32.

        Raises:
            PlanError: there is no such shape.
        """
        if any(size < 0 for size in self.shape):
            raise PlanError(f"the network cannot be run with {list(self.shape)}: below zero")
        kind = getattr(torch, self.dtype)
        if not (kind.is_floating_point or kind.is_complex):
            return torch.empty(self.shape, dtype=kind, device="meta")
        kind = torch.float32 if kind.is_floating_point else kind
        return torch.empty(self.shape, dtype=kind, device="meta", requires_grad=True)


# One input of floating point by its shape, e.g. (1, 3, 64, 64), or any number of any kind.
Inputs = Shape | tuple[Spec, ...]


def dtype_name(name: str) -> str:
    """Return torch's word for a kind of number.

    Raises:
        PlanError: torch has no such kind.
    """
    if not isinstance(getattr(torch, name, None), torch.dtype):
        raise PlanError(f"{name!r} is no kind of number; torch knows float32, int64, bool, ...")
    return name


def spec(tensor: Tensor) -> Spec:
    """Describe a tensor without its values."""
    return Spec(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def specs(inputs: Inputs) -> tuple[Spec, ...]:
    """Spell inputs out."""
    if inputs and all(isinstance(each, Spec) for each in inputs):
        return tuple(each for each in inputs if isinstance(each, Spec))
    return (Spec(tuple(each for each in inputs if isinstance(each, int))),)


def run(net: nn.Module, inputs: Sequence[Tensor]) -> object:
    """Run a network that is on the meta device on inputs that are there too.

    Raises:
        PlanError: it cannot be run with these shapes, or not without values.
    """
    try:
        with Shapes():
            return net(*inputs)
    except PlanError:
        raise
    except Exception as error:  # whatever the user's own code raises
        said = " and ".join(str(list(tensor.shape)) for tensor in inputs)
        line = " ".join(str(error).split()) or type(error).__name__
        raise PlanError(f"the network cannot be run with {said}: {line}") from error


def tensors_in(output: object) -> list[Tensor]:
    """Collect the tensors of an output in any nesting of lists, tuples, dicts and dataclasses.

    Raises:
        PlanError: there is something else in it, which could hide a tensor.
    """
    if isinstance(output, Tensor):
        return [output]
    if is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, field.name) for field in fields(output)]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [tensor for item in output for tensor in tensors_in(item)]
    if output is None or isinstance(output, (bool, int, float, str)):
        return []
    raise PlanError(
        f"the network returns a {type(output).__name__}; "
        "only tensors in lists, tuples, dicts and dataclasses can be followed"
    )


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
    """Copy a module to the meta device, where numbers of any precision count as float32.

    Raises:
        PlanError: the module cannot be copied, e.g. before the first run of a lazy layer.
    """
    try:
        return copied(net, _without_values)
    except (RuntimeError, TypeError, ValueError) as error:
        line = " ".join(str(error).split())
        raise PlanError(f"the network cannot be copied: {line}") from error


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
        if answer is None or kwargs or not _is_plain(args):
            return func(*args, **(kwargs or {}))
        return answer(*args)


def _is_plain(args: Sequence[Any]) -> bool:
    """Return whether the tensors that set the result's precision are float32 on meta."""
    first = args[0] if isinstance(args[0], (list, tuple)) else args[:2]
    return all(t.is_meta and t.dtype == torch.float32 for t in first if isinstance(t, Tensor))


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
