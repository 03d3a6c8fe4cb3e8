"""Label files in YOLO's form: one box per line, "class cx cy w h" in fractions of the image."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prune.common.files import write_text
from prune.common.inputs import read_text
from prune.data.label_files import label_path as label_path  # readers of labels look for it here
from prune.data.problem import CLIPPED, DEGENERATE, DUPLICATE, Problem
from prune.data.rows import (
    OUTLINES,
    TOLERANCE,
    Keypoints,
    Parsed,
    Row,
    around,
    looks_like_pose,
    parse,
)
from prune.errors import DataError

Boxes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Form:
    """How the rows of a data set's label files are read.

    Attributes:
        classes: how many classes there are, which the files number from 0.
        merged: how many classes the files number instead, all of which are read as class 0.
        keypoints: how many keypoints a row has, see `rows.Keypoints`; None where it is not known.
    """

    classes: int
    merged: int | None = None
    keypoints: Keypoints | None = None


@dataclass(frozen=True)
class Scan:
    """What a label file holds.

    Attributes:
        boxes: the usable boxes, float32 [n, 5]: class, cx, cy, w, h as fractions of the image.
        problems: everything that is wrong, in the order of the lines.
        kinds: how many rows are of which kind (see rows.py), the unusable ones not counted.
        shapes: of the outlines, how many columns each has, and the keypoints that it could be
            read as instead, if any (see `rows.looks_like_pose`).
    """

    boxes: Boxes
    problems: list[Problem] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    shapes: Counter[tuple[int, Keypoints | None]] = field(default_factory=Counter)


def read(
    path: Path, *, classes: int, merged: int | None = None, keypoints: Keypoints | None = None
) -> Boxes:
    """Read a label file's boxes, float32 [n, 5]: class, cx, cy, w, h as fractions of the image.

    A missing file means an image without boxes. Polygons and oriented boxes become the boxes around
    them, of poses the boxes are taken. Boxes are clipped to the image; duplicates and boxes without
    an area are dropped.

    Args:
        path: the label file.
        classes: see `Form`.
        merged: likewise.
        keypoints: likewise.

    Raises:
        DataError: a line is malformed; the message names file and line.
    """
    return usable(scan(path, Form(classes, merged, keypoints)))


def usable(found: Scan) -> Boxes:
    """Return the boxes of a label file that training accepts.

    Raises:
        DataError: it has a line that is malformed; the message names file and line.
    """
    for problem in found.problems:
        if problem.fatal:
            raise DataError(str(problem))
    return found.boxes


def scan(path: Path, form: Form) -> Scan:
    """Read a label file like `read`, but collect what is wrong instead of raising."""
    try:
        text = read_text(path, "labels", error=DataError)
    except DataError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return Scan(_array([]))
        why = str(error).removeprefix("cannot read ").removeprefix(f"{path}: ")
        return Scan(_array([]), [Problem("cannot read label file", path, None, why, fatal=True)])
    rows: dict[Row, None] = {}  # a dict keeps the order and finds duplicates
    found = Scan(_array([]))
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            parsed = parse(line.split(), form.merged or form.classes, form.keypoints)
        except ValueError as error:
            problem = Problem("malformed label", path, number, str(error), fatal=True)
            found.problems.append(problem)
            continue
        _count(parsed, found, form)
        row, kind = _clip(parsed.row)
        if form.merged:
            row = (0.0, *row[1:])
        if row in rows:
            kind = DUPLICATE
        if kind:
            found.problems.append(Problem(kind, path, number, " ".join(line.split())))
        if kind in ("", CLIPPED):
            rows[row] = None
    return replace(found, boxes=_array(list(rows)))


def _count(parsed: Parsed, found: Scan, form: Form) -> None:
    """Count what kind of row one is and, if that is open, what else it could be."""
    found.kinds[parsed.kind] += 1
    if form.keypoints is None and parsed.kind in OUTLINES:
        columns = len(parsed.numbers) + 1
        found.shapes[columns, looks_like_pose(parsed.numbers)] += 1


def write(path: Path, boxes: npt.NDArray[np.floating]) -> None:
    """Write boxes [n, 5] (class, cx, cy, w, h) so that `read` gives back the same float32 values.

    Raises:
        InputError: the file cannot be written.
    """
    write_text(path, to_text(boxes))


def to_text(boxes: npt.NDArray[np.floating]) -> str:
    """Format boxes [n, 5] as a label file's text, in the shortest decimals float32 needs."""
    return "".join(
        f"{int(box[0])} {' '.join(_decimal(value) for value in box[1:])}\n"
        for box in boxes.astype(np.float32)
    )


def _decimal(value: np.float32) -> str:
    return np.format_float_positional(value, unique=True, trim="-")


def _array(rows: Sequence[Row]) -> Boxes:
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


def _clip(row: Row) -> tuple[Row, str]:
    """Cut a box off at the image's border; name what is wrong with it, if anything."""
    index, cx, cy, w, h = row
    left, right, top, bottom = cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2
    over = max(-left, right - 1, -top, bottom - 1)
    if over > 0:
        left, right, top, bottom = max(left, 0.0), min(right, 1.0), max(top, 0.0), min(bottom, 1.0)
        row = (index, *around((left, right), (top, bottom)))
    if row[3] <= 0 or row[4] <= 0:
        return row, DEGENERATE
    return row, CLIPPED if over > TOLERANCE else ""
