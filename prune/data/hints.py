"""What to write or to move where a data set is described or laid out otherwise than it is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from prune.data.images import is_hidden, is_image

_DEPTH = 4  # how far below a folder images and labels are looked for
_FOLDERS = 2000  # and in how many folders at most


def line_to_write(folder: Path, split: str, *, root: str) -> str:
    """Tell the line that a description in a folder should have, from the images near it.

    Args:
        folder: of the description.
        split: which the line is to name.
        root: its `path:`, "" where it has none.
    """
    found = _image_folders(folder)
    named = [path for path in found if _is_called(path, split)]
    where = f"relative to {folder}" + (", and leave out path:" if root and found else "")
    if named:
        return f"write the line `{split}: {named[0].as_posix()}` ({where})"
    there = f"; there are images in {found[0].as_posix()}" if found else ""
    return (
        f"write `{split}:` and the folder of its images, e.g. `{split}: images/{split}` "
        f"({where}){there}"
    )


def labels_elsewhere(images: Sequence[Path], near: Path, split: str) -> Path | None:
    """Return the folder near a description that holds most label files of these images, if any.

    Of two that hold as many, it is the one that is called like the split.
    """
    expected = {f"{image.stem}.txt" for image in images}
    found = Counter({place: len(expected.intersection(files)) for place, files in _walk(near)})
    place, count = max(found.items(), key=lambda item: (item[1], _is_called(item[0], split)))
    return place if count else None


def _has_image(files: Sequence[str]) -> bool:
    """Return whether there is an image among the names of files."""
    return any(is_image(Path(name)) and not is_hidden(name) for name in files)


def _is_called(path: Path, split: str) -> bool:
    """Return whether a path names a split; "valid" begins with "val"."""
    return split in path.as_posix().lower()


def _image_folders(folder: Path) -> list[Path]:
    """List the folders below one that hold images, relative to it; the nearest first."""
    found = [place.relative_to(folder) for place, files in _walk(folder) if _has_image(files)]
    return sorted(found, key=lambda path: (len(path.parts), path))


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folders near one, and the names of the files in each."""
    for count, (place, folders, files) in enumerate(os.walk(folder), start=1):
        deep = len(Path(place).relative_to(folder).parts) >= _DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not is_hidden(name))
        yield Path(place), files
        if count >= _FOLDERS:
            return
