"""A picture's boxes as an annotation tool saved them, and how they become labels."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prune.data.pictures import read_image
from prune.data.problem import CLIPPED, DEGENERATE, DUPLICATE, OUTSIDE, Problem
from prune.data.yolo import Sample
from prune.errors import DataError

BORDER_PX = 1.0  # tools disagree by a pixel on where a picture ends; less than that is not reported


@dataclass(frozen=True)
class Box:
    """A named box; corners left, top, right, bottom in pixels from the picture's own corner."""

    name: str
    corners: tuple[float, float, float, float]
    line: int | None = None
    label: str = ""  # how its file calls it, where there are no lines to point at

    def __str__(self) -> str:
        """Write the name and the corners, for messages."""
        corners = ", ".join(f"{value:g}" for value in self.corners)
        return f"{self.name} at ({corners})" + (f", {self.label}" if self.label else "")


@dataclass(frozen=True)
class Annotation:
    """A picture, the name it gets in the data set, and the boxes some file gives it."""

    path: Path  # the file that holds the boxes
    image: Path
    file: str
    boxes: tuple[Box, ...]
    size: tuple[int, int] | None = None  # width and height in pixels that the file claims


@dataclass(frozen=True)
class Converted:
    """A data set read from another format, ready to be written, and what was wrong with it."""

    names: tuple[str, ...]
    splits: Mapping[str, tuple[Sample, ...]]
    problems: tuple[Problem, ...]


def refuse_broken(problems: Iterable[Problem]) -> None:
    """Stop at broken files.

    Raises:
        DataError: a problem is fatal; the message is the first one's.
    """
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        more = f"and {len(fatal) - 1} more; " if len(fatal) > 1 else ""
        raise DataError(f"{fatal[0]} ({more}--skip-broken leaves such files out)")


def require_boxes(
    splits: Mapping[str, Iterable[Sample]], problems: Sequence[Problem], path: Path
) -> None:
    """Refuse a data set that has nothing to learn from.

    Raises:
        DataError: there is no box; the message tells of the first problem.
    """
    if not any(len(sample.boxes) for samples in splits.values() for sample in samples):
        why = f"; first problem: {problems[0]}" if problems else ""
        raise DataError(f"{path}: no picture with a usable box{why}")


def class_names(
    annotations: Iterable[Annotation], wanted: Sequence[str], path: Path
) -> tuple[tuple[str, ...], list[Problem]]:
    """Choose the classes: those wanted, in that order, or all that are found, by alphabet.

    The alphabet, because it does not change when pictures are added or dealt out differently.

    Returns:
        The names; a remark for each class left out and for each one wanted that has no box.

    Raises:
        DataError: there are boxes, and none of a class that is wanted.
    """
    found = Counter(box.name for annotation in annotations for box in annotation.boxes)
    if not wanted:
        return tuple(sorted(found)), []
    if found and found.keys().isdisjoint(wanted):
        raise DataError(
            f"{path}: no box is of {', '.join(wanted)}; the boxes are of {', '.join(sorted(found))}"
        )
    left_out = [
        Problem("class left out", path, None, f"{name}, {count} boxes")
        for name, count in sorted(found.items())
        if name not in wanted
    ]
    absent = [
        Problem("class without boxes", path, None, name) for name in wanted if not found[name]
    ]
    return tuple(wanted), left_out + absent


def to_samples(
    annotations: Sequence[Annotation], names: Sequence[str]
) -> tuple[tuple[Sample, ...], list[Problem]]:
    """Read every picture and turn the boxes into labels.

    Args:
        annotations: pictures and their boxes; boxes of classes not in `names` are left out.
        names: the classes.

    Returns:
        The samples in the same order, without those that have no usable picture; every problem,
        fatal where a picture is broken.
    """
    numbers = {name: i for i, name in enumerate(names)}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(partial(_to_sample, numbers=numbers), annotations))
    samples = tuple(sample for sample, _ in results if sample is not None)
    return samples, [problem for _, problems in results for problem in problems]


def _to_sample(
    annotation: Annotation, *, numbers: Mapping[str, int]
) -> tuple[Sample | None, list[Problem]]:
    if not annotation.image.is_file():
        return None, [Problem("picture missing", annotation.path, None, str(annotation.image))]
    try:
        height, width = read_image(annotation.image).shape[:2]
    except DataError as error:
        detail = str(error).removeprefix(f"{annotation.image}: ")
        return None, [Problem("broken picture", annotation.image, None, detail, fatal=True)]
    size, remarks = _size(annotation, (width, height))
    boxes, problems = _labels(annotation, numbers, size)
    return Sample(annotation.file, annotation.image, boxes), [*remarks, *problems]


def _labels(
    annotation: Annotation, numbers: Mapping[str, int], size: tuple[int, int]
) -> tuple[npt.NDArray[np.float32], list[Problem]]:
    """Turn boxes in pixels of a picture of `size` into label rows, float32 [n, 5]."""
    rows: dict[tuple[float, ...], None] = {}  # a dict keeps the order and finds duplicates
    problems: list[Problem] = []
    for box in annotation.boxes:
        if box.name not in numbers:
            continue
        corners, kind = _clip(box.corners, size)
        row = (numbers[box.name], *corners)
        if row in rows:
            kind = DUPLICATE
        if kind:
            problems.append(Problem(kind, annotation.path, box.line, str(box)))
        if kind in ("", CLIPPED):
            rows[row] = None
    return _fractions(np.array(list(rows), dtype=np.float64).reshape(-1, 5), size), problems


def _clip(
    corners: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[tuple[float, float, float, float], str]:
    """Cut a box off at the picture's border; name what is wrong with it, if anything."""
    left, top, right, bottom = corners
    width, height = size
    if right <= left or bottom <= top:
        return corners, DEGENERATE
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return corners, OUTSIDE
    over = max(-left, -top, right - width, bottom - height)
    clipped = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
    return clipped, CLIPPED if over > BORDER_PX else ""


def _fractions(boxes: npt.NDArray[np.float64], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Turn class and corners in pixels, [n, 5], into class, cx, cy, w, h in fractions, [n, 5]."""
    low, high = boxes[:, 1:3], boxes[:, 3:5]
    parts = (boxes[:, :1], (low + high) / 2 / size, (high - low) / size)
    return np.concatenate(parts, axis=1).astype(np.float32)


def _size(annotation: Annotation, actual: tuple[int, int]) -> tuple[tuple[int, int], list[Problem]]:
    """Decide in which picture size the boxes are meant; remark when the file claims another.

    When only the scale differs the picture was resized after it was annotated, and the boxes fit
    the size claimed; any other claim is a wrong entry, and the boxes fit the picture.
    """
    claimed = annotation.size
    if claimed == actual:
        return actual, []
    if claimed is None:
        return actual, [Problem("picture size missing", annotation.path)]
    (width, height), (real_width, real_height) = claimed, actual
    resized = abs(width * real_height - height * real_width) <= max(actual)
    meant = "taken as resized" if resized else "the picture's is used"
    if not resized and claimed == (real_height, real_width):
        meant = "was it turned by its EXIF entry after it was annotated?"
    detail = f"{width}x{height}, but the picture is {real_width}x{real_height}; {meant}"
    problem = Problem("picture size differs", annotation.path, None, detail)
    return (claimed if resized else actual), [problem]
