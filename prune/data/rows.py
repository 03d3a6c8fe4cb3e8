"""One row of a label file: a box, a polygon, an oriented box or the keypoints of a pose.

All begin with the class. A box has 4 numbers (cx cy w h), an outline x y pairs, an oriented box the
4 corners x y, a pose a box and then x y or x y visibility for each keypoint. Numbers are fractions
of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from prune.common.digits import real
from prune.common.inputs import printable, shown

Row = tuple[float, float, float, float, float]  # class, cx, cy, w, h

# `kpt_shape` of a data.yaml: how many keypoints an object has, and 2 or 3 numbers for each. None
# where the yaml does not set it; NO_KEYPOINTS where it sets none.
Keypoints = tuple[int, int]
NO_KEYPOINTS = (0, 0)

# Other tools round to three or more places, so a box at the border may end up a little outside.
TOLERANCE = 1e-3

BOX = "box"
POLYGON = "polygon"
ORIENTED = "oriented box"
POSE = "pose"
OUTLINES = frozenset({POLYGON, ORIENTED})

_VISIBILITY = frozenset({0.0, 1.0, 2.0})
_FARTHEST = 1.0  # how far a corner of an oriented box may lie outside the image, in its widths


@dataclass(frozen=True)
class Parsed:
    """A row read: its box, what kind of row it was, and all of its numbers but the class."""

    row: Row
    kind: str
    numbers: tuple[float, ...]


def parse(fields: Sequence[str], classes: int, keypoints: Keypoints | None = None) -> Parsed:
    """Turn a line's fields into a box.

    Args:
        fields: of the line, at least one.
        classes: how many classes there are.
        keypoints: of the yaml, see `Keypoints`.

    Raises:
        ValueError: what is wrong with them.
    """
    values = [_number(field) for field in fields]
    index, numbers = values[0], tuple(values[1:])
    kind = _kind(numbers, keypoints)
    if index != int(index):
        raise ValueError(f"class {printable(fields[0], 80)} is no whole number")
    if not 0 <= index < classes:
        raise ValueError(f"class {index:.16g} is out of range; names has 0 to {classes - 1}")
    own = numbers[:4] if kind == POSE else numbers
    slack = _FARTHEST if kind == ORIENTED else TOLERANCE
    for field, value in zip(fields[1:], own, strict=False):
        if not -slack <= value <= 1 + slack:
            raise ValueError(
                f"{printable(field, 80)} is outside 0..1; labels are fractions of the image"
            )
    return Parsed((index, *_BOXES[kind](own)), kind, numbers)


def around(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the box (cx, cy, w, h) around points."""
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def looks_like_pose(numbers: Sequence[float]) -> Keypoints | None:
    """Return whether an outline's numbers could be a pose as well; return its keypoints if so.

    They could if the first four are a box inside the image and all that follow are points inside
    that box, or (0, 0), which stands for an invisible point. A rectangle in any direction is
    an oriented box, whose opposite corners have the same middle.
    """
    if len(numbers) == 8 and _is_parallelogram(numbers):
        return None
    cx, cy, w, h = numbers[:4]
    if not (_within(cx, w) and _within(cy, h)):
        return None
    for size in (3, 2):
        points = _points(numbers, size)
        if points and all(
            (x, y) == (0, 0) or max(abs(x - cx) - w / 2, abs(y - cy) - h / 2) <= TOLERANCE
            for x, y, *_ in points
        ):
            return len(points), size
    return None


def _kind(numbers: Sequence[float], keypoints: Keypoints | None) -> str:
    """Tell what a row is by how many numbers it has, and by `kpt_shape` where that is given.

    Without `kpt_shape`, keypoints with a visibility are recognised where no outline has such
    numbers: an odd number of them, or a visibility of 2.
    """
    count = len(numbers)
    if count == 4:
        return BOX
    if keypoints and keypoints != NO_KEYPOINTS:
        expected = 4 + keypoints[0] * keypoints[1]
        if count == expected:
            return POSE
        raise ValueError(
            f"{count + 1} columns; with kpt_shape: {list(keypoints)} a row has 5 (class cx cy w h) "
            f"or {expected + 1}"
        )
    outline = count >= 6 and count % 2 == 0
    flags = [point[2] for point in _points(numbers, 3)]
    if keypoints is None and flags and (not outline or 2 in flags):
        return POSE
    if not outline:
        raise ValueError(
            f"{count + 1} columns; a box has 5 (class cx cy w h), a polygon 7, 9, 11, ...; pose "
            "labels need kpt_shape: in the data.yaml, e.g. kpt_shape: [17, 3]"
        )
    return ORIENTED if count == 8 else POLYGON


def _points(numbers: Sequence[float], size: int) -> list[tuple[float, ...]]:
    """Divide what follows a box into keypoints of 2 or 3 numbers; none where it does not fit."""
    rest = numbers[4:]
    if not rest or len(rest) % size:
        return []
    points = [tuple(rest[i : i + size]) for i in range(0, len(rest), size)]
    fitting = size == 2 or all(point[2] in _VISIBILITY for point in points)
    return points if fitting else []


def _is_parallelogram(numbers: Sequence[float]) -> bool:
    x1, y1, x2, y2, x3, y3, x4, y4 = numbers
    return max(abs(x1 + x3 - x2 - x4), abs(y1 + y3 - y2 - y4)) <= 2 * TOLERANCE


def _within(centre: float, size: float) -> bool:
    """Return whether a box lies inside the image, looked at along one side."""
    return size > 0 and abs(centre - 0.5) + size / 2 <= 0.5 + TOLERANCE


def _number(field: str) -> float:
    try:
        value = real(field)
    except ValueError:
        raise ValueError(f"{shown(field)} is no number") from None
    if not np.isfinite(value):
        raise ValueError(f"{shown(field)} is no finite number")
    return value


def _first_four(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    cx, cy, w, h = numbers
    return cx, cy, w, h


def _enclosing(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    return around(numbers[0::2], numbers[1::2])


# Kind of row -> its box (cx, cy, w, h) from its numbers; of a pose only the first four are given.
_BOXES: dict[str, Callable[[Sequence[float]], tuple[float, float, float, float]]] = {
    BOX: _first_four,
    POLYGON: _enclosing,
    ORIENTED: _enclosing,
    POSE: _first_four,
}
