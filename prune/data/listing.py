"""Which images a folder, a glob, a list file or a file names, and which files are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.common.inputs import is_dir, is_file, printable, read_text
from prune.data import bases
from prune.data.folders import files_below
from prune.data.images import COPIES, SUFFIXES, UNREAD, is_hidden, is_image
from prune.data.problem import MISSING, UNREADABLE, Problem
from prune.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The images of an entry, absolute and unsorted, and what is left out of them.

    `base` is how the lines of a list were found, where that is not the usual way.
    """

    images: list[Path]
    left_out: list[Problem]
    base: str = ""


def listing(entry: Path, roots: Sequence[tuple[str, Path]]) -> Listing:
    """List the images that an existing entry names.

    Names and folders that begin with a dot are left out without a word: tools keep copies in them.

    Args:
        entry: an absolute path or glob.
        roots: what lines of a list may be relative to, see `bases.of_list`.

    Raises:
        DataError: a list that cannot be read, or none of whose lines names a file.
    """
    if is_dir(entry):
        return _sorted_out(files_below(entry, written=True))
    if bases.is_glob(entry):
        return _sorted_out(_matches(entry))
    if entry.suffix.lower() in (".txt", ".list"):
        return _of_list(entry, roots)
    return _sorted_out([entry])


def no_images(entry: Path, left_out: Sequence[Problem]) -> str:
    """Say that an entry names no image, and what there is instead."""
    suffixes = Counter(problem.path.suffix.lower() for problem in left_out)
    others = ", ".join(f"{count} files are {suffix}" for suffix, count in suffixes.items())
    return (
        f"no images in {entry}"
        + (f": {others}, which is not read" if others else "")
        + f" (formats that are read: {' '.join(sorted(SUFFIXES))})"
    )


def _matches(pattern: Path) -> Iterator[Path]:
    """Yield the matches of a glob; what its wildcards stand for may not be hidden."""
    fixed = next(i for i, part in enumerate(pattern.parts) if bases.WILDCARDS & set(part))
    for path in bases.glob(pattern):
        if not any(is_hidden(part) for part in path.parts[fixed:]) and not is_dir(path):
            yield path


def _sorted_out(files: Iterable[Path]) -> Listing:
    """Divide files into images and those of formats that are not read; others do not count.

    A dangling link counts as an image: naming it later beats leaving it out in silence.
    """
    found = Listing([], [])
    for path in files:
        if is_image(path):
            found.images.append(path)
        elif path.suffix.lower() in UNREAD:
            found.left_out.append(_unreadable(path))
    return found


def _unquoted(line: str) -> str:
    line = line.strip()
    return line[1:-1] if len(line) > 1 and line[0] == line[-1] and line[0] in "'\"" else line


def _unreadable(path: Path) -> Problem:
    return Problem(UNREADABLE, path, None, f"{path.suffix.lower() or 'no suffix'} is not read")


def _of_list(path: Path, roots: Sequence[tuple[str, Path]]) -> Listing:
    """List the images that a list file names.

    Raises:
        DataError: the list cannot be read, or none of its lines names a file.
    """
    text = read_text(path, error=DataError)
    lines = [
        (number, line)
        for number, line in enumerate(map(_unquoted, text.splitlines()), start=1)
        if line and not line.startswith("#") and not _is_hidden_line(line)
    ]
    if not lines:
        return Listing([], [])
    base = _base(path, roots, [line for _, line in lines])
    found = Listing([], [], "" if base.usual else base.origin)
    for number, line in lines:
        image = base.find(line)
        if image is None or not is_file(image):
            found.left_out.append(Problem(MISSING, path, number, line, fatal=True))
        elif is_image(image):
            found.images.append(image)
        else:
            found.left_out.append(_unreadable(image))
    return found


def _base(path: Path, roots: Sequence[tuple[str, Path]], lines: Sequence[str]) -> bases.Base:
    """Choose how a list's lines are found: as all, or else as most of them are.

    Raises:
        DataError: no line names a file.
    """
    most, chosen = 0, None
    for base in bases.of_list(path, roots, lines[0]):
        count = sum(at is not None and is_file(at) for at in map(base.find, lines))
        if count > most:
            most, chosen = count, base
        if count == len(lines):
            break
    if chosen is None:
        first = lines[0]
        image, _, boxes = first.partition(" ")
        hint = "write paths relative to the list's own folder, e.g. ./images/a.jpg"
        if boxes and Path(image).suffix.lower() in SUFFIXES:
            hint = "boxes behind a path are not read; write a label file for each image"
        places = dict.fromkeys([*(str(place) for _, place in roots), str(path.parent)])
        raise DataError(
            f"{path}:1: {printable(first)} is no file, nor is any of the {len(lines)} lines "
            f"(looked in {' and '.join(places)}); {hint}"
        )
    return chosen


def _is_hidden_line(line: str) -> bool:
    """Return whether a line names a hidden file, or one in a hidden folder.

    The folders of an absolute path were chosen by the user, unless a tool keeps copies in them.
    """
    *folders, name = line.replace("\\", "/").split("/")
    relative = bool(folders) and not Path(line).is_absolute()
    return is_hidden(name) or any(
        part in COPIES or (relative and is_hidden(part)) for part in folders
    )
