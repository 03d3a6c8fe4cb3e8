"""Training at several scales: every batch is resized, to a size drawn by seed and position alone.

A resumed run, or another process of the same one, therefore draws what an unbroken one would.
"""

from __future__ import annotations

from numpy.random import PCG64, Generator, SeedSequence
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  everybody's name for it

THIRDS = (2, 4)  # of the picture size: the published 0.67 to 1.33
_OWN = 0x5CA1E  # keeps these numbers apart from those that shuffle and augment


def sides(imgsz: int, *, stride: int) -> range:
    """List the sides that batches can have: multiples of the stride from 2 to 4 thirds of `imgsz`.

    Args:
        imgsz: pixels, a multiple of `stride`.
        stride: the network's largest, pixels.
    """
    low, high = (share * imgsz for share in THIRDS)
    first = -(-low // (3 * stride)) * stride
    return range(first, high // 3 + 1, stride)


def side(imgsz: int, *, stride: int, seed: int, position: int) -> int:
    """Draw a batch's side in pixels.

    Args:
        imgsz: pixels, a multiple of `stride`.
        stride: the network's largest, pixels.
        seed: the run's.
        position: the batch's, counted from the run's start.
    """
    generator = Generator(PCG64(SeedSequence((seed % 2**64, _OWN, position))))
    return int(generator.choice(sides(imgsz, stride=stride)))


def resized(images: Tensor, side: int) -> Tensor:
    """Resize pictures, [N, 3, H, H] -> [N, 3, side, side]; boxes are shares and stay."""
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
