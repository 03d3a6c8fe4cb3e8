"""What the batches of a run show: at which size images come, and how often each image is drawn.

Sizes are drawn by seed and position alone: a resumed run, or another process of the same run, draws
what an uninterrupted run does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  everybody's name for it

from prune.common.size import Size
from prune.data.labels import Boxes
from prune.evaluate.metrics import Metrics

THIRDS = (2, 4)  # of the image size: the published 0.67 to 1.33
_OWN = 0x5CA1E  # makes these random numbers differ from those that shuffle and augment


def possible_sizes(imgsz: Size, *, stride: int) -> tuple[Size, ...]:
    """List the sizes that batches can have, multiples of the stride from 2 to 4 thirds of `imgsz`.

    The longer side takes every multiple; the other one follows in proportion, to the nearest.

    Args:
        imgsz: both sides multiples of `stride`.
        stride: the network's largest, pixels.
    """
    longest = max(imgsz)
    low, high = (thirds * longest for thirds in THIRDS)
    first = -(-low // (3 * stride)) * stride
    longer = range(first, high // 3 + 1, stride)
    # In whole numbers: side * long / longest, rounded half up to a multiple of the stride.
    beside = [
        [(2 * side * long // longest + stride) // (2 * stride) for side in imgsz] for long in longer
    ]
    return tuple(Size(*(max(1, times) * stride for times in pair)) for pair in beside)


def draw_size(imgsz: Size, *, stride: int, seed: int, position: int) -> Size:
    """Draw a batch's size.

    Args:
        imgsz: both sides multiples of `stride`.
        stride: the network's largest, pixels.
        seed: the run's.
        position: the batch's, counted from the run's start.
    """
    generator = Generator(PCG64(SeedSequence((seed % 2**64, _OWN, position))))
    found = possible_sizes(imgsz, stride=stride)
    return found[int(generator.choice(len(found)))]


def resize(images: Tensor, size: Size) -> Tensor:
    """Resize images, [N, 3, H, W] -> [N, 3, *size]; boxes are relative and stay as they are."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def weigh_images(labels: Sequence[Boxes], precisions: Sequence[float]) -> NDArray[np.float64]:
    """Weight every image by the sum over its boxes of (1 - AP)^2 / boxes of that class.

    A class whose AP is 0, as all are before the first evaluation, has a total weight of 1. Images
    without boxes are not drawn. Where that leaves nothing to draw, all images weigh the same.

    Args:
        labels: boxes of each image, [n, 5] with the class first.
        precisions: mean average precision per class, in [0, 1].

    Returns:
        One weight per image, [images]; not normalized.
    """
    classes = np.concatenate([boxes[:, 0] for boxes in labels]).astype(np.int64)  # [M]
    images = np.repeat(np.arange(len(labels)), [len(boxes) for boxes in labels])  # [M]
    counts = np.bincount(classes, minlength=len(precisions))  # [classes]
    per_box = (1 - np.asarray(precisions)) ** 2 / np.maximum(counts, 1)  # [classes]
    weights = np.bincount(images, per_box[classes], minlength=len(labels)).astype(np.float64)
    return weights if weights.any() else np.ones(len(labels))


def class_precisions(metrics: Metrics) -> dict[str, float]:
    """Return the mean average precision of each class that has one, for an epoch's row."""
    return {f"map_{i}": row.map for i, row in enumerate(metrics.per_class) if row.map is not None}


def latest_precisions(rows: Sequence[Mapping[str, float]], classes: int) -> list[float]:
    """Return the precision of each class in the last evaluated row; 0 where there is none."""
    evaluated = [row for row in rows if "map" in row] or [{}]
    return [evaluated[-1].get(f"map_{i}", 0.0) for i in range(classes)]
