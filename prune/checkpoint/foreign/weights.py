"""Darknet .weights files: a header, then float32 numbers layer after layer.

The header is three int32 (major, minor, revision of the format) and the count of images seen in
training, int64 from version 0.2 on and int32 before.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prune.checkpoint.foreign.epsilon import DARKNET_EPS, EPS, variances, with_our_eps
from prune.checkpoint.foreign.parameters import Shape, tensors
from prune.common.inputs import read_bytes
from prune.errors import CheckpointError
from prune.models.sections import Section
from prune.models.weights import expect_values


def read_weights(path: Path, sections: Sequence[Section]) -> dict[str, Tensor]:
    """Read a .weights file as the state dict of the network that `sections` describe.

    Errors lack the name of the file, which the caller puts before them.

    Raises:
        CheckpointError: the file cannot be read, or holds more or fewer numbers than the cfg's.
        CfgError: the sections describe no network.
    """
    return read_tensors(path, tensors(sections))


def count_numbers(path: Path) -> int:
    """Count the float32 numbers behind the header.

    Raises:
        CheckpointError: the file cannot be read, or is none of Darknet's.
    """
    return int(_numbers(path).size)


def read_tensors(path: Path, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Read a .weights file as tensors of these shapes, in this order; see `read_weights`.

    Raises:
        CheckpointError: as there, or values that no network has: of another cfg, as a rule.
    """
    numbers = _numbers(path)
    _check_length(numbers.size, shapes)
    state: dict[str, Tensor] = {}
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape)
        state[name] = torch.from_numpy(numbers[start:end].copy()).view(shape)
        start = end
    expect_values(state)
    return with_our_eps(state, dict.fromkeys(variances(state), DARKNET_EPS))


def write_weights(path: Path, state: Mapping[str, Tensor], sections: Sequence[Section]) -> None:
    """Write the tensors of `state` that a .weights file holds; version 0.2.5, no images seen."""
    with path.open("wb") as handle:
        handle.write(struct.pack("<iiiq", 0, 2, 5, 0))
        for name in tensors(sections):
            values = state[name].detach().float().cpu()
            if name.endswith("running_var"):
                values = values + (EPS - DARKNET_EPS)  # see `epsilon`
            handle.write(values.contiguous().numpy().astype("<f4").tobytes())


def _numbers(path: Path) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    data = read_bytes(path, "weights", error=CheckpointError)
    if not data:
        raise CheckpointError("empty")
    major, minor = struct.unpack("<ii", data[:8]) if len(data) >= 20 else (-1, -1)
    if not (0 <= major < 1000 and 0 <= minor < 1000):
        raise CheckpointError("no checkpoint: neither of torch.save nor of Darknet")
    header = 20 if major * 10 + minor >= 2 else 16
    if (len(data) - header) % 4:
        raise CheckpointError("truncated: it ends within a number")
    return np.frombuffer(data, dtype="<f4", offset=header)


def _check_length(found: int, shapes: Mapping[str, tuple[int, ...]]) -> None:
    needed = 0
    for name, shape in shapes.items():
        needed += math.prod(shape)
        if needed > found:
            total = sum(math.prod(shape) for shape in shapes.values())
            raise CheckpointError(
                f"the cfg does not fit the weights: the file holds {found:,} numbers and the cfg "
                f"asks for {total:,}; they end in {name} {list(shape)}"
            )
    if needed < found:
        raise CheckpointError(
            f"the cfg does not fit the weights: the file holds {found:,} numbers and the cfg asks "
            f"for {needed:,}"
        )
