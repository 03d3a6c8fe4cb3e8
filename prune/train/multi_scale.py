"""Training at several scales: every batch is resized, to a size drawn by seed and position alone.

A resumed run, or another process of the same one, therefore draws what an unbroken one would.
"""

from __future__ import annotations

from numpy.random import PCG64, Generator, SeedSequence
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  everybody's name for it

from prune.common.size import Size

THIRDS = (2, 4)  # of the picture size: the published 0.67 to 1.33
_OWN = 0x5CA1E  # keeps these numbers apart from those that shuffle and augment


def sizes(imgsz: Size, *, stride: int) -> tuple[Size, ...]:
    """List the sizes that batches can have, multiples of the stride from 2 to 4 thirds of `imgsz`.

    The longer side takes every multiple; the other one follows in proportion, to the nearest.

    Args:
        imgsz: both sides multiples of `stride`.
        stride: the network's largest, pixels.
    """
    longest = max(imgsz)
    low, high = (share * longest for share in THIRDS)
    first = -(-low // (3 * stride)) * stride
    longer = range(first, high // 3 + 1, stride)
    # In whole numbers: side * long / longest, rounded half up to a multiple of the stride.
    beside = [
        [(2 * side * long // longest + stride) // (2 * stride) for side in imgsz] for long in longer
    ]
    return tuple(Size(*(max(1, times) * stride for times in pair)) for pair in beside)


def size(imgsz: Size, *, stride: int, seed: int, position: int) -> Size:
    """Draw a batch's size.

    Args:
        imgsz: both sides multiples of `stride`.
        stride: the network's largest, pixels.
        seed: the run's.
        position: the batch's, counted from the run's start.
    """
    generator = Generator(PCG64(SeedSequence((seed % 2**64, _OWN, position))))
    found = sizes(imgsz, stride=stride)
    return found[int(generator.choice(len(found)))]


def resized(images: Tensor, size: Size) -> Tensor:
    """Resize pictures, [N, 3, H, W] -> [N, 3, *size]; boxes are shares and stay."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)
