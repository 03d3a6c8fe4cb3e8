"""Tensors out of files as weights: what is converted exactly, and what is refused by its name.

Training writes into weights, and exporters and runtimes read their memory: they must be ordinary
tensors, each with values of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import Parameter

from prune.common.dimensions import WEIGHTS
from prune.common.inputs import printable, shown
from prune.errors import CheckpointError

COUNTER = "num_batches_tracked"  # BatchNorm's; all other weights are numbers with fractions
VARIANCE = "running_var"

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def plain_weights(stored: Mapping[object, object]) -> dict[str, Tensor]:
    """Copy named tensors as ordinary ones: float32 (counters: int64), without gradients.

    What is that already is not copied in memory.

    Raises:
        CheckpointError: a tensor that cannot be converted exactly (named), or too many values.
    """
    weights: dict[str, Tensor] = {}
    taken: set[int] = set()  # memory that has a name already
    total = 0
    for name, tensor in stored.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{shown(name)} is no named tensor")
        _expect_ordinary(name, tensor)
        total += tensor.numel()
        if total > WEIGHTS:
            raise CheckpointError(f"it holds more than {WEIGHTS:,} weights")
        plain = _converted(name, tensor.detach()).contiguous()
        start = plain.untyped_storage().data_ptr()
        weights[name] = plain.clone() if start in taken else plain
        taken.add(start)
    return weights


def expect_values(weights: Mapping[str, Tensor]) -> None:
    """Check that weights have values that a network can compute with.

    Raises:
        CheckpointError: values that are not finite, or a variance below zero (named).
    """
    for name, tensor in weights.items():
        # The sum needs no temporary of the size of the weights; a suspicious one is looked at
        # closely.
        if not tensor.sum().isfinite() and (bad := int((~tensor.isfinite()).sum())):
            raise CheckpointError(
                f"{printable(name)} holds {bad} values that are NaN or infinite; the training that "
                "wrote it failed"
            )
        if name.endswith(VARIANCE) and (bad := int((tensor < 0).sum())):
            raise CheckpointError(
                f"{printable(name)} holds {bad} values below zero, which no variance has"
            )


def _expect_ordinary(name: str, tensor: Tensor) -> None:
    for kind, is_one in _REFUSED.items():
        if is_one(tensor):
            raise CheckpointError(
                f"{printable(name)} is {kind}; weights must be plain tensors of float32"
            )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{printable(name)} is {list(tensor.shape)}, more than the file holds of it"
        )


# Kinds of tensors that nothing here computes with -> whether a tensor is one.
_REFUSED: Mapping[str, Callable[[Tensor], bool]] = {
    "a tensor without values (meta)": lambda tensor: tensor.is_meta,
    "a quantized tensor": lambda tensor: tensor.is_quantized,
    "a sparse tensor": lambda tensor: tensor.layout is not torch.strided,
    "a nested tensor": lambda tensor: tensor.is_nested,
    "a complex tensor": lambda tensor: tensor.is_complex(),
    "a tensor of a class of its own": lambda tensor: type(tensor) not in (Tensor, Parameter),
}


def _converted(name: str, tensor: Tensor) -> Tensor:
    """Copy as float32, a counter as int64, where that changes no value."""
    counts = name.endswith(COUNTER)
    if tensor.dtype in _FLOATS and not counts:
        return tensor.float()  # of float64 the nearest, as a network in float32 would have it
    exact = tensor.dtype in _INTEGERS or (tensor.dtype in _FLOATS and _is_whole(tensor))
    if counts and exact:
        return tensor.long()
    kind = str(tensor.dtype).removeprefix("torch.")
    allowed = "whole numbers" if counts else "float32, float16, bfloat16 or float64"
    raise CheckpointError(f"{printable(name)} holds numbers of type {kind}; they must be {allowed}")


def _is_whole(tensor: Tensor) -> bool:
    return bool((tensor.abs() < 2**53).all()) and bool((tensor == tensor.trunc()).all())
