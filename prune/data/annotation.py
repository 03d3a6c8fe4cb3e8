"""An image's boxes as an annotation tool saved them, and how they become labels."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prune.common.device import cores
from prune.common.inputs import is_file, shown
from prune.data.images import decode, is_image, read_bytes
from prune.data.orientation import Corners, Size, orientation, swaps, turn
from prune.data.problem import (
    BROKEN,
    CLIPPED,
    DEGENERATE,
    DUPLICATE,
    MISSING,
    OUTSIDE,
    Problem,
)
from prune.data.yolo import Sample
from prune.errors import DataError

BORDER_PX = 1.0  # tools disagree by a pixel on where an image ends; less than that is not reported
_LONG = 10**15  # numbers from here on are not written out
MOST_SCALE = 64  # images are not resized by more: such a size is a wrong entry

# What may be wrong with an image or with the size that its annotation gives.
UNREADABLE = "not an image that prune reads"
NO_SIZE = "image size missing"
RESIZED = "image resized after it was annotated"
WRONG_SIZE = "image size differs"
SWAPPED = "width and height swapped"
TURNED = "boxes turned with their image"
SIZE_TURNED = "size turned with the image"
AS_STORED = "boxes taken as drawn before the EXIF entry"
AS_DISPLAYED = "boxes taken as drawn after the EXIF entry"


@dataclass(frozen=True)
class Box:
    """A named box; corners left, top, right, bottom in pixels from the image's own corner."""

    name: str
    corners: Corners
    line: int | None = None
    label: str = ""  # how its file calls it, where there are no lines to point at
    mark: str = ""  # "difficult" or "crowd" where its file marks it

    def __str__(self) -> str:
        """Write the name and the corners, for messages."""
        corners = ", ".join(f"{value:g}" for value in self.corners)
        return f"{self.name} at ({corners})" + (f", {self.label}" if self.label else "")


@dataclass(frozen=True)
class Annotation:
    """An image, the name it gets in the data set, and the boxes some file gives it."""

    path: Path  # the file that holds the boxes
    image: Path
    file: str
    boxes: tuple[Box, ...]
    size: Size | None = None  # width and height in pixels that the file claims


class _Look(NamedTuple):
    """What an image file turned out to be: its size as displayed, and how EXIF turned it."""

    size: Size
    turned: int


class _Habit(Enum):
    """What a tool that annotated a data set made of EXIF.

    Label Studio draws on the image as it is displayed and exports the stored image's size
    (HumanSignal/label-studio#6608).
    """

    DISPLAYED = "boxes and size are of the image as it is displayed"
    STORED = "boxes and size are of the image as it is stored"
    SIZE_STORED = "boxes are of the image as it is displayed, the size is not"


class _Frame(NamedTuple):
    """In which image the boxes were drawn: its size, and the EXIF entry that was added after."""

    size: Size
    turned: int = 1
    kind: str = ""  # what to report about it
    detail: str = ""


def to_samples(
    annotations: Sequence[Annotation], names: Sequence[str]
) -> tuple[list[Sample | None], list[Problem]]:
    """Read every image and turn the boxes into labels.

    Args:
        annotations: images and their boxes; boxes of classes not in `names` are left out.
        names: the classes.

    Returns:
        A sample for each annotation, None where there is no usable image; every problem.
    """
    numbers = {name: i for i, name in enumerate(names)}
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, cores())) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about a damaged EXIF entry
        looks = list(pool.map(_look, annotations))
    habit = _habit(annotations, looks)
    samples: list[Sample | None] = []
    problems: list[Problem] = []
    for annotation, look in zip(annotations, looks, strict=True):
        sample, found = _to_sample(annotation, look, numbers=numbers, habit=habit)
        samples.append(sample)
        problems += found
    return samples, problems


def _look(annotation: Annotation) -> _Look | Problem:
    """Read an image; what cannot be used is a problem."""
    report = partial(Problem, path=annotation.path)
    if not is_file(annotation.image):
        return report(MISSING, detail=str(annotation.image))
    if not is_image(annotation.image):
        return report(UNREADABLE, detail=annotation.image.name)
    try:
        data = read_bytes(annotation.image)
        image = decode(data, annotation.image)
    except DataError as error:
        detail = str(error).removeprefix(f"{annotation.image}: ")
        return Problem(BROKEN, annotation.image, None, detail)
    height, width = image.shape[:2]
    return _Look((width, height), orientation(data, image))


def _habit(annotations: Sequence[Annotation], looks: Sequence[_Look | Problem]) -> _Habit:
    """Find out what the tool made of EXIF, by the images whose size shows it."""
    shown = [
        (annotation.boxes, annotation.size, look.size)
        for annotation, look in zip(annotations, looks, strict=True)
        if isinstance(look, _Look) and swaps(look.turned) and look.size[0] != look.size[1]
    ]
    stored = [(boxes, size) for boxes, claimed, size in shown if claimed == size[::-1]]
    if sum(claimed == size for _, claimed, size in shown) >= max(len(stored), 1):
        return _Habit.DISPLAYED
    fits = Counter((_fit(boxes, size[::-1]), _fit(boxes, size)) for boxes, size in stored)
    if fits[False, True] > fits[True, False]:
        return _Habit.SIZE_STORED
    return _Habit.STORED if stored else _Habit.DISPLAYED


def _fit(boxes: Sequence[Box], size: Size) -> bool:
    """Return whether all boxes lie in an image of that size."""
    width, height = size
    rights, bottoms = ([box.corners[i] for box in boxes] for i in (2, 3))
    return max(rights, default=0) <= width + BORDER_PX and (
        max(bottoms, default=0) <= height + BORDER_PX
    )


def _to_sample(
    annotation: Annotation,
    look: _Look | Problem,
    *,
    numbers: Mapping[str, int],
    habit: _Habit,
) -> tuple[Sample | None, list[Problem]]:
    if isinstance(look, Problem):
        return None, [look]
    frame = _frame(annotation.size, look, habit)
    remarks = (
        [Problem(frame.kind, annotation.path, None, f"{annotation.image.name}, {frame.detail}")]
        if frame.kind
        else []
    )
    if frame.kind == SWAPPED:
        return None, remarks
    boxes, problems = _labels(annotation, numbers, frame)
    return Sample(annotation.file, annotation.image, boxes), [*remarks, *problems]


def _frame(claimed: Size | None, look: _Look, habit: _Habit) -> _Frame:
    """Decide in which image the boxes were drawn, by the size that their file claims.

    When only the scale differs the image was resized after it was annotated, and the boxes fit the
    size claimed. A size that is the stored image's, where EXIF turns it by a quarter, means that
    the boxes must be turned too, unless boxes show that only the size is the stored one's. Where
    the size cannot show it (half turns, mirrors, squares, no size), the data set's other images
    decide. A swapped size without such an entry means that the image was turned afterwards, and
    it is not known which way. Any other claim is a wrong entry.
    """
    width, height = look.size
    here = f"{width}x{height}"
    shows = swaps(look.turned) and width != height
    stored = look.size[::-1] if swaps(look.turned) else look.size
    if look.turned != 1 and (claimed is None or (not shows and _same_shape(claimed, look.size))):
        as_stored = habit is _Habit.STORED
        turned, kind = (look.turned, AS_STORED) if as_stored else (1, AS_DISPLAYED)
        size = claimed or (stored if as_stored else look.size)
        return _Frame(size, turned, kind, f"entry {look.turned}")
    if claimed == look.size:
        return _Frame(look.size)
    if claimed is None:
        return _Frame(look.size, 1, NO_SIZE, f"taken as {here}")
    # A made-up number of hundreds of digits is described in words.
    text = ("x" if max(claimed) < _LONG else " by ").join(map(shown, claimed))
    detail = f"{text} where the image has {here}"
    if _same_shape(claimed, look.size):
        return _Frame(claimed, 1, RESIZED, detail)
    if _same_shape(claimed, look.size[::-1]):
        if shows and habit is _Habit.SIZE_STORED:
            return _Frame(claimed[::-1], 1, SIZE_TURNED, f"{detail}, EXIF entry {look.turned}")
        if shows:
            return _Frame(claimed, look.turned, TURNED, f"{detail}, EXIF entry {look.turned}")
        return _Frame(look.size, 1, SWAPPED, f"{detail}; correct the entry or turn the image")
    return _Frame(look.size, 1, WRONG_SIZE, detail)


def _same_shape(first: Size, second: Size) -> bool:
    """Return whether two sizes differ in scale alone, but for a rounded pixel."""
    plausible = first[0] <= MOST_SCALE * second[0] and second[0] <= MOST_SCALE * first[0]
    return plausible and abs(first[0] * second[1] - first[1] * second[0]) <= max(second)


def _labels(
    annotation: Annotation, numbers: Mapping[str, int], frame: _Frame
) -> tuple[npt.NDArray[np.float32], list[Problem]]:
    """Turn boxes in pixels of the frame into label rows, float32 [n, 5]."""
    rows: dict[tuple[float, ...], None] = {}  # a dict keeps the order and finds duplicates
    problems: list[Problem] = []
    for box in annotation.boxes:
        if box.name not in numbers:
            continue
        corners, kind = _clip(box.corners, frame.size)
        row = (numbers[box.name], *corners)
        if row in rows:
            kind = DUPLICATE
        if kind:
            problems.append(Problem(kind, annotation.path, box.line, str(box)))
        if kind in ("", CLIPPED):
            rows[row] = None
    turned = [
        (number, *turn((left, top, right, bottom), frame.size, frame.turned))
        for number, left, top, right, bottom in rows
    ]
    size = frame.size[::-1] if swaps(frame.turned) else frame.size
    return _fractions(np.array(turned, dtype=np.float64).reshape(-1, 5), size), problems


def _clip(corners: Corners, size: Size) -> tuple[Corners, str]:
    """Cut a box off at the image's border; name what is wrong with it, if anything."""
    left, top, right, bottom = corners
    width, height = size
    if right <= left or bottom <= top:
        return corners, DEGENERATE
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return corners, OUTSIDE
    over = max(-left, -top, right - width, bottom - height)
    clipped = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
    return clipped, CLIPPED if over > BORDER_PX else ""


def _fractions(boxes: npt.NDArray[np.float64], size: Size) -> npt.NDArray[np.float32]:
    """Turn class and corners in pixels, [n, 5], into class, cx, cy, w, h in fractions, [n, 5]."""
    low, high = boxes[:, 1:3], boxes[:, 3:5]
    parts = (boxes[:, :1], (low + high) / 2 / size, (high - low) / size)
    return np.concatenate(parts, axis=1).astype(np.float32)
