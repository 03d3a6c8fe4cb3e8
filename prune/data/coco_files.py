"""Find the image files that a COCO file names, as the tools that write such files name them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from prune.common.inputs import is_dir, is_file, printable, resolved
from prune.data.convert import AMBIGUOUS
from prune.data.folders import as_key, files_below, files_in, identity
from prune.data.problem import Problem
from prune.data.split import split_in
from prune.errors import DataError

# What tools call the folder of images, beside the file or beside its folder.
_IMAGES = (".", "images", "Images", "imgs", "img", "JPEGImages", "data")

BARE_NAME = "image found by its bare name"


def locate(
    path: Path, names: Sequence[str], images: Sequence[Path]
) -> tuple[list[Path | None], list[Problem]]:
    """Find an image for each file_name.

    A name counts as it stands, below the folder that has most of the images. Where it does
    not exist there, and is a URL, an absolute path, one with backslashes or one that leads out of
    the folder, the file of the same bare name counts; so it does for all names when none of them
    exists.

    Args:
        path: the COCO file.
        names: every file_name in it.
        images: the images' folders; empty looks in the usual places around the file.

    Returns:
        A path for each name: that of a missing file where there is none, None where several files
        are equally good; and what to report.

    Raises:
        DataError: not one of the images exists, or a folder given does not.
    """
    for folder in images:
        if not is_dir(folder):
            raise DataError(f"--images {folder} is not a folder")
    places = _places(path, images)
    tidy = [plain(name) for name in names]
    root = _root(places, names, tidy)
    index = _Index(*_searched(path, root, images))
    found: list[Path | None] = []
    problems: list[Problem] = []
    tops = list(dict.fromkeys([root or places[0], *(images if len(images) > 1 else ())]))
    for name, short in zip(names, tidy, strict=True):
        exact = [_exact(top, name, short) for top in tops]
        matches = _different([place for place in exact if is_file(place)])
        if not matches and (root is None or _is_foreign(name)):
            matches = index.like(short)
            if len(matches) == 1:
                problems.append(Problem(BARE_NAME, path, None, f"{name} is {matches[0]}"))
        if len(matches) > 1:
            both = " and ".join(str(match) for match in matches[:2])
            problems.append(Problem(AMBIGUOUS, path, None, f"{name}: {both}"))
        found.append(None if len(matches) > 1 else (matches or exact)[0])
    if root is None and not any(one is None or is_file(one) for one in found):
        folder = images[0] if images else path.parent
        raise DataError(
            f"{path}: no image found, e.g. {printable(names[0])} in {folder}"
            f"; give the images' folder as --images DIR"
        )
    return found, problems


def plain(name: str) -> str:
    """Turn a URL or a path of Windows into a path with slashes.

    Label Studio writes "/data/local-files/?d=a/b.jpg" for a/b.jpg.
    """
    name = name.replace("\\", "/")
    if "?d=" in name:
        return unquote(name.partition("?d=")[2])
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
        host_and_path = re.split("[?#]", name.partition("://")[2])[0]
        return unquote("/" + host_and_path.partition("/")[2])
    return re.sub("^[A-Za-z]:/", "/", name)


def _is_foreign(name: str) -> bool:
    """Return whether a name can hardly be meant relative to the images' folder."""
    short = plain(name)
    odd = short != name or "%" in name or not name.isascii()
    return odd or short.startswith("/") or ".." in PurePosixPath(short).parts


def _exact(root: Path, name: str, short: str) -> Path:
    here = root / name
    return here if short == name or is_file(here) else root / short.lstrip("/")


def _places(path: Path, images: Sequence[Path]) -> list[Path]:
    """List the folders that names may be relative to, the likeliest first."""
    split = split_in(path.stem) or split_in(resolved(path).parent.name)
    places = []
    for base in images or [top / name for top in path.parents[:2] for name in _IMAGES]:
        below = [base, base / path.stem.removeprefix("instances_")]
        if split and base.is_dir():
            folders = sorted(folder for folder in base.iterdir() if folder.is_dir())
            below += [folder for folder in folders if split_in(folder.name) == split]
        places += below
    return list(dict.fromkeys(places))


def _root(places: Sequence[Path], names: Sequence[str], tidy: Sequence[str]) -> Path | None:
    """Choose the folder that has most of a hundred images, or of 2000; None without any."""
    everything = list(zip(names, tidy, strict=True))
    for most in (100, 2000):
        some = everything[:: len(everything) // most + 1]
        counts = {
            place: sum(is_file(_exact(place, name, short)) for name, short in some)
            for place in places
        }
        best = max(places, key=lambda place: counts[place])
        if counts[best]:
            return best
    return None


def _different(paths: Sequence[Path]) -> list[Path]:
    """Leave out paths to a file that an earlier one leads to."""
    return list({identity(path): path for path in reversed(paths)}.values())[::-1]


def _searched(
    path: Path, root: Path | None, images: Sequence[Path]
) -> tuple[list[Path], list[Path]]:
    """List the folders to look for a bare name in: with those below them, and without."""
    if images or root:
        return list(dict.fromkeys([*images, *([root] if root else [])])), []
    around = list(path.parents[:2])
    inside = [folder / name for folder in around for name in _IMAGES[1:]]
    return [folder for folder in inside if folder.is_dir()], around


class _Index:
    """The files in some folders by their bare names; read when the first one is requested."""

    def __init__(self, deep: Sequence[Path], shallow: Sequence[Path]) -> None:
        self.deep = deep  # with the folders below them
        self.shallow = shallow
        self.files: dict[str, list[Path]] | None = None

    def like(self, name: str) -> list[Path]:
        """Return the files of that bare name with the most folders in common, from the end."""
        if self.files is None:
            self.files = self._read()
        requested = PurePosixPath(name)
        keys = (as_key(requested.name), as_key(unquote(requested.name)))
        found = next((self.files[key] for key in keys if key in self.files), [])
        rated = [(_common_end(path.parts[:-1], requested.parts[:-1]), path) for path in found]
        best = max((rating for rating, _ in rated), default=0)
        return [path for rating, path in rated if rating == best]

    def _read(self) -> dict[str, list[Path]]:
        listed = [path for folder in self.deep for path in files_below(folder)]
        listed += [path for folder in self.shallow for path in files_in(folder)]
        files: dict[str, list[Path]] = defaultdict(list)
        for path in _different(listed):
            files[as_key(path.name)].append(path)
        return files


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
