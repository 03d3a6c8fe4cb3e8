"""Generate a small image set: circles, squares and triangles to find.

It is made for demonstrations and tests: a small detector learns it within minutes on a CPU, since
each class leans to a colour of its own; yet sizes differ, shapes overlap, leave the image and
stand among clutter of any colour.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from prune.data import yolo
from prune.data.images import Image
from prune.data.split import ranges
from prune.data.yolo import Sample
from prune.errors import DataError

SHARES = (0.7, 0.2, 0.1)
Points = npt.NDArray[np.float64]  # [n, 2] x, y of corners on the unit circle
Mask = npt.NDArray[np.bool_]  # [h, w]

_MOST_HIDDEN = 0.3  # of a shape's area, by the shapes that overlap it
_LEAST_CONTRAST = 70.0  # Euclidean, in BGR values 0..255, to what lies below the shape


def make_shapes(
    out: Path,
    *,
    images: int = 200,
    size: int = 320,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> Path:
    """Write a generated data set: OUT, a .yaml, and the folder of the same name beside it.

    Args:
        out: the data set's description.
        images: images in all splits together.
        size: width and height in pixels.
        seed: another seed draws other images.
        shares: fractions of train, val and test.

    Returns:
        `out`.

    Raises:
        DataError: the images are too small or too few.
        InputError: the target cannot be written.
    """
    splits = samples(images, size=size, seed=seed, shares=shares)
    yolo.write(out, names=tuple(SHAPES), splits=splits, made_by="prune data shapes")
    return out


def samples(
    count: int, *, size: int, seed: int, shares: Sequence[float] = SHARES
) -> dict[str, Iterator[Sample]]:
    """Generate the splits; the same numbers give the same images.

    Args:
        count: images in all splits together.
        size: width and height in pixels.
        seed: another seed draws other images.
        shares: fractions of train, val and test; they are divided by their sum.

    Raises:
        DataError: the images are too small or too few.
    """
    if size < 32:
        raise DataError(f"size is {size}; images need at least 32 pixels")
    dealt = ranges(count, shares)
    if not dealt["train"] or not dealt["val"]:
        raise DataError(f"{count} images are too few for train and val; give --images 10 or more")
    return {
        split: (_sample(index, size, seed) for index in numbers)
        for split, numbers in dealt.items()
        if numbers
    }


def draw(size: int, rng: Generator) -> tuple[Image, npt.NDArray[np.float32]]:
    """Draw one image.

    Returns:
        uint8 [size, size, 3] BGR, and the boxes float32 [n, 5]: class, cx, cy, w, h as fractions.
    """
    image = _background(size, rng)
    _clutter(image, rng)
    masks: list[Mask] = []
    rows: list[tuple[float, ...]] = []
    for _ in range(int(rng.integers(1, 6))):
        number = int(rng.integers(len(SHAPES)))
        outline = _free_place(size, tuple(SHAPES.values())[number], masks, rng)
        if outline is None:
            continue
        masks.append(_mask(outline, size))
        colour = _colour(image, masks[-1], number, rng)
        cv2.fillPoly(image, [_fixed(outline)], colour, cv2.LINE_AA, _SHIFT)
        rows.append((number, *_box(masks[-1])))
    noise = rng.normal(0, rng.uniform(2, 12), image.shape)
    noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
    return noisy, np.array(rows, dtype=np.float32).reshape(-1, 5)


def _sample(index: int, size: int, seed: int) -> Sample:
    # One generator per image: the first hundred of 100 and of 1000 images are the same.
    image, boxes = draw(size, np.random.default_rng([seed, index]))
    return Sample(f"{index:05d}.jpg", image, boxes)


def _circle(rng: Generator) -> Points:
    return _polygon(40, 0.0)


def _square(rng: Generator) -> Points:
    return _polygon(4, math.pi / 4 + rng.uniform(-0.4, 0.4))


def _triangle(rng: Generator) -> Points:
    return _polygon(3, rng.uniform(0, 2 * math.pi))


# Class name -> corners of the shape on the unit circle; the order is that of the class numbers.
SHAPES: dict[str, Callable[[Generator], Points]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
}


def _polygon(corners: int, turn: float) -> Points:
    angles = turn + 2 * math.pi * np.arange(corners) / corners
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def _free_place(
    size: int, shape: Callable[[Generator], Points], masks: Sequence[Mask], rng: Generator
) -> Points | None:
    """Try places and sizes until a shape neither hides another nor is lost at the border.

    Returns:
        The outline in pixels, [n, 2], or None when no place was found.
    """
    for _ in range(20):
        radius = size * math.exp(rng.uniform(math.log(0.08), math.log(0.25)))
        centre = rng.uniform(0.7 * radius, size - 0.7 * radius, size=2)
        outline = centre + radius * shape(rng)
        mask = _mask(outline, size)
        shared = [(mask & other).sum() / max(1, min(mask.sum(), other.sum())) for other in masks]
        if max(shared, default=0) <= _MOST_HIDDEN:
            return outline
    return None


_SHIFT = 4  # OpenCV takes outlines in fixed point; 4 bits are a sixteenth of a pixel


def _fixed(outline: Points) -> npt.NDArray[np.int32]:
    """Turn coordinates into OpenCV's, which count from the middle of the first pixel."""
    return np.asarray(np.round((outline - 0.5) * 2**_SHIFT), dtype=np.int32)


def _mask(outline: Points, size: int) -> Mask:
    mask = np.zeros((size, size), dtype=np.uint8)
    cv2.fillPoly(mask, [_fixed(outline)], (1,), cv2.LINE_8, _SHIFT)
    return mask.astype(bool)


def _box(mask: Mask) -> tuple[float, float, float, float]:
    """Return the box (cx, cy, w, h) around a mask as fractions of its size."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    size = len(mask)
    return (
        (left + right) / 2 / size,
        (top + bottom) / 2 / size,
        (right - left) / size,
        (bottom - top) / size,
    )


def _colour(image: Image, mask: Mask, number: int, rng: Generator) -> tuple[float, float, float]:
    """Draw a colour that leans to the class's channel and stands out from what lies below."""
    below = image[mask].mean(axis=0)  # [3]
    colours = rng.uniform(0, 150, size=(16, 3))
    colours[:, number] = rng.uniform(150, 255, size=16)
    distance = np.linalg.norm(colours - below, axis=1)  # [16]
    first = int(np.argmax(distance >= _LEAST_CONTRAST))
    blue, green, red = colours[first]
    return float(blue), float(green), float(red)


def _background(size: int, rng: Generator) -> Image:
    """Draw a gradient between two colours with soft blotches on it, uint8 [size, size, 3]."""
    angle = rng.uniform(0, 2 * math.pi)
    ys, xs = np.mgrid[0:size, 0:size] / size - 0.5
    share = np.clip(0.5 + xs * math.cos(angle) + ys * math.sin(angle), 0, 1)[..., None]
    first, second = rng.uniform(20, 235, size=(2, 3))
    blotches = cv2.resize(rng.normal(0, 12, (5, 5, 3)), (size, size))
    image = first * share + second * (1 - share) + blotches
    return np.asarray(np.clip(image, 0, 255), dtype=np.uint8)


def _clutter(image: Image, rng: Generator) -> None:
    """Scatter thin lines and specks that are no shapes."""
    size = len(image)
    for _ in range(int(rng.integers(4, 12))):
        start = rng.uniform(0, size, size=2)
        end = start + rng.normal(0, size / 8, size=2)
        colour = rng.uniform(0, 255, size=3).tolist()
        ends = [(int(x), int(y)) for x, y in (start, end)]
        cv2.line(image, ends[0], ends[1], colour, int(rng.integers(1, 3)), cv2.LINE_AA)
