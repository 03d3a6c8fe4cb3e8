"""The label rows of a split, and where they are from: the one way by which labels are read.

Nothing is trained, evaluated or pruned on a split whose label files were not found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.common.notes import note
from prune.common.wording import counted
from prune.data import labels
from prune.data.hints import labels_elsewhere
from prune.data.label_files import label_candidates, label_files, label_path
from prune.data.labels import Boxes, Form
from prune.data.problem import Problem
from prune.data.rows import ORIENTED, POLYGON, POSE
from prune.errors import DataError

# What is made of rows that are no boxes.
_TAKEN = {
    POLYGON: "polygons; the boxes around them are used",
    ORIENTED: "oriented boxes or other outlines of 4 corners; the boxes around them are used",
    POSE: "pose labels; their boxes (columns 2 to 5) are used",
}


@dataclass(frozen=True)
class Truth:
    """The labels of some images.

    Attributes:
        boxes: for each image, float32 [n, 5]: class, cx, cy, w, h as fractions of the image.
        without_file: images that have no label file.
        empty: images whose label file has no row.
        twice: images that have label files in two places, of which one is read.
        kinds: rows of each kind, see rows.py.
        problems: what is wrong with the label files.
        pose: the keypoints that all outlines could be as well; None where they are outlines.
    """

    boxes: tuple[Boxes, ...]
    without_file: tuple[Path, ...]
    empty: int
    twice: tuple[Path, ...]
    kinds: Counter[str]
    problems: tuple[Problem, ...]
    pose: tuple[int, int, int] | None  # columns, keypoints, numbers of each

    @property
    def images(self) -> int:
        """How many images there are."""
        return len(self.boxes)

    @property
    def count(self) -> int:
        """How many boxes there are."""
        return sum(map(len, self.boxes))

    def __str__(self) -> str:
        """Count images, boxes, images without a label file and with an empty one."""
        return (
            f"{counted(self.images, 'image')}, {counted(self.count, 'box', 'boxes')}, "
            f"{counted(len(self.without_file), 'image')} without a label file, "
            f"{self.empty} with an empty one"
        )


def read_truth(images: Sequence[Path], form: Form) -> Truth:
    """Read the label files of some images; what is wrong with them is collected."""
    boxes: list[Boxes] = []
    without: list[Path] = []
    twice: list[Path] = []
    kinds: Counter[str] = Counter()
    shapes: Counter[tuple[int, tuple[int, int] | None]] = Counter()
    problems: list[Problem] = []
    empty = 0
    for image in images:
        files = label_files(image)
        found = labels.scan(files[0] if files else label_path(image), form)
        boxes.append(found.boxes)
        problems += found.problems
        kinds += found.kinds
        shapes += found.shapes
        empty += bool(files) and not found.kinds and not found.problems
        without += [] if files else [image]
        twice += [image] if len(files) > 1 else []
    return Truth(
        tuple(boxes), tuple(without), empty, tuple(twice), kinds, tuple(problems), _pose(shapes)
    )


def expect_truth(truth: Truth, images: Sequence[Path], *, where: Path, split: str) -> None:
    """Refuse labels that cannot be used, and note in one line each what is odd about them.

    Args:
        truth: of the images.
        images: at least one.
        where: the data set description, for messages; labels are looked for near it.
        split: which the images belong to.

    Raises:
        DataError: a label file is malformed, no image has one, or rows may be poses or outlines.
    """
    for problem in truth.problems:
        if problem.fatal:
            raise DataError(str(problem))
    if refusal := nothing(truth, images, where=where, split=split) or ambiguous(truth, where):
        raise DataError(refusal)
    for remark in remarks(truth, split):
        note(f"{where}: {remark}")


def nothing(truth: Truth, images: Sequence[Path], *, where: Path, split: str) -> str:
    """Return why there is nothing to train or evaluate on, or ""; see `expect_truth`."""
    if len(truth.without_file) < truth.images:
        return ""
    near = (where if where.is_dir() else where.parent).absolute()
    there = labels_elsewhere(images[:100], near, split)
    expected = [path for path in label_candidates(images[0]) if path.is_relative_to(near)]
    moved = f"; label files of these images lie in {there}" if there else ""
    return (
        f"{where}: no image of {split} has a label file; expected e.g. "
        f"{(expected or [label_path(images[0])])[0]}{moved}"
    )


def ambiguous(truth: Truth, where: Path) -> str:
    """Say that rows may be poses or outlines, "" where that is clear."""
    if truth.pose is None:
        return ""
    columns, count, size = truth.pose
    return (
        f"{where}: the rows of {columns} columns may be pose labels (class cx cy w h and {count} "
        f"keypoints of {size} numbers) or polygons; write `kpt_shape: [{count}, {size}]` into the "
        "data.yaml for pose labels, or `kpt_shape: [0, 0]` for polygons"
    )


def remarks(truth: Truth, split: str) -> list[str]:
    """List what is odd about the labels of a split, a sentence each."""
    found = [
        f"{split}: {counted(truth.kinds[kind], 'row')} in the form of {taken}"
        for kind, taken in _TAKEN.items()
        if truth.kinds[kind]
    ]
    if truth.images and not truth.count:
        found.append(f"{split}: no image has a box")
    if 2 * len(truth.without_file) > truth.images:
        found.append(
            f"{split}: {len(truth.without_file)} of {truth.images} images have no label file, e.g. "
            f"{label_path(truth.without_file[0])}; they are taken for images without objects"
        )
    if truth.twice:
        used, other = label_files(truth.twice[0])[:2]
        found.append(
            f"{split}: {counted(len(truth.twice), 'image')} with label files in two places, e.g. "
            f"{used}, which is used, and {other}"
        )
    return found


def _pose(shapes: Counter[tuple[int, tuple[int, int] | None]]) -> tuple[int, int, int] | None:
    """Return what all outlines could be read as instead, if that is the same for all of them."""
    if len(shapes) != 1:
        return None
    ((columns, keypoints),) = shapes
    return (columns, *keypoints) if keypoints else None
