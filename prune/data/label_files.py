"""Where the label file of an image lies: in `labels/` if the image is in `images/`, or beside it.

Every reader, check and writer asks here, so that one image has one label file, whichever command
asks and from whichever working folder.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

# Folder names, in lower case, that tools use for images, and what stands in their place for labels.
# On file systems that distinguish upper and lower case, "Labels" may lie beside "Images".
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
    parent folder may be called "images" by chance. In each folder .txt comes before .TXT, and the
    image's own spelling before other forms of the same letters.
    """
    folder, stem = Path(os.path.abspath(image)).parent.parts, image.stem  # noqa: PTH100  # no links
    names = [form + suffix for suffix in (".txt", ".TXT") for form in _forms(stem)]
    for i in range(len(folder) - 1, 0, -1):
        if folder[i].lower() in IMAGE_FOLDERS:
            for other in LABEL_FOLDERS:
                yield from (Path(*folder[:i], other, *folder[i + 1 :], name) for name in names)
    yield from (Path(*folder, name) for name in names)


def _forms(name: str) -> Iterable[str]:
    """Return the spellings of a name: macOS writes a letter and its accent apart, others as one."""
    return dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
