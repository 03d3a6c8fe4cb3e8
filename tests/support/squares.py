"""A network that provably finds what is in its images: red and blue squares on black.

One convolution looks at cells of 8 x 8 pixels: objectness is 40 (red + blue - 2 green) - 20, so a
cell that a square fills scores 1, and black, grey padding or a half-filled cell hardly more than 0.
Boxes are always the cell itself. Every score on aligned squares is therefore exactly 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from prune import checkpoint
from prune.data import labels
from prune.models.darknet import Darknet, build

NAMES = ("red", "blue")
CELL = 8  # pixels at the network's size
SIZE = 64

CFG = """\
[net]
width=64
height=64
channels=3

[convolutional]
filters=7
size=8
stride=8
pad=0
activation=logistic

[yolo]
mask=0
anchors=8,8
classes=2
num=1
new_coords=1
scale_x_y=2.0
"""

Square = tuple[int, int, int]  # class, row, column of the cell


def network() -> Darknet:
    """Build the network with the weights that the file's head describes."""
    net = build(CFG)
    convolution = next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d))
    assert convolution.bias is not None
    red, green, blue = torch.eye(3)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.fill_(-20)
        convolution.bias[:4] = 0  # sigmoid 0.5: the cell's centre, the anchor's size
        for row, colours in ((4, red + blue - 2 * green), (5, red), (6, blue)):
            convolution.weight[row] = colours[:, None, None] * 40 / CELL**2
    return net.eval()


def single_class_network() -> Darknet:
    """Build the network of one class that finds squares of either colour."""
    net = build(CFG.replace("filters=7", "filters=6").replace("classes=2", "classes=1"))
    weights = network().state_dict()
    red, blue = 5, 6
    for value in weights.values():
        value[red] += value[blue] if value.dim() > 1 else 0  # the bias is -20 for both
    net.load_state_dict({name: value[:blue] for name, value in weights.items()})
    return net.eval()


def save(path: Path) -> Path:
    """Write the network as a checkpoint."""
    checkpoint.save(checkpoint.capture(network(), names=NAMES, imgsz=SIZE), path)
    return path


def draw_image(squares: list[Square], *, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Draw squares at twice the network's size, [2 * height, 2 * width, 3] BGR."""
    image = np.zeros((2 * height, 2 * width, 3), dtype=np.uint8)
    for label, row, column in squares:
        y, x = (2 * CELL * cell for cell in (row, column))
        image[y : y + 2 * CELL, x : x + 2 * CELL, 2 if label == 0 else 0] = 255
    return image


def corners(square: Square) -> list[int]:
    """Return a square's x1, y1, x2, y2 in pixels of `image`."""
    _, row, column = square
    return [2 * CELL * side for side in (column, row, column + 1, row + 1)]


SPLIT: tuple[list[Square], ...] = (
    [(0, 0, 0), (1, 2, 3)],
    [(0, 5, 7)],
    [],
    [(1, 1, 1), (1, 4, 6), (0, 3, 0)],
)


def crowd(side: int = 20) -> list[Square]:
    """Fill an image of side x side cells with red squares."""
    return [(0, row, column) for row in range(side) for column in range(side)]


def data(
    folder: Path,
    *,
    height: int = 48,
    width: int = SIZE,
    split: Sequence[list[Square]] = SPLIT,
) -> Path:
    """Write the images of `split` as a data set's val split; return its data.yaml."""
    for number, squares in enumerate(split):
        image = draw_image(squares, height=height, width=width)
        path = folder / "images" / "val" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        size = np.array(image.shape[1::-1])
        rows = np.zeros((len(squares), 5), dtype=np.float32)
        for row, square in zip(rows, squares, strict=True):
            low, high = np.split(np.array(corners(square)), 2)
            row[:] = (square[0], *((low + high) / 2 / size), *((high - low) / size))
        labels.write(labels.label_path(path), rows)
    yaml = folder / "data.yaml"
    yaml.write_text(f"val: images/val\nnames: {list(NAMES)}\n")
    return yaml
