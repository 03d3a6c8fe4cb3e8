"""Where an image lies inside the square or rectangle that the network sees."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from prune.common.size import Size
from prune.data.images import Image

GREY = 114  # the published padding value, near the mean of natural images

Shape = tuple[int, int]  # height, width


@dataclass(frozen=True)
class Frame:
    """An original image's size and its place in the batch: x_original = (x - pad_x) / scale_x.

    Sizes and pads are pixels. The shorter side is rounded to whole pixels after scaling, so the
    two scales differ a little.
    """

    height: int
    width: int
    scale_x: float
    scale_y: float
    pad_x: int
    pad_y: int


def loading_size(size: Shape, room: Shape) -> Shape:
    """Scale a height and width to the largest that `room` holds; no side falls below 1 px."""
    scale = min(room[0] / size[0], room[1] / size[1])
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def resize(image: Image, size: Shape) -> Image:
    """Resize to (height, width): averaging areas from half the size down, else bilinear.

    Bilinear reads 2 x 2 pixels, so it skips none until half the size; there both are the same, and
    averaging areas of broken widths takes ten times as long.
    """
    if image.shape[:2] == size:
        return image
    halved = max(image.shape[:2]) >= 2 * max(size)
    method = cv2.INTER_AREA if halved else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=method), dtype=np.uint8)


def place(original: Shape, loaded: Shape, shape: Shape) -> Frame:
    """Centre an image of size `original`, resized to `loaded`, in a batch of size `shape`."""
    return Frame(
        height=original[0],
        width=original[1],
        scale_x=loaded[1] / original[1],
        scale_y=loaded[0] / original[0],
        pad_x=(shape[1] - loaded[1]) // 2,
        pad_y=(shape[0] - loaded[0]) // 2,
    )


def pad(image: Image, shape: Shape) -> Image:
    """Centre an image on grey of size (height, width), which must hold it."""
    height, width = image.shape[:2]
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    if (height, width) == shape:
        return image
    sides = (top, shape[0] - height - top, left, shape[1] - width - left)
    padded = cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
    return np.asarray(padded, dtype=np.uint8)


def fit(image: Image, shape: Shape) -> tuple[Image, Frame]:
    """Letterbox any image into (height, width), as large as it can be.

    Returns:
        The padded image, [height, width, 3], and the frame that maps boxes back.
    """
    original = (image.shape[0], image.shape[1])
    loaded = loading_size(original, shape)
    return pad(resize(image, loaded), shape), place(original, loaded, shape)


def batch_shape(sizes: Sequence[Shape], stride: int) -> Shape:
    """The least height and width, both multiples of `stride`, that hold every size."""
    return Size(*(max(sides) for sides in zip(*sizes, strict=True))).raised(stride)
