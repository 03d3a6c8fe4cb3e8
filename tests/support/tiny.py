"""A detector and a image set that train within seconds: coloured squares, two heads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from prune import checkpoint
from prune.models.darknet import build

SIZE = 64  # pixels
NAMES = ("red", "blue")

# Stride 8 and 16; with BatchNorm, biases and a shortcut, so that all that trains is there.
CFG = """\
[net]
width=64
height=64
channels=3

[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters={width}
size=3
stride=2
pad=1
activation=leaky

[convolutional]
batch_normalize=1
filters={width}
size=3
stride=1
pad=1
activation=leaky

[shortcut]
from=-2
activation=linear

[convolutional]
filters=21
size=1
stride=1
pad=1
activation=logistic

[yolo]
mask=0,1,2
anchors=10,10, 16,16, 24,24, 20,20, 30,30, 40,40
classes=2
num=6
new_coords=1
scale_x_y=2.0

[route]
layers=-3

[convolutional]
batch_normalize=1
filters={width}
size=3
stride=2
pad=1
activation=leaky

[convolutional]
filters=21
size=1
stride=1
pad=1
activation=logistic

[yolo]
mask=3,4,5
anchors=10,10, 16,16, 24,24, 20,20, 30,30, 40,40
classes=2
num=6
new_coords=1
scale_x_y=2.0
"""


def cfg(folder: Path, *, width: int = 32) -> Path:
    """Write the network's cfg; another width is another network."""
    path = folder / f"tiny{width}.cfg"
    path.write_text(CFG.format(width=width))
    return path


def weights(folder: Path, *, pruned: bool = False) -> Path:
    """Write a checkpoint of random weights; a pruned one is narrower and says so."""
    torch.manual_seed(0)
    net = build(CFG.format(width=20 if pruned else 32))
    history = [{"command": "layers", "plan": {"cuts": []}}] if pruned else []
    path = folder / ("pruned.pt" if pruned else "dense.pt")
    checkpoint.save(checkpoint.capture(net, names=NAMES, imgsz=SIZE, history=history), path)
    return path


def grouped(folder: Path, *, groups: int, width: int = 32) -> Path:
    """Write the same with its third convolution in groups."""
    torch.manual_seed(0)
    of = "size=3\nstride=1\n"
    net = build(CFG.format(width=width).replace(of, f"groups={groups}\n{of}"))
    path = folder / f"grouped{groups}.pt"
    checkpoint.save(checkpoint.capture(net, names=NAMES, imgsz=SIZE), path)
    return path


def data(folder: Path, *, images: int = 6) -> Path:
    """Write images with one red and one blue square each, the same for train and val."""
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
    for number in range(images):
        image = random.integers(0, 60, (SIZE, SIZE, 3), dtype=np.uint8)
        rows = []
        for label, (channel, left) in enumerate(((2, 2), (0, 34))):
            side = int(random.integers(10, 26))
            x, y = left + int(random.integers(28 - side)), int(random.integers(SIZE - side))
            image[y : y + side, x : x + side, channel] = 220
            shares = ((x + side / 2) / SIZE, (y + side / 2) / SIZE, side / SIZE, side / SIZE)
            rows.append(" ".join(map(str, (label, *shares))))
        for split in ("train", "val"):
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), image)
            (folder / "labels" / split / f"{number}.txt").write_text("\n".join(rows) + "\n")
    path = folder / "data.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: [red, blue]\n")
    return path
