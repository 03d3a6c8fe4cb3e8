"""Look a whole data set over: what is in it, and everything that is wrong with it."""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prune.data import labels
from prune.data.pictures import decode, read_bytes
from prune.data.problem import Problem
from prune.data.spec import DataSpec, load
from prune.errors import DataError

# COCO's size classes: the area in square pixels from which a box belongs to one.
AREAS = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
_NO_LABELS = frozenset({"classes.txt"})  # what labelling tools leave among the labels


@dataclass(frozen=True)
class Count:
    """What a split holds."""

    pictures: int
    without_boxes: int
    boxes: Mapping[str, int]  # class name -> boxes
    sizes: Mapping[str, int]  # small, medium, large -> boxes; empty where nobody measured


@dataclass(frozen=True)
class Report:
    """A data set's counts by split, and every problem."""

    spec: DataSpec
    counts: Mapping[str, Count]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Look:
    """One picture: digest of its file, boxes [n, 5], their areas in square pixels [n]."""

    picture: Path
    digest: str
    boxes: labels.Boxes
    areas: npt.NDArray[np.float64]
    problems: tuple[Problem, ...]


def check(path: Path) -> Report:
    """Read every picture and label that a data.yaml names.

    Raises:
        DataError: the yaml itself cannot be used; all else becomes a problem in the report.
    """
    spec = load(path)
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        look = partial(_look, classes=len(spec.names))
        looks = {name: list(pool.map(look, files)) for name, files in spec.splits.items()}
    counts = {
        name: _count([look.boxes for look in found], spec.names, _sizes(found))
        for name, found in looks.items()
    }
    problems = [problem for found in looks.values() for one in found for problem in one.problems]
    return Report(
        spec, counts, (*problems, *_twins(looks), *_orphans(spec), *_absences(spec, counts))
    )


def count(path: Path) -> dict[str, Count]:
    """Count what a data.yaml's label files hold, without a look at the pictures.

    Raises:
        DataError: the yaml or a label file cannot be used.
    """
    spec = load(path)
    read = partial(labels.read, classes=len(spec.names))
    return {
        name: _count([read(labels.label_path(file)) for file in files], spec.names)
        for name, files in spec.splits.items()
    }


def _look(picture: Path, *, classes: int) -> _Look:
    boxes, problems = labels.scan(labels.label_path(picture), classes=classes)
    digest, areas = "", np.empty(0)
    try:
        data = read_bytes(picture)
        digest = hashlib.sha256(data).hexdigest()
        height, width = decode(data, picture).shape[:2]
        areas = boxes[:, 3].astype(np.float64) * boxes[:, 4] * width * height
    except DataError as error:
        detail = str(error).removeprefix(f"{picture}: ")
        problems.append(Problem("broken picture", picture, None, detail, fatal=True))
    return _Look(picture, digest, boxes, areas, tuple(problems))


def _count(
    boxes: Sequence[labels.Boxes], names: Sequence[str], sizes: Mapping[str, int] | None = None
) -> Count:
    """Count a split's boxes, one array [n, 5] a picture."""
    found = Counter(int(index) for rows in boxes for index in rows[:, 0])
    return Count(
        pictures=len(boxes),
        without_boxes=sum(not len(rows) for rows in boxes),
        boxes={name: found[i] for i, name in enumerate(names)},
        sizes=sizes or {},
    )


def _sizes(looks: Sequence[_Look]) -> dict[str, int]:
    areas = np.concatenate([look.areas for look in looks])
    numbers = np.bincount(np.digitize(areas, list(AREAS.values())[1:]), minlength=len(AREAS))
    return dict(zip(AREAS, numbers.tolist(), strict=True))


def _twins(looks: Mapping[str, Sequence[_Look]]) -> list[Problem]:
    """Find picture files with the same content; across splits they make scores too good."""
    first: dict[str, tuple[str, Path]] = {}
    problems: list[Problem] = []
    for split, found in looks.items():
        for look in found:
            if not look.digest:
                continue
            other, picture = first.setdefault(look.digest, (split, look.picture))
            if picture != look.picture or other != split:
                kind = "picture twice" if other == split else "picture in two splits"
                problems.append(Problem(kind, look.picture, None, f"{other} has {picture}"))
    return problems


def _orphans(spec: DataSpec) -> list[Problem]:
    """Find label files that belong to no picture, in the folders where labels lie."""
    pictures = [picture for split in spec.splits.values() for picture in split]
    known = {labels.label_path(picture) for picture in pictures}
    folders = {path.parent for path in known} - {picture.parent for picture in pictures}
    return [
        Problem("label without picture", path)
        for folder in sorted(folders)
        for path in sorted(folder.glob("*.txt"))
        if path not in known and path.name not in _NO_LABELS
    ]


def _absences(spec: DataSpec, counts: Mapping[str, Count]) -> list[Problem]:
    """Remark on splits that training needs and on classes that it never sees."""
    missing = [
        Problem("no such split", spec.path, None, f"{name}; prune train needs it")
        for name in ("train", "val")
        if name not in counts
    ]
    seen = counts["train"].boxes if "train" in counts else {}
    unseen = [
        Problem("class without boxes", spec.path, None, f"{name}, in train")
        for name, count in seen.items()
        if not count
    ]
    return missing + unseen
