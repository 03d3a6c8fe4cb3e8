"""Four images on one canvas (Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.3)."""

from collections.abc import Sequence

import numpy as np

from prune.data.augment import shift, visible
from prune.data.frames import GREY, Shape
from prune.data.images import Image
from prune.data.labels import Boxes

# Which of a tile's corners touches the mosaic's centre, as fractions of the tile's width and height
# to step back from it: top left tile, top right, bottom left, bottom right.
STEPS_BACK = ((1, 1), (0, 1), (1, 0), (0, 0))


def mosaic(
    tiles: Sequence[tuple[Image, Boxes]], centre: tuple[int, int], size: Shape
) -> tuple[Image, Boxes]:
    """Put four images around one point of a grey canvas, cut where they leave it.

    Args:
        tiles: four images with boxes in pixels; none larger than `size`.
        centre: x, y in pixels where the four meet, published as uniform in [1/2, 3/2] of the
            width and of the height.
        size: half the canvas's height and width.

    Returns:
        The canvas, [2 H, 2 W, 3], and the boxes of which enough is left on it.
    """
    bottom, right = whole = (2 * size[0], 2 * size[1])
    canvas = np.full((*whole, 3), GREY, dtype=np.uint8)
    parts = []
    for (image, boxes), back in zip(tiles, STEPS_BACK, strict=True):
        height, width = image.shape[:2]
        left, top = centre[0] - back[0] * width, centre[1] - back[1] * height
        rows = slice(max(top, 0), min(top + height, bottom))
        columns = slice(max(left, 0), min(left + width, right))
        canvas[rows, columns] = image[
            rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        parts.append(shift(boxes, (left, top)))
    return canvas, visible(np.concatenate(parts), whole)
