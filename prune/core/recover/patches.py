"""Inputs and outputs of a layer at a few places of each image, without unfolding whole maps."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn


def unsuited(layer: nn.Module) -> str | None:
    """Return why a layer cannot be fitted as places times weights; None if it can."""
    if isinstance(layer, nn.Linear):
        return None
    if not isinstance(layer, nn.Conv2d):
        return f"a {type(layer).__name__} is not solved for"
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return f"padding {layer.padding_mode!r}, {layer.padding!r} is not solved for"
    return None


def draw(output: Tensor, layer: nn.Module, *, places: int, generator: Generator) -> Tensor:
    """Choose places of a layer's output for every image, [N, p] on the CPU.

    All of them where there are no more than `places`, otherwise that many, drawn with repetition.
    """
    size = output[0].numel() // output.shape[-1 if isinstance(layer, nn.Linear) else 1]
    if size <= places:
        return torch.arange(size).expand(len(output), size)
    return torch.randint(size, (len(output), places), generator=generator)


def made(output: Tensor, layer: nn.Module, at: Tensor) -> Tensor:
    """Read a layer's output at places [N, p]: [N, p, out]."""
    if isinstance(layer, nn.Linear):
        flat = output.reshape(len(output), -1, output.shape[-1])  # [N, size, out]
    else:
        flat = output.flatten(2).transpose(1, 2)
    return flat.gather(1, at.to(flat.device)[..., None].expand(-1, -1, flat.shape[2]))


def seen(value: Tensor, layer: nn.Module, at: Tensor) -> Tensor:
    """Read the inputs that a layer multiplies with its weights at places [N, p] of its output.

    Args:
        value: the layer's input, [N, in, H, W]; of a linear layer [N, ..., in].
        layer: one that is not `unsuited`.
        at: see `draw`.

    Returns:
        [N p, groups, F]: for each group of a grouped convolution its inputs times kernel cells, in
        the order of the weights.
    """
    if isinstance(layer, nn.Linear):
        return made(value, layer, at).flatten(0, 1)[:, None]
    assert isinstance(layer, nn.Conv2d)
    at = at.to(value.device)
    cells = [_cell(value, layer, at, *offset) for offset in _offsets(layer)]  # each [N, C, p]
    patches = torch.stack(cells, dim=2).permute(0, 3, 1, 2)  # [N, p, C, k]
    return patches.reshape(at.numel(), layer.groups, -1)


def solve_shape(weight: Tensor, groups: int) -> Tensor:
    """View a layer's weights as [groups, out / groups, F], to fit what `seen` returns."""
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def _offsets(layer: nn.Conv2d) -> list[tuple[int, int]]:
    rows, columns = layer.kernel_size
    down, right = layer.dilation
    return [(i * down, j * right) for i in range(rows) for j in range(columns)]


def _cell(value: Tensor, layer: nn.Conv2d, at: Tensor, row: int, column: int) -> Tensor:
    """Read one cell of the kernel's window at each place, [N, C, p]; zero in the padding."""
    height, width = value.shape[2:]
    wide = _length(width, layer, 1)
    y = torch.div(at, wide, rounding_mode="floor") * layer.stride[0] - int(layer.padding[0]) + row
    x = at % wide * layer.stride[1] - int(layer.padding[1]) + column
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    flat = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)  # [N, p]
    read = value.flatten(2).gather(2, flat[:, None].expand(-1, value.shape[1], -1))
    return read * inside[:, None]


def _length(size: int, layer: nn.Conv2d, side: int) -> int:
    """Return how many places a convolution's output has along one side."""
    reach = layer.dilation[side] * (layer.kernel_size[side] - 1) + 1
    return (size + 2 * int(layer.padding[side]) - reach) // layer.stride[side] + 1
