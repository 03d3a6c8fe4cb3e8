"""List the files below a folder: what tools leave there for themselves is not among them."""

import os
import unicodedata
from pathlib import Path

from prune.data.images import is_hidden
from prune.errors import DataError

RECORD = "written.json"  # lies in each folder that `prune data` has written


def as_key(name: str) -> str:
    """Return a name without what file systems differ in: upper and lower case, split accents."""
    return unicodedata.normalize("NFC", name).casefold()


def identity(path: Path) -> tuple[str, str]:
    """Return what two paths to one file have in common: its folder without links, and its name.

    The file itself may be a link: stores of files keep images with the same content once.
    """
    return os.path.realpath(path.parent), path.name


def files_below(folder: Path, *, written: bool = False) -> list[Path]:
    """List every file at any depth, sorted, links followed.

    Args:
        folder: the folder; hidden names below it are left out.
        written: list what `prune data` has written there too.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[Path] = []
    seen: set[str] = set()  # of folders: a link may lead back up
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        ours = RECORD in names and Path(place) != folder and not written
        if real in seen or ours:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        found += [Path(place) / name for name in names if not is_hidden(name)]
    return sorted(found)


def _refuse(error: OSError) -> None:
    raise DataError(f"cannot read folder {error.filename}: {error.strerror}")


def files_in(folder: Path) -> list[Path]:
    """List the files right in a folder, sorted, without hidden names; none without a folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name) and path.is_file())
