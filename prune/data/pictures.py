"""Picture files: which suffixes count as one, and how one is read."""

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from prune.errors import DataError

Image = npt.NDArray[np.uint8]

# What OpenCV's wheels decode on every platform; lower case, compared without regard to case.
SUFFIXES = frozenset(
    {".bmp", ".dib", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".tif", ".tiff", ".webp"}
)

# OpenCV would print lines of its own beside the error raised here.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_picture(path: Path) -> bool:
    """Say whether the name ends like a picture's."""
    return path.suffix.lower() in SUFFIXES


def read_image(path: Path) -> Image:
    """Read a picture as uint8 [h, w, 3] BGR.

    As with cv2.imread, its EXIF orientation is applied, grey and 16-bit pictures become 8-bit
    colour, and an alpha channel is dropped.

    Raises:
        DataError: the file is missing, empty, truncated, or no picture.
    """
    return decode(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a picture file as it is.

    Raises:
        DataError: the file is missing, empty, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read picture: {error.strerror}") from error
    if not data:
        raise DataError(f"{path}: picture file is empty")
    return data


def decode(data: bytes, path: Path) -> Image:
    """Decode a picture's bytes to uint8 [h, w, 3] BGR; `path` is for messages.

    Raises:
        DataError: the bytes are truncated or no picture.
    """
    if _is_truncated(data):
        raise DataError(f"{path}: picture is truncated")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # absurd sizes in a header raise where other damage returns None
        raise DataError(f"{path}: cannot decode picture: {error.err}") from error
    if image is None:
        raise DataError(f"{path}: cannot decode picture")
    return np.asarray(image, dtype=np.uint8)


def _is_truncated(data: bytes) -> bool:
    """Find what older OpenCV lets through: it fills the missing part with grey.

    In a JPEG's scan data 0xFF is always followed by 0x00 or a restart marker, so the last start of
    scan (FFDA) must have an end of image (FFD9) behind it; a thumbnail's lies before it. A PNG ends
    with its IEND chunk.
    """
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    return data.startswith(b"\x89PNG") and b"IEND" not in data[-4096:]
