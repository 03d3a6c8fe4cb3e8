"""A data set: which images belong to which split, and what the classes are called."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prune.common.inputs import is_dir, printable, resolved
from prune.common.notes import note
from prune.common.wording import few
from prune.data import bases
from prune.data.bases import Base
from prune.data.document import SPLITS as SPLITS  # others look for them here
from prune.data.document import Document, read_document
from prune.data.hints import line_to_write
from prune.data.labels import Form
from prune.data.layouts import read_folder
from prune.data.listing import listing, no_images
from prune.data.problem import MISSING, UNREADABLE, Problem
from prune.data.rows import Keypoints
from prune.errors import DataError, InputError

ONE_CLASS = "object"


@dataclass(frozen=True)
class DataSpec:
    """A data set.

    Attributes:
        path: what describes it: a data.yaml, a .data file or a folder.
        names: of the classes.
        splits: split -> its images, absolute and sorted.
        merged: where all classes count as one, how many the label files number; see `labels.Form`.
        keypoints: of the label files' rows, see `rows.Keypoints`.
        remarks: what was left out of the splits as they were described.
    """

    path: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[Path, ...]]
    merged: int | None = None
    keypoints: Keypoints | None = None
    remarks: tuple[Problem, ...] = field(default=())

    @property
    def form(self) -> Form:
        """How its label files are read."""
        return Form(len(self.names), self.merged, self.keypoints)

    def images(self, split: str) -> tuple[Path, ...]:
        """Return a split's images.

        Raises:
            DataError: the data set has no such split.
        """
        if split not in self.splits:
            raise DataError(f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def expect_classes(self, names: Sequence[str], *, of: Path) -> None:
        """Refuse a detector of other classes: not as many, or the same in another order.

        Names that differ otherwise are taken for other words for the same.

        Args:
            names: of the detector's classes.
            of: the detector's file, for the message.

        Raises:
            InputError: the classes differ.
        """
        if len(names) != len(self.names):
            words = ["prune", "train", "--weights", str(of), "--data", str(self.path)]
            way = "" if of.suffix == ".onnx" else f"; to train it for these: {shlex.join(words)}"
            raise InputError(
                f"{of} detects {len(names)} classes ({few(names)}) but {self.path} has "
                f"{len(self.names)} ({few(self.names)}); they must agree{way}"
            )
        if reordered(names, self.names):
            raise InputError(
                f"{of} numbers its classes {few(names)} but {self.path} {few(self.names)}; they "
                "must agree"
            )

    def as_one_class(self) -> DataSpec:
        """Copy a data set so that all of its classes are one, called "object"."""
        if len(self.names) == 1:
            return self
        return replace(self, names=(ONE_CLASS,), merged=len(self.names))


def reordered(first: Sequence[str], second: Sequence[str]) -> bool:
    """Return whether two lists have the same names, numbered otherwise."""
    return list(first) != list(second) and sorted(first) == sorted(second)


@dataclass(frozen=True)
class _Split:
    """What all entries of a split name: images, what is left out, and how lists were read."""

    images: list[Path]
    left_out: list[Problem]
    bases: dict[str, str]  # name of a list file -> what its lines are relative to


def load(
    path: Path,
    *,
    splits: Collection[str] = (),
    optional: Collection[str] = ("test",),
    working: Path | None = None,
) -> DataSpec:
    """Read a data set description as YOLO tools write it.

    It is a data.yaml, a .data file of Darknet, or a folder (see layouts.py). A split is a folder
    with its subfolders, a glob, a .txt list of images, or a list of these; bases.py defines what
    they are relative to. `names` is a list, a mapping with numbers, a text with commas or a file of
    names; `nc` alone numbers the classes. Other keys are ignored with a note; `download:` is never
    run.

    Args:
        path: the description.
        splits: the splits that are needed; when empty, all that the file names but the optional.
        optional: splits to read too where the file names them; without images they are left out
            with a note, since published files name test images that are not published.
        working: the working folder in which the description was used first; None for the current.

    Raises:
        DataError: the file is missing or broken, a split is missing or holds no image, or names
            and nc disagree.
    """
    path = Path(path)
    working = (working or Path.cwd()).absolute()
    document = read_folder(path, working) if is_dir(path) else read_document(path, working)
    needed = list(splits) or [name for name in document.entries if name not in optional]
    if not document.entries:
        raise DataError(f"{path}: no train:, val: or test: that names the place of the images")
    for name in needed:
        if name not in document.entries:
            raise DataError(f"{path}: no split {name!r}; {_line_to_write(document, name)}")
    further = [name for name in optional if name in document.entries and name not in needed]
    needed = needed or further
    base = _base(document, needed, working)
    found = {name: _listed(document, name, base, working) for name in needed}
    for name in further:
        if name not in found:
            try:
                found[name] = _listed(document, name, base, working)
            except DataError as error:
                note(f"{error}; the split is left out")
    _note_bases(document, base, found)
    _tell_left_out(document, found)
    return DataSpec(
        path=path,
        names=document.names,
        splits={name: tuple(sorted(set(one.images))) for name, one in found.items()},
        keypoints=document.keypoints,
        remarks=tuple(problem for one in found.values() for problem in one.left_out),
    )


def load_names(path: Path) -> tuple[str, ...]:
    """Read only the classes' names from a description; the images need not be there.

    Raises:
        DataError: the file is missing or broken, or names and nc disagree.
    """
    path = Path(path)
    read = read_folder if is_dir(path) else read_document
    return read(path, Path.cwd()).names


def _base(document: Document, needed: Sequence[str], working: Path) -> Base:
    """Choose what a description's paths are relative to; note where they could mean others.

    Raises:
        DataError: the images of a split that is needed are nowhere.
    """
    entries = [entry for name in needed for entry in document.entries[name]]
    candidates = list(bases.of_description(document, working))
    base = bases.choose(candidates, entries)
    if base is None:
        raise DataError(_nowhere(document, needed, candidates))
    if base.usual and (others := _elsewhere(base, entries, working)):
        note(
            f"{document.path}: {entries[0]} is there twice; {base.find(entries[0])} is used, "
            f"{others} in the working folder is not"
        )
    return base


def _elsewhere(base: Base, entries: Sequence[str], working: Path) -> Path | None:
    """Return what the first entry names in the working folder, if all are there and are others."""
    if any(Path(entry).is_absolute() for entry in entries):
        return None
    there, here = working / entries[0], base.find(entries[0])
    if here is None or not all(bases.exists(working / entry) for entry in entries):
        return None
    return None if resolved(bases.normal(there)) == resolved(here) else bases.normal(there)


def _nowhere(document: Document, needed: Sequence[str], candidates: Sequence[Base]) -> str:
    """Return which entry does not exist, where it was looked for, and which line would be right."""
    entries = [(name, entry) for name in needed for entry in document.entries[name]]
    missing = [
        (name, entry)
        for name, entry in entries
        if not any(bases.exists(base.find(entry)) for base in candidates)
    ]
    name, entry = (missing or entries[-1:])[0]  # all are there, but not from one folder
    found = (base.find(entry) for base in candidates)
    places = [printable(str(place)) for place in found if place is not None]
    looked = ", ".join(list(dict.fromkeys(places))[:3])
    return (
        f"{document.path}: {name}: {printable(entry)} does not exist (looked for {looked}); "
        f"{_line_to_write(document, name)}"
    )


def _line_to_write(document: Document, split: str) -> str:
    return line_to_write(document.folder, split, root=document.root)


def _listed(document: Document, name: str, base: Base, working: Path) -> _Split:
    """List the images of a split.

    Raises:
        DataError: an entry does not exist or holds no image.
    """
    where = f"{document.path}: {name}"
    roots = [("path:" if document.root else "the file's own folder", _start(base, document))]
    if working not in (place for _, place in roots):
        roots.append(("the working folder", working))
    whole = _Split([], [], {})
    for entry in document.entries[name]:
        place = base.find(entry)
        if place is None or not bases.exists(place):
            raise DataError(f"{where}: {printable(entry)} does not exist")
        found = listing(place, roots)
        if not found.images:
            line = _line_to_write(document, name)
            raise DataError(f"{where}: {no_images(place, found.left_out)}; {line}")
        whole.bases.update({place.name: found.base} if found.base else {})
        whole.images.extend(found.images)
        whole.left_out.extend(found.left_out)
    return whole


def _start(base: Base, document: Document) -> Path:
    """Return the folder that a list's lines start from: that of the entries."""
    return base.find(".") or document.folder


def _note_bases(document: Document, base: Base, found: Mapping[str, _Split]) -> None:
    """Note in one line where the paths start, if it is not where they are meant to."""
    remarks = [] if base.usual else [f"{_and(found)} taken {base.origin}"]
    lists: dict[str, list[str]] = {}
    for one in found.values():
        for name, how in one.bases.items():
            lists.setdefault(how, []).append(name)
    remarks += [
        f"the lines of {' and '.join(names)} are taken {how}" for how, names in lists.items()
    ]
    if remarks:
        note(f"{document.path}: {'; '.join(remarks)}")


def _and(names: Collection[str]) -> str:
    return f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _tell_left_out(document: Document, found: Mapping[str, _Split]) -> None:
    """Say in one line what each split lacks of what was described."""
    for name, one in found.items():
        kinds = Counter((p.kind, p.path.suffix.lower()) for p in one.left_out)
        missing = sum(count for (kind, _), count in kinds.items() if kind == MISSING)
        if missing:
            first = next(p for p in one.left_out if p.kind == MISSING)
            note(
                f"{document.path}: {name}: {missing} listed images do not exist and are left out, "
                f"the first in {first.path}:{first.line}: {first.detail}"
            )
        for (kind, suffix), count in kinds.items():
            if kind == UNREADABLE:
                note(
                    f"{document.path}: {name}: {count} {'file is' if count == 1 else 'files are'} "
                    f"{suffix or 'without a suffix'}, which is not read; convert them to .jpg or "
                    ".png"
                )
