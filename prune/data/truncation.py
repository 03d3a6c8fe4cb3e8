"""Whether an image file is cut off before its end; what lies behind its end does not matter.

Older OpenCV fills the missing part with grey and reports nothing. Phones put a video behind the end
of a photograph, and other tools put their own data there.
"""

import re
from collections.abc import Callable

_PNG = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_SCAN = 0xDA  # the marker behind which the pixels come
_END = b"\xff\xd9"
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment behind them


def is_truncated(data: bytes) -> bool:
    """Return whether a JPEG or PNG file lacks its end; other formats are left to their decoders."""
    return any(data.startswith(start) and cut(data) for start, cut in _READERS.items())


def _is_cut_jpeg(data: bytes) -> bool:
    """Look for the end behind the first scan; before it, a thumbnail in a segment has its own.

    In a scan 0xFF is followed by 0x00 or a restart marker, so that nothing there looks like an end.
    """
    if data.endswith(_END):
        return False
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == _SCAN:
            return data.find(_END, at) < 0
        if marker not in _ALONE:
            at += max(int.from_bytes(data[at : at + 2], "big"), 2)
    return True


def _is_cut_png(data: bytes) -> bool:
    """Go from chunk to chunk: length, type, so many bytes, checksum."""
    at = len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IEND":
            return False
        at += length + 12
    return True


# First bytes of a file -> whether one of this kind is cut off.
_READERS: dict[bytes, Callable[[bytes], bool]] = {b"\xff\xd8": _is_cut_jpeg, _PNG: _is_cut_png}
