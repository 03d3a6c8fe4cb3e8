"""Image files: which suffixes count as one, and how one is read."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from prune.common import inputs
from prune.common.dimensions import IMAGE
from prune.data.truncation import is_truncated
from prune.errors import DataError

Image = npt.NDArray[np.uint8]

# What OpenCV's wheels decode on every platform; lower case, compared without regard to case.
# .jfif and .mpo are JPEG files by another name.
SUFFIXES = frozenset(
    {
        *(".bmp", ".dib", ".jfif", ".jpe", ".jpeg", ".jpg", ".jp2", ".mpo"),
        *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)

# Formats of images that are left out with a note: not every OpenCV decodes them.
UNREAD = frozenset(
    {
        *(".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif"),
        *(".ico", ".jxl", ".nef", ".npy", ".orf", ".pfm", ".psd", ".raf", ".raw", ".rw2"),
        *(".svg", ".tga"),
    }
)

# Folders in which a tool keeps copies: of macOS' archives, of Jupyter and of Synology's disks.
COPIES = frozenset({"__MACOSX", ".ipynb_checkpoints", "@eaDir"})

# OpenCV would print lines of its own beside the error raised here.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_image(path: Path) -> bool:
    """Return whether the name ends like an image's."""
    return path.suffix.lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is one that data sets leave out: its name begins with a dot.

    Jupyter keeps copies in .ipynb_checkpoints, macOS writes ._a.jpg beside a.jpg.
    """
    return name in COPIES or (name.startswith(".") and name not in (".", ".."))


def read_image(path: Path) -> Image:
    """Read an image as uint8 [h, w, 3] BGR.

    As with cv2.imread, its EXIF orientation is applied, grey and 16-bit images become 8-bit
    colour, and an alpha channel is dropped.

    Raises:
        DataError: the file is missing, empty, truncated, no image, or too large.
    """
    return decode(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read an image file as it is.

    Raises:
        DataError: the file is missing, empty, or cannot be read.
    """
    data = inputs.read_bytes(path, "image", error=DataError, called="image")
    if not data:
        raise DataError(f"{path}: image file is empty")
    return data


def decode(data: bytes, path: Path) -> Image:
    """Decode an image's bytes to uint8 [h, w, 3] BGR; `path` is for messages.

    Raises:
        DataError: the bytes are truncated or no image, or the image is too large.
    """
    image = _decoded(data, path, cv2.IMREAD_COLOR)
    return np.asarray(image, dtype=np.uint8)


def expect_whole(data: bytes, path: Path) -> None:
    """Check that an image can be decoded; for a JPEG in less time than decoding takes.

    Raises:
        DataError: the bytes are truncated or no image, or the image is too large.
    """
    # libjpeg makes an image of an eighth of the size in a third of the time; of other formats
    # OpenCV reduces the whole image, and fails where a side has less than four pixels.
    is_jpeg = data.startswith(b"\xff\xd8")
    _decoded(data, path, cv2.IMREAD_REDUCED_GRAYSCALE_8 if is_jpeg else cv2.IMREAD_COLOR)


def _decoded(data: bytes, path: Path, flags: int) -> npt.NDArray[np.uint8]:
    if is_truncated(data):
        raise DataError(f"{path}: image is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # absurd sizes in a header raise where other damage returns None
        why = _TOO_LARGE if "CV_IO_MAX_IMAGE" in error.err else f"cannot decode image: {error.err}"
        raise DataError(f"{path}: {why}") from error
    except MemoryError as error:
        raise DataError(f"{path}: image needs more memory than there is") from error
    if image is None:
        raise DataError(f"{path}: cannot decode image{_content(data)}")
    return np.asarray(image, dtype=np.uint8)


# OpenCV compares the header's size with the limit that `prune` sets, and does not report the size.
_TOO_LARGE = (
    f"image has more than {IMAGE:,} pixels, or a side of more than {2**20:,}; cut it into tiles"
)


def expect_few_pixels(height: float, width: float, *, of: str) -> None:
    """Check the size of a video's frames before one is decoded.

    Raises:
        DataError: they have more pixels than an image may have.
    """
    if height * width > IMAGE:
        raise DataError(f"{of}: frames have {width:.0f} x {height:.0f} pixels; at most {IMAGE:,}")


# How files begin that have the suffix of an image and are something else, and what they are.
_CONTENTS = {
    b"GIF8": "a GIF file",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG file",
    b"<?xml": "an XML file",
    b"version https://git-lfs": "a Git LFS pointer; run git lfs pull",
    b"PK": "a ZIP archive",
    b"%PDF": "a PDF file",
}


def _content(data: bytes) -> str:
    """Tell what a file is that is no image, where its first bytes show it."""
    if data[4:8] == b"ftyp":
        return f": it is {data[8:12].decode('latin-1').strip().upper()}, whatever its name says"
    found = (what for start, what in _CONTENTS.items() if data.lstrip().startswith(start))
    what = next(found, "")
    return f": it is {what}, whatever its name says" if what else ""
