"""What an image's EXIF orientation does to boxes that were drawn without regard to it."""

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from prune.data.images import Image

Corners = tuple[float, float, float, float]
Size = tuple[int, int]  # width and height in pixels

EXIF_ORIENTATION = 0x0112  # the number of the entry
UPRIGHT = 1

# Orientation -> whether x and y change places, then whether x and y count from the other side.
_MOVES = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def orientation(data: bytes, image: Image) -> int:
    """Return the EXIF orientation that reading applied to an image; 1 is none.

    Args:
        data: the file's bytes.
        image: what was read from them, uint8 [h, w, 3].
    """
    if b"Exif" not in data and b"eXIf" not in data and data[:2] not in (b"II", b"MM"):
        return UPRIGHT
    try:
        with Pillow.open(io.BytesIO(data)) as header:
            entry, size, form = header.getexif().get(EXIF_ORIENTATION), header.size, header.format
    except Exception:  # Pillow raises any kind for a damaged entry; the image itself was read
        return UPRIGHT
    if entry not in _MOVES or entry == UPRIGHT:
        return UPRIGHT
    if form in ("JPEG", "MPO") and swaps(entry) and size[0] != size[1]:
        return int(entry) if image.shape[:2] == size else UPRIGHT
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    same = stored is None or np.array_equal(stored, image)  # no reader applies it to every format
    return UPRIGHT if same else int(entry)


def swaps(entry: int) -> bool:
    """Return whether an orientation exchanges width and height."""
    return _MOVES[entry][0]


def turn(corners: Corners, size: Size, entry: int) -> Corners:
    """Turn a box as the orientation turns the image.

    Args:
        corners: left, top, right, bottom in pixels of the stored image.
        size: of the stored image.
        entry: the orientation, 1 to 8.

    Returns:
        Left, top, right, bottom in pixels of the image as it is displayed.
    """
    if entry == UPRIGHT:
        return corners
    exchange, mirror_x, mirror_y = _MOVES[entry]
    points: npt.NDArray[np.float64] = np.array(corners, dtype=np.float64).reshape(2, 2)  # [2, xy]
    if exchange:
        points, size = points[:, ::-1], size[::-1]
    for axis, mirrored in enumerate((mirror_x, mirror_y)):
        if mirrored:
            points[:, axis] = size[axis] - points[:, axis]
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    return float(left), float(top), float(right), float(bottom)
