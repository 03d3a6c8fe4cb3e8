"""A few real images in the shapes that an exported file takes, prepared as for evaluation."""

from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from torch import Tensor

from prune.data.frames import Shape, batch_shape, loading_size
from prune.data.images import read_image
from prune.evaluate.preprocess import fitted

COUNT = 4


def fixed(paths: Sequence[Path], *, shape: Shape, batch: int) -> list[Tensor]:
    """Letterbox the first COUNT images into one height and width.

    Args:
        paths: images, at least one.
        shape: height and width, pixels, multiples of the stride.
        batch: images per run; the last batch is filled up with the first images.

    Returns:
        Batches [batch, 3, height, width], RGB in 0..1.

    Raises:
        DataError: an image that cannot be read.
    """
    first = paths[:COUNT]
    filled = list(islice(cycle(first), -(-len(first) // batch) * batch))
    return [loaded.images.float() / 255 for loaded in fitted(filled, shape, batch)]


def least(paths: Sequence[Path], *, room: Shape, stride: int) -> list[Tensor]:
    """Letterbox each of the first COUNT images into the smallest rectangle, as evaluation does.

    Args:
        paths: images.
        room: height and width that they are scaled to fit into, pixels.
        stride: of the network.

    Returns:
        Images [1, 3, H, W] of their own sizes, RGB in 0..1.

    Raises:
        DataError: an image that cannot be read.
    """
    found = []
    for path in paths[:COUNT]:
        height, width = read_image(path).shape[:2]
        shape = batch_shape([loading_size((height, width), room)], stride)
        found += fixed([path], shape=shape, batch=1)
    return found
