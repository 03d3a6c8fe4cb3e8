"""Weights and a image that the golden numbers in golden/ were measured with.

The public YOLOR code was given these weights and this image, and its outputs were stored. Every
array follows from its own name alone, so a network with the same state-dict names gets the same
weights whatever order it is built in.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

GOLDEN = Path(__file__).parent / "golden"
CFG = Path(__file__).parents[2] / "cfg"


def generator(name: str) -> np.random.Generator:
    """Seed a generator with a name."""
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def values(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw the state-dict entry `name`: scales and variances around 1, the rest around 0."""
    random, field = generator(name), name.rsplit(".", 1)[-1]
    if field == "num_batches_tracked":
        return np.zeros(shape)
    if field == "running_var" or (field == "weight" and len(shape) == 1):
        return random.uniform(0.5, 1.5, shape)
    if field == "implicit":
        return random.normal(0.5, 0.1, shape)
    if len(shape) == 4:  # a kernel, [out, in, kh, kw]; keeps the signal's size from layer to layer
        return random.normal(0.0, (0.5 / np.prod(shape[1:])) ** 0.5, shape)
    return random.normal(0.0, 0.1, shape)


def fill(net: nn.Module) -> None:
    """Give a network the reference weights."""
    state = net.state_dict()
    for name, tensor in state.items():
        state[name] = torch.from_numpy(np.asarray(values(name, tuple(tensor.shape)))).to(tensor)
    net.load_state_dict(state)


def draw_image() -> Tensor:
    """Draw the image, [2, 3, 128, 192] in 0..1."""
    return torch.from_numpy(generator("image").random((2, 3, 128, 192)).astype(np.float32))


def targets() -> Tensor:
    """Draw 14 boxes, rows (image, class, cx, cy, w, h), normalised to 0..1."""
    random, boxes = generator("targets"), 14
    size = random.uniform(0.05, 0.6, (boxes, 2))
    centre = size / 2 + random.random((boxes, 2)) * (1 - size)
    order = np.arange(boxes)
    rows = np.column_stack([order % 2, order % 3, centre, size])
    return torch.from_numpy(rows.astype(np.float32))
