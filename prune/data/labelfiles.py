"""Where the label file of an image lies: in `labels/` if the image is in `images/`, or beside it.

Every reader, check and writer asks here, so that one image has one label file, whichever command
asks and from whichever working folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Folder names, in lower case, that tools use for images, and what stands in their place for labels.
# File systems that tell upper from lower case hold "Labels" beside "Images".
IMAGE_FOLDERS = frozenset({"images", "image", "jpegimages", "img", "imgs"})
LABEL_FOLDERS = ("labels", "Labels", "LABELS", "label", "Label")


def label_path(image: Path) -> Path:
    """Return the label file of an image, as an absolute path: the first candidate that exists.

    Where none exists, it is the first candidate: where YOLO tools would look for it.
    """
    found = label_candidates(image)
    first = next(found)
    if first.is_file():
        return first
    return next((path for path in found if path.is_file()), first)


def label_files(image: Path) -> list[Path]:
    """Return every candidate that exists; more than one means that the image is ambiguous."""
    found: list[Path] = []
    for path in label_candidates(image):
        # One folder may answer to several spellings.
        if path.is_file() and not any(path.samefile(other) for other in found):
            found.append(path)
    return found


def label_candidates(image: Path) -> Iterator[Path]:
    """Yield the paths where the label file of an image may lie, the preferred one first.

    For each folder of the path that is called "images" or alike, from the last to the first, the
    path with "labels" in its place; then beside the image. The last folder comes first since a
    parent folder may be called "images" by chance.
    """
    plain = os.path.abspath(image)  # noqa: PTH100  # resolve() would follow links
    parts = Path(plain).with_suffix(".txt").parts
    for i in range(len(parts) - 2, 0, -1):
        if parts[i].lower() in IMAGE_FOLDERS:
            yield from (Path(*parts[:i], name, *parts[i + 1 :]) for name in LABEL_FOLDERS)
    yield Path(*parts)
