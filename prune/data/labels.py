"""Label files in YOLO's form: one box a line, "class cx cy w h" in fractions of the picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prune.atomic import write_text
from prune.data.problem import CLIPPED, DEGENERATE, DUPLICATE, Problem
from prune.errors import DataError

Boxes = npt.NDArray[np.float32]
Row = tuple[float, float, float, float, float]  # class, cx, cy, w, h

# Other tools round to three or more places, so a box at the border may end up a little outside.
TOLERANCE = 1e-3


def label_path(image: Path) -> Path:
    """Name a picture's label file: the last folder called "images" becomes "labels", suffix .txt.

    Without such a folder the label file lies beside the picture, as Darknet has it.
    """
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read(path: Path, *, classes: int, merged: int | None = None) -> Boxes:
    """Read a label file's boxes, float32 [n, 5]: class, cx, cy, w, h as fractions of the picture.

    A missing file means a picture without boxes. Polygons become the boxes around them. Boxes are
    clipped to the picture; duplicates and boxes without an area are dropped.

    Args:
        path: the label file.
        classes: how many classes there are, which the file numbers from 0.
        merged: how many classes the file has instead, all of which are read as class 0.

    Raises:
        DataError: a line is malformed; the message names file and line.
    """
    boxes, problems = scan(path, classes=classes, merged=merged)
    for problem in problems:
        if problem.fatal:
            raise DataError(str(problem))
    return boxes


def scan(path: Path, *, classes: int, merged: int | None = None) -> tuple[Boxes, list[Problem]]:
    """Read a label file like `read`, but collect what is wrong instead of raising.

    Returns:
        The usable boxes, float32 [n, 5], and every problem in the order of the lines.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return _array([]), []
    except (OSError, UnicodeDecodeError) as error:
        return _array([]), [Problem("cannot read label file", path, None, str(error), fatal=True)]
    rows: dict[Row, None] = {}  # a dict keeps the order and finds duplicates
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row, kind = _clip(_parse(line.split(), merged or classes))
        except ValueError as error:
            problems.append(Problem("malformed label", path, number, str(error), fatal=True))
            continue
        if merged:
            row = (0.0, *row[1:])
        if row in rows:
            kind = DUPLICATE
        if kind:
            problems.append(Problem(kind, path, number, " ".join(line.split())))
        if kind in ("", CLIPPED):
            rows[row] = None
    return _array(list(rows)), problems


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


def _parse(fields: Sequence[str], classes: int) -> Row:
    """Turn a line's fields into a box; ValueError says what is wrong with them."""
    values = [_number(field) for field in fields]
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise ValueError(
            f"{len(values)} columns; a box has 5 (class cx cy w h), a polygon 7, 9, 11, ..."
        )
    index = values[0]
    if index != int(index):
        raise ValueError(f"class {fields[0]} is no whole number")
    if not 0 <= index < classes:
        raise ValueError(f"class {int(index)} is out of range; names has 0 to {classes - 1}")
    for field, value in zip(fields[1:], values[1:], strict=True):
        if not -TOLERANCE <= value <= 1 + TOLERANCE:
            raise ValueError(f"{field} is outside 0..1; labels are fractions of the picture")
    if len(values) == 5:
        return index, values[1], values[2], values[3], values[4]
    return index, *_around(values[1::2], values[2::2])


def _number(field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        raise ValueError(f"{field!r} is no number") from None
    if not np.isfinite(value):
        raise ValueError(f"{field!r} is no finite number")
    return value


def _around(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float, float]:
    """Return the box (cx, cy, w, h) around a polygon."""
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _clip(row: Row) -> tuple[Row, str]:
    """Cut a box off at the picture's border; name what is wrong with it, if anything."""
    index, cx, cy, w, h = row
    left, right, top, bottom = cx - w / 2, cx + w / 2, cy - h / 2, cy + h / 2
    over = max(-left, right - 1, -top, bottom - 1)
    if over > 0:
        left, right, top, bottom = max(left, 0.0), min(right, 1.0), max(top, 0.0), min(bottom, 1.0)
        row = (index, *_around((left, right), (top, bottom)))
    if row[3] <= 0 or row[4] <= 0:
        return row, DEGENERATE
    return row, CLIPPED if over > TOLERANCE else ""
