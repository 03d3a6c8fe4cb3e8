"""Read COCO annotation files: JSON with images, categories, and boxes as x, y, w, h in pixels."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath

from prune.data.annotation import (
    Annotation,
    Box,
    Converted,
    class_names,
    refuse_broken,
    require_boxes,
    to_samples,
)
from prune.data.cocojson import Entry, entries, identity, load, number, text
from prune.data.problem import Problem
from prune.data.spec import SPLITS
from prune.data.split import SHARES, deal
from prune.errors import DataError

# Words in a file's or folder's name that say which split it is.
_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "minival": "val",
    "test": "test",
    "testing": "test",
}


def read(
    paths: Sequence[Path],
    *,
    images: Path | None = None,
    names: Sequence[str] = (),
    shares: Sequence[float] | None = None,
    seed: int = 0,
    skip_broken: bool = False,
) -> Converted:
    """Read annotation files and every picture they name.

    A file whose name, or whose folder's name, says train, val or test becomes that split; a single
    file that says nothing is dealt out. Categories become classes 0, 1, ... in the order of their
    ids. Crowd boxes are left out and counted.

    Args:
        paths: the JSON files.
        images: the pictures' folder; None looks in the usual places around each file.
        names: the classes in the order wanted; others are left out. Empty: all categories.
        shares: parts of train, val and test for a single file; None follows the file's name.
        seed: of that split.
        skip_broken: leave out boxes that are no numbers and pictures that cannot be decoded
            instead of stopping.

    Raises:
        DataError: a file is missing, broken or no COCO file; files disagree; no picture is usable;
            something in it is broken (without `skip_broken`).
    """
    documents = {path: load(path) for path in paths}
    categories = _categories(documents)
    parsed = {path: _parse(path, documents[path], categories, images) for path in documents}
    problems = [problem for _, found in parsed.values() for problem in found]
    if not skip_broken:
        refuse_broken(problems)  # before every picture is decoded
    annotations = {path: found for path, (found, _) in parsed.items()}
    everything = [annotation for found in annotations.values() for annotation in found]
    wanted = names or tuple(dict.fromkeys(categories.values()))
    classes, remarks = class_names(everything, wanted, paths[0])
    samples = {}
    for split, dealt in _splits(annotations, shares, seed).items():
        samples[split], more = to_samples(dealt, classes)
        problems += more
    if not skip_broken:
        refuse_broken(problems)
    require_boxes(samples, problems, paths[0])
    return Converted(classes, samples, (*problems, *remarks))


def _categories(documents: Mapping[Path, Entry]) -> dict[Hashable, str]:
    """Merge the files' categories, in the order of their ids.

    Raises:
        DataError: an id has two names.
    """
    merged: dict[Hashable, str] = {}
    for path, document in documents.items():
        for entry in entries(document, "categories", path):
            key, name = identity(entry, "id", path), text(entry, "name", path)
            if merged.setdefault(key, name) != name:
                raise DataError(f"{path}: category {key} is {name!r} here, {merged[key]!r} before")
    return {key: merged[key] for key in sorted(merged, key=lambda key: (len(str(key)), str(key)))}


def _parse(
    path: Path, document: Entry, categories: Mapping[Hashable, str], images: Path | None
) -> tuple[list[Annotation], list[Problem]]:
    """Turn a file's content into annotations, one a picture."""
    pictures = {identity(entry, "id", path): entry for entry in entries(document, "images", path)}
    files = {key: text(entry, "file_name", path) for key, entry in pictures.items()}
    boxes, problems = _boxes(path, document, files, categories)
    root = _root(path, list(files.values()), images)
    short = _names(files)
    annotations = [
        Annotation(path, root / files[key], short[key], tuple(boxes[key]), _size(pictures[key]))
        for key in sorted(files, key=lambda key: files[key])
    ]
    return annotations, problems


def _boxes(
    path: Path,
    document: Entry,
    files: Mapping[Hashable, str],
    categories: Mapping[Hashable, str],
) -> tuple[dict[Hashable, list[Box]], list[Problem]]:
    """Collect the boxes of each picture; what cannot be used is a problem, a crowd is counted."""
    boxes: dict[Hashable, list[Box]] = defaultdict(list)
    problems: list[Problem] = []
    crowds: Counter[str] = Counter()
    for entry in entries(document, "annotations", path):
        label = f"annotation {entry.get('id', '?')}"
        picture, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(picture, int | str) or picture not in files:
            detail = f"{label}: image_id {picture!r}"
            problems.append(Problem("annotation of an unknown picture", path, None, detail))
        elif not isinstance(category, int | str) or category not in categories:
            detail = f"{label}: category_id {category!r}"
            problems.append(Problem("annotation of an unknown category", path, None, detail))
        elif entry.get("iscrowd"):
            crowds[categories[category]] += 1
        elif (corners := _corners(entry)) is None:
            detail = f"{label}: bbox is {entry.get('bbox')!r}, not 4 numbers"
            problems.append(Problem("broken annotation", path, None, detail, fatal=True))
        else:
            boxes[picture].append(Box(categories[category], corners, None, label))
    problems += [
        Problem("crowd boxes left out", path, None, f"{name}, {count}")
        for name, count in sorted(crowds.items())
    ]
    return boxes, problems


def _corners(entry: Entry) -> tuple[float, float, float, float] | None:
    box = entry.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return None
    x, y, w, h = (number(value) for value in box)
    if x is None or y is None or w is None or h is None:
        return None
    return x, y, x + w, y + h


def _size(entry: Entry) -> tuple[int, int] | None:
    width, height = number(entry.get("width")), number(entry.get("height"))
    return (int(width), int(height)) if width and height else None


def _names(files: Mapping[Hashable, str]) -> dict[Hashable, str]:
    """Choose each picture's file name: its own, or with its folders where that is not unique."""
    paths = {key: PurePosixPath(name.replace("\\", "/")) for key, name in files.items()}
    if len({path.stem for path in paths.values()}) == len(paths):
        return {key: path.name for key, path in paths.items()}
    return {
        key: "_".join(part for part in path.parts if part not in ("/", ".."))
        for key, path in paths.items()
    }


def _root(path: Path, files: Sequence[str], images: Path | None) -> Path:
    """Find the folder that the file names are relative to.

    Raises:
        DataError: none of the usual folders has one of the first pictures.
    """
    around = (
        path.parent,
        path.parent / "images",
        path.parent.parent,
        path.parent.parent / "images",
    )
    below = (".", path.stem.removeprefix("instances_"), _hint(path) or ".")
    places = [base / name for base in ((images,) if images else around) for name in below]
    for place in places:
        if any((place / name).is_file() for name in islice(files, 100)):
            return place
    if not files:
        raise DataError(f"{path}: images: is empty")
    raise DataError(
        f"{path}: no picture found, e.g. {files[0]} in {images or path.parent}"
        f"; give the pictures' folder as --images DIR"
    )


def _splits(
    annotations: Mapping[Path, Sequence[Annotation]], shares: Sequence[float] | None, seed: int
) -> dict[str, list[Annotation]]:
    """Assign each file to the split its name says; deal a single one out where it says none.

    Raises:
        DataError: one of several files does not say its split.
    """
    hints = {path: _hint(path) for path in annotations}
    if len(annotations) == 1 and (shares is not None or None in hints.values()):
        (only,) = annotations.values()
        by_file = {annotation.file: annotation for annotation in only}
        dealt = deal(by_file, shares=shares or SHARES, seed=seed)
        return {split: [by_file[file] for file in files] for split, files in dealt.items() if files}
    for path, hint in hints.items():
        if hint is None:
            raise DataError(
                f"{path}: the name does not say its split, as instances_train.json does"
            )
    return {
        split: [a for path, found in annotations.items() if hints[path] == split for a in found]
        for split in SPLITS
        if split in hints.values()
    }


def _hint(path: Path) -> str | None:
    """Read the split from the file's name or else its folder's; one that says two says none."""
    for name in (path.stem, path.resolve().parent.name):
        words = {_WORDS[word] for word in re.split("[^a-z]+", name.lower()) if word in _WORDS}
        if len(words) == 1:
            return words.pop()
    return None
