"""Look a whole data set over: what is in it, and everything that is wrong with it."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prune.common.device import cores
from prune.data import labels, truth
from prune.data.images import decode, is_hidden, read_bytes
from prune.data.label_files import label_path
from prune.data.problem import BROKEN, Problem
from prune.data.spec import DataSpec, load
from prune.data.truth import Truth
from prune.errors import DataError

# COCO's size classes: the area in square pixels from which a box belongs to one.
AREAS = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}
_NO_LABELS = frozenset({"classes.txt", "predefined_classes.txt"})  # left among labels by tools


@dataclass(frozen=True)
class Count:
    """What a split holds.

    Attributes:
        images: images, the broken ones included.
        without_boxes: images without a box.
        without_label_file: those of them that have no label file.
        empty_label_file: those of them whose label file has no row.
        broken: images that cannot be read, which training leaves out.
        boxes: class name -> boxes.
        sizes: small, medium, large -> boxes; empty where sizes were not measured.
    """

    images: int
    without_boxes: int
    without_label_file: int
    empty_label_file: int
    broken: int
    boxes: Mapping[str, int]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """A data set's counts by split, and every problem."""

    spec: DataSpec
    counts: Mapping[str, Count]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Look:
    """One image file: its digest, its height and width in pixels, and why it cannot be read."""

    path: Path
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    fault: str = ""


def check(path: Path, *, strict: bool = False) -> Report:
    """Read every image and label that a data set description names.

    Args:
        path: the description.
        strict: take broken images for fatal, as training does with --strict.

    Raises:
        DataError: the description itself cannot be used; all else becomes a problem in the report.
    """
    spec = load(path)
    with ThreadPoolExecutor(max_workers=min(8, cores())) as pool:
        looks = {name: list(pool.map(_look, files)) for name, files in spec.splits.items()}
    truths = {name: truth.read_truth(files, spec.form) for name, files in spec.splits.items()}
    counts = {name: _count(truths[name], spec.names, looks[name]) for name in looks}
    missing = [replace(problem, fatal=strict) for problem in spec.remarks]
    return Report(
        spec,
        counts,
        (
            *missing,
            *(problem for found in truths.values() for problem in found.problems),
            *_broken(looks, fatal=strict),
            *_twins(looks),
            *_orphans(spec),
            *_absences(spec, counts),
            *_nothing(spec, truths),
        ),
    )


def count(path: Path) -> dict[str, Count]:
    """Count what a description's label files hold, without a look at the images.

    Raises:
        DataError: the description or a label file cannot be used.
    """
    spec = load(path)
    counts = {}
    for name, files in spec.splits.items():
        found = truth.read_truth(files, spec.form)
        for problem in found.problems:
            if problem.fatal:
                raise DataError(str(problem))
        counts[name] = _count(found, spec.names)
    return counts


def _look(path: Path) -> _Look:
    try:
        data = read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
    except DataError as error:
        return _Look(path, fault=_reason(error, path))
    try:
        height, width = decode(data, path).shape[:2]
    except DataError as error:
        return _Look(path, digest, fault=_reason(error, path))
    return _Look(path, digest, (height, width))


def _reason(error: DataError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _count(found: Truth, names: Sequence[str], looks: Sequence[_Look] = ()) -> Count:
    """Count a split's boxes, one array [n, 5] per image."""
    numbers = Counter(int(index) for rows in found.boxes for index in rows[:, 0])
    return Count(
        images=found.images,
        without_boxes=sum(not len(rows) for rows in found.boxes),
        without_label_file=len(found.without_file),
        empty_label_file=found.empty,
        broken=sum(bool(look.fault) for look in looks),
        boxes={name: numbers[i] for i, name in enumerate(names)},
        sizes=_sizes(found.boxes, looks) if looks else {},
    )


def _sizes(boxes: Sequence[labels.Boxes], looks: Sequence[_Look]) -> dict[str, int]:
    """Count boxes by their area in pixels; those of broken images have none."""
    areas = [
        rows[:, 3].astype(np.float64) * rows[:, 4] * look.size[0] * look.size[1]
        for rows, look in zip(boxes, looks, strict=True)
        if not look.fault
    ]
    joined = np.concatenate([np.empty(0), *areas])
    numbers = np.bincount(np.digitize(joined, list(AREAS.values())[1:]), minlength=len(AREAS))
    return dict(zip(AREAS, numbers.tolist(), strict=True))


def _broken(looks: Mapping[str, Sequence[_Look]], *, fatal: bool) -> list[Problem]:
    """List images that cannot be read; a split of which none can be read is fatal."""
    problems = []
    for split, found in looks.items():
        faulty = [look for look in found if look.fault]
        problems += [Problem(BROKEN, look.path, None, look.fault, fatal) for look in faulty]
        if faulty and len(faulty) == len(found) and not fatal:
            problems.append(
                Problem("no image can be read", faulty[0].path.parent, None, split, True)
            )
    return problems


def _twins(looks: Mapping[str, Sequence[_Look]]) -> list[Problem]:
    """Find image files with the same content; across splits they make metrics too good."""
    first: dict[str, tuple[str, Path]] = {}
    problems: list[Problem] = []
    for split, found in looks.items():
        for look in found:
            if not look.digest:
                continue
            other, image = first.setdefault(look.digest, (split, look.path))
            if image != look.path or other != split:
                kind = "image twice" if other == split else "image in two splits"
                problems.append(Problem(kind, look.path, None, f"{other} has {image}"))
    return problems


def _orphans(spec: DataSpec) -> list[Problem]:
    """Find label files that belong to no image, in the folders where labels lie."""
    images = [image for split in spec.splits.values() for image in split]
    known = {label_path(image) for image in images}
    folders = {path.parent for path in known} - {image.parent for image in images}
    return [
        Problem("label without image", path)
        for folder in sorted(folders)
        for path in sorted(folder.glob("*.txt"))
        if path not in known and path.name not in _NO_LABELS and not is_hidden(path.name)
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


def _nothing(spec: DataSpec, truths: Mapping[str, Truth]) -> Iterator[Problem]:
    """Yield what training and evaluation refuse, and what is odd about a split as a whole."""
    for split, found in truths.items():
        images = spec.splits[split]
        needed = split != "test"  # competitions keep the labels of theirs
        if refusal := truth.nothing(found, images, where=spec.path, split=split):
            detail = refusal.removeprefix(f"{spec.path}: ")
            yield Problem("no labels", spec.path, None, detail, fatal=needed)
            continue
        if split == "train" and not found.count:
            yield Problem("no boxes", spec.path, None, f"{split}: {found}", fatal=True)
        if refusal := truth.ambiguous(found, spec.path):
            detail = refusal.removeprefix(f"{spec.path}: ")
            yield Problem("ambiguous rows", spec.path, None, detail, fatal=True)
        for remark in truth.remarks(found, split):
            yield Problem("remark", spec.path, None, remark)
