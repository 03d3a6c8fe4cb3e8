"""From which folder the paths in a data set description start: tools do not agree on it.

The folder of the file itself comes first, as its paths mean the same from everywhere then. YOLOR,
Scaled-YOLOv4 and YOLOv5 to v9 start from the working folder, Ultralytics from a folder `datasets`,
Roboflow writes ../train/images for the folder train/images beside the file, and many files name a
folder of the machine on which they were made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from prune.common import inputs
from prune.data.document import Document

WILDCARDS = frozenset("*?[")
_LONGEST_PATTERN = 4096  # letters; Linux has no longer path


@dataclass(frozen=True)
class Base:
    """A way to find paths.

    Attributes:
        origin: where it looks, for messages: "relative to ...".
        find: turns an entry into the absolute path where it would lie; None where it cannot.
        usual: whether a description that follows the documented rule is found this way.
    """

    origin: str
    find: Callable[[str], Path | None]
    usual: bool = False


def choose(bases: Iterable[Base], entries: Sequence[str]) -> Base | None:
    """Return the first base under which all entries exist."""
    return next((base for base in bases if all(exists(base.find(e)) for e in entries)), None)


def exists(path: Path | None) -> bool:
    """Return whether there is such a file or folder, or a match of such a glob."""
    if path is None:
        return False
    return inputs.exists(path) or (is_glob(path) and any(glob(path)))


def is_glob(path: Path) -> bool:
    """Return whether a path has wildcards and is not the name of a file or folder itself."""
    return not WILDCARDS.isdisjoint(str(path)) and not inputs.exists(path)


def glob(pattern: Path) -> Iterator[Path]:
    """Yield what an absolute pattern matches; one with a name that no file can have, nothing.

    A pattern longer than any path is none: a hundred thousand brackets take fnmatch minutes.
    """
    if len(str(pattern)) > _LONGEST_PATTERN:
        return
    anchor = Path(pattern.anchor)
    with suppress(OSError, ValueError):
        yield from anchor.glob(str(pattern.relative_to(anchor)))


def of_description(document: Document, working: Path) -> Iterator[Base]:
    """Yield the bases of a description's entries, the preferred one first.

    Args:
        document: the description.
        working: the absolute folder that the command was started in.
    """
    folder, root = document.folder, _slashes(document.root)
    for i, (origin, place) in enumerate(_roots(folder, root, working)):
        yield Base(f"relative to {origin}", partial(_join, place), usual=i == 0)
        yield Base(f"relative to {origin}, without the leading ../", partial(_join_inside, place))
    yield Base(
        f"relative to {folder.parent}, which holds the folder {folder.name}",
        lambda entry: _join(folder.parent, entry) if _first(entry) == folder.name else None,
    )
    yield Base(
        f"by the ends of the paths, in {folder}", lambda entry: _by_its_end(folder, root, entry)
    )


def of_list(listing: Path, roots: Sequence[tuple[str, Path]], first: str) -> Iterator[Base]:
    """Yield the bases of a list's lines, the preferred one first.

    Args:
        listing: the absolute path of the list.
        roots: what else the lines may be relative to, each with its name; the first is the usual.
        first: a line, whose parts limit how many may be dropped.
    """
    own = listing.parent
    (_, usual), *others = roots
    # YOLO tools put the list's folder in the place of a leading dot.
    yield Base(
        f"relative to {usual}",
        lambda line: _join(own if line.startswith("./") else usual, line),
        usual=True,
    )
    for origin, place in (("the folder of the list", own), *others):
        yield Base(f"relative to {origin}, {place}", partial(_join, place))
    for count in range(1, len(_parts(first))):
        yield Base(
            f"relative to {own}, without the leading {'/'.join(_parts(first)[:count])}/",
            partial(_join_end, own, count),
        )


def normal(path: Path) -> Path:
    """Make a path absolute and take out its `..`, unless a link makes that another place."""
    plain = Path(os.path.abspath(path))  # noqa: PTH100  # resolve() would follow links
    if ".." not in path.parts or not inputs.exists(path):
        return plain
    there = inputs.resolved(path)
    return plain if inputs.resolved(plain) == there else there


def _roots(folder: Path, root: str, working: Path) -> list[tuple[str, Path]]:
    """List the folders that entries may be relative to, each with its name."""
    here = ("the file's own folder", folder)
    there = (f"the working folder {working}", working)
    above = (f"the folder above the file, {folder.parent}", folder.parent)
    # What does not depend on the working folder comes first, so that it means the same everywhere.
    others = [there] if folder.parent == working else [above, there]
    if not root:
        return [here, *others]
    named = [
        (f"path: {root}", _join(folder, root)),
        *((f"path: {root} in {origin}", _join(place, root)) for origin, place in others),
        *(
            (f"path: {root} in the folder {place}", _join(place, root))
            for place in (
                working / "datasets",
                working.parent / "datasets",
                folder / "datasets",
                folder.parent / "datasets",
            )
        ),
    ]
    found = [(origin, place) for origin, place in named if place is not None]
    return [*found, ("the file's own folder (path: does not exist)", folder), *others]


def _join(folder: Path, entry: str) -> Path | None:
    """Put an entry behind a folder; read backslashes as slashes where that names nothing."""
    path = folder / (Path(entry).expanduser() if entry.startswith("~/") else entry)
    if "\\" in entry and not exists(path):
        if PureWindowsPath(entry).drive:
            return None  # a folder of a Windows machine
        path = folder / _slashes(entry)
    return normal(path)


def _join_inside(folder: Path, entry: str) -> Path | None:
    return _join(folder, _without_dots(entry))


def _join_end(folder: Path, skip: int, entry: str) -> Path:
    return folder.joinpath(*_parts(entry)[skip:])


def _by_its_end(folder: Path, root: str, entry: str) -> Path | None:
    """Find an entry below a folder by the longest end of its path that exists there.

    A last part alone has to name a split: "images" alone may mean anything.
    """
    parts = [part for part in (*_parts(root), *_parts(entry)) if part != ".."]
    for i in range(len(parts)):
        end = folder.joinpath(*parts[i:])
        if (i < len(parts) - 1 or _names_split(parts[i])) and exists(end):
            return end
    return None


def _names_split(part: str) -> bool:
    return any(word in part.lower() for word in ("train", "val", "test"))


def _parts(entry: str) -> tuple[str, ...]:
    """Divide a path of any system into its parts, without drive and root."""
    posix = PurePosixPath(PureWindowsPath(entry).as_posix() if "\\" in entry else entry)
    return tuple(p for p in posix.parts if p != "/" and not p.endswith(":"))


def _first(entry: str) -> str:
    return next(iter(_parts(entry)), "")


def _without_dots(entry: str) -> str:
    entry = _slashes(entry)
    while entry.startswith(("../", "./")):
        entry = entry.partition("/")[2]
    return entry


def _slashes(entry: str) -> str:
    return entry.replace("\\", "/")
