"""What training does to an image and its boxes; everything random is drawn by the caller.

An image is uint8 [height, width, 3] BGR. Boxes are float32 [n, 5]: class, left, top, right, bottom,
in pixels measured from the image's outer edge, so that pixel i covers [i, i + 1].
"""

import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from prune.data.frames import GREY, Shape, pad
from prune.data.images import Image
from prune.data.labels import Boxes

Flip = Callable[[Image, Boxes], tuple[Image, Boxes]]
Matrix = NDArray[np.float64]  # [3, 3], maps (x, y, 1) of the source to the target

MIN_SIDE = 2.0  # pixels; thinner boxes teach noise
MIN_LEFT = 0.1  # fraction of a box's area that must stay in the image
MAX_ASPECT = 100.0  # longer side over shorter


def letterbox(image: Image, boxes: Boxes, shape: Shape) -> tuple[Image, Boxes]:
    """Centre an image on grey of size (height, width), which must hold it."""
    offset = ((shape[1] - image.shape[1]) // 2, (shape[0] - image.shape[0]) // 2)
    return pad(image, shape), shift(boxes, offset)


def shift(boxes: Boxes, offset: tuple[int, int]) -> Boxes:
    """Move boxes by (x, y) pixels."""
    return boxes + np.array((0, *offset, *offset), dtype=np.float32)


def visible(boxes: Boxes, shape: Shape) -> Boxes:
    """Clip boxes to (height, width) and drop those of which too little is left."""
    if not len(boxes):
        return boxes
    clipped = boxes.copy()
    clipped[:, 1::2] = boxes[:, 1::2].clip(0, shape[1])
    clipped[:, 2::2] = boxes[:, 2::2].clip(0, shape[0])
    sides = clipped[:, 3:] - clipped[:, 1:3]  # [n, 2]
    whole = (boxes[:, 3:] - boxes[:, 1:3]).prod(axis=1)  # [n]
    keep = (
        (sides.min(axis=1) > MIN_SIDE)
        & (sides.prod(axis=1) > MIN_LEFT * whole)
        & (sides.max(axis=1) < MAX_ASPECT * sides.min(axis=1))
    )
    kept: Boxes = clipped[keep]
    return kept


def random_matrix(
    rng: Generator,
    source: Shape,
    target: Shape,
    *,
    degrees: float,
    translate: float,
    scale: float,
    shear: float,
    perspective: float,
) -> Matrix:
    """Draw a map from an image of size `source` to one of size `target`, centre to centre.

    Args:
        rng: where the numbers come from; always the same count is drawn.
        source: height and width before.
        target: height and width after.
        degrees: rotation, uniform in +-degrees.
        translate: shift, uniform in +-translate of the target's size.
        scale: zoom, uniform in 1 +- scale.
        shear: slant of each axis, uniform in +-shear degrees.
        perspective: the two projective terms, uniform in +-perspective per pixel.

    Returns:
        The map, [3, 3].
    """
    draw = rng.uniform(-1, 1, size=8)
    centre, project, slant, end = (np.eye(3) for _ in range(4))
    centre[:2, 2] = -source[1] / 2, -source[0] / 2
    project[2, :2] = draw[0:2] * perspective
    angle, zoom = math.radians(draw[2] * degrees), 1 + draw[3] * scale
    turn = np.diag((zoom, zoom, 1.0))
    turn[:2, :2] *= math.cos(angle)
    turn[0, 1], turn[1, 0] = zoom * math.sin(angle), -zoom * math.sin(angle)
    slant[0, 1], slant[1, 0] = np.tan(np.radians(draw[4:6] * shear))
    end[:2, 2] = (0.5 + draw[6:8] * translate) * (target[1], target[0])
    return np.asarray(end @ slant @ turn @ project @ centre)


def warp(image: Image, boxes: Boxes, matrix: Matrix, *, shape: Shape) -> tuple[Image, Boxes]:
    """Map an image and its boxes through a matrix [3, 3] into (height, width); drop lost boxes."""
    if image.shape[:2] == shape and np.allclose(matrix, np.eye(3), rtol=0, atol=1e-9):
        return image, visible(boxes, shape)
    # OpenCV counts from pixel centres, boxes count from the image's edge: half a pixel apart.
    half = np.array(((1, 0, 0.5), (0, 1, 0.5), (0, 0, 1)))
    pixels = np.linalg.inv(half) @ matrix @ half
    size, grey = shape[::-1], (GREY,) * 3
    if np.array_equal(matrix[2], (0, 0, 1)):
        moved = cv2.warpAffine(image, pixels[:2], size, borderValue=grey)
    else:
        moved = cv2.warpPerspective(image, pixels, size, borderValue=grey)
    return np.asarray(moved, dtype=np.uint8), visible(warp_boxes(boxes, matrix), shape)


def warp_boxes(boxes: Boxes, matrix: Matrix) -> Boxes:
    """Map boxes through a matrix [3, 3] to the upright boxes around their mapped corners.

    Boxes that reach the map's horizon have no image and are dropped.
    """
    corners = np.ones((len(boxes), 4, 3))
    corners[:, :, 0] = boxes[:, (1, 3, 3, 1)]
    corners[:, :, 1] = boxes[:, (2, 2, 4, 4)]
    mapped = corners @ matrix.T  # [n, 4, 3]
    before_horizon = (mapped[:, :, 2] > 1e-3).all(axis=1)
    boxes, mapped = boxes[before_horizon], mapped[before_horizon]
    points = mapped[:, :, :2] / mapped[:, :, 2:]  # [n, 4, 2]
    moved = np.concatenate((boxes[:, :1], points.min(axis=1), points.max(axis=1)), axis=1)
    return moved.astype(np.float32)


def mixup(
    first: tuple[Image, Boxes], second: tuple[Image, Boxes], ratio: float
) -> tuple[Image, Boxes]:
    """Blend two images of one size, `ratio` of the first, and keep both sets of boxes.

    Zhang et al. 2018, arXiv:1710.09412, with the boxes unweighted as detectors train.
    """
    image = cv2.addWeighted(first[0], ratio, second[0], 1 - ratio, 0)
    return np.asarray(image, dtype=np.uint8), np.concatenate((first[1], second[1]))


def hsv(image: Image, gains: tuple[float, float, float]) -> Image:
    """Multiply hue, saturation and value by gains; hue goes round, the others stop at 255.

    Lookup tables on uint8: one pass over the image instead of float arithmetic.
    """
    if gains == (1.0, 1.0, 1.0):
        return image
    scaled = np.arange(256)[:, None] * np.array(gains)  # [256, 3]
    scaled[:, 0] %= 180  # OpenCV's hue has 180 steps on uint8
    table = scaled.clip(0, 255).astype(np.uint8)[None]  # [1, 256, 3]
    colours = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), table)
    return np.asarray(cv2.cvtColor(colours, cv2.COLOR_HSV2BGR), dtype=np.uint8)


def flip_left_right(image: Image, boxes: Boxes) -> tuple[Image, Boxes]:
    """Mirror an image and its boxes at the vertical axis."""
    mirrored = boxes.copy()
    mirrored[:, (1, 3)] = image.shape[1] - boxes[:, (3, 1)]
    return np.asarray(cv2.flip(image, 1), dtype=np.uint8), mirrored


def flip_up_down(image: Image, boxes: Boxes) -> tuple[Image, Boxes]:
    """Mirror an image and its boxes at the horizontal axis."""
    mirrored = boxes.copy()
    mirrored[:, (2, 4)] = image.shape[0] - boxes[:, (4, 2)]
    return np.asarray(cv2.flip(image, 0), dtype=np.uint8), mirrored
