"""The one door for files that a user hands in: which are read, how large, what is shown of them.

`open_input` opens every input and `reading` stands around every reader that is not ours, so that
what a hostile or broken file does to it is one line with the file's name. Code of ours stays
outside `reading`: a bug of ours keeps its traceback.
"""

from __future__ import annotations

import io
import os
import reprlib
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import BinaryIO

from prune.common.visible import visible
from prune.errors import InputError, PruneError, first_line

MB, GB = 2**20, 2**30
# What a file is -> the most bytes that are read of one; far above what such files have.
LIMITS: Mapping[str, int] = {
    "text": 256 * MB,  # lists of images, Darknet's .data
    "labels": 64 * MB,
    "names": 16 * MB,
    "yaml": 16 * MB,  # data.yaml, hyper-parameters, limits, options
    "cfg": 16 * MB,
    "json": 256 * MB,  # plans, sensitivity, journals, records
    "coco": 4 * GB,
    "xml": 64 * MB,
    "image": GB,
    "video": 1024 * GB,  # read frame by frame
    "checkpoint": 16 * GB,
    "weights": 16 * GB,
    "onnx": 16 * GB,
}
_KINDS = (
    (stat.S_ISDIR, "Is a directory"),
    (stat.S_ISFIFO, "it is a pipe"),
    (stat.S_ISSOCK, "it is a socket"),
    (stat.S_ISCHR, "it is a device"),
    (stat.S_ISBLK, "it is a device"),
)
_FLAGS = os.O_RDONLY
for _name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):  # not every system has all
    _FLAGS |= getattr(os, _name, 0)
_LONGEST_PATH = 300  # letters of a path in a message
_LONGEST_WHY = 200


def open_input(
    path: Path | str, kind: str, *, error: type[PruneError] = InputError, called: str = ""
) -> BinaryIO:
    """Open a regular file of at most LIMITS[kind] bytes for reading.

    A pipe would be waited for, and a device has no end: both are refused unopened.

    Args:
        path: the file.
        kind: a key of LIMITS.
        error: what is raised where it cannot be read.
        called: what the file is, for the message: "the class names in".

    Raises:
        InputError: there is no such file, it is not regular, or it is too large; of the kind that
            `error` names.
    """
    try:
        return os.fdopen(_open(path, kind), "rb")
    except (OSError, ValueError) as cause:
        raise error(f"cannot read {_called(path, called)}: {reason(cause)}") from cause


def read_bytes(
    path: Path | str, kind: str, *, error: type[PruneError] = InputError, called: str = ""
) -> bytes:
    """Read a file whole; arguments and errors are those of `open_input`."""
    try:
        handle = _open(path, kind)
        try:
            return _read(handle, kind)
        finally:
            os.close(handle)
    except (OSError, ValueError, MemoryError) as cause:
        raise error(f"cannot read {_called(path, called)}: {reason(cause)}") from cause


def read_text(
    path: Path | str, kind: str = "text", *, error: type[PruneError] = InputError, called: str = ""
) -> str:
    """Read a text file whole: UTF-8, with or without the byte order mark of Windows' editors.

    Arguments and errors are those of `open_input`; a file that is not UTF-8 is one more.
    """
    data = read_bytes(path, kind, error=error, called=called)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        raise error(f"cannot read {_called(path, called)}: {_no_text(cause)}") from cause
    return io.StringIO(text, newline=None).read() if "\r" in text else text


@contextmanager
def reading(
    path: Path | str, *, error: type[PruneError] = InputError, called: str = ""
) -> Iterator[None]:
    """Turn whatever another library's reader raises into one line with the file's name.

    Around the call of that reader alone: nothing of ours may run in the block but what raises
    errors on purpose. Those get the file's name in front where they lack it.

    Args:
        path: the file.
        error: what is raised.
        called: what the file is, for the message: "the class names in".

    Raises:
        InputError: the reader failed; of the kind that `error` names.
    """
    try:
        with naming(path):
            yield
    except PruneError:
        raise
    except Exception as cause:
        raise error(f"cannot read {_called(path, called)}: {reason(cause)}") from cause


@contextmanager
def naming(path: Path | str, kind: type[PruneError] = PruneError) -> Iterator[None]:
    """Put a file's name in front of errors of ours that come of its content and lack it.

    Args:
        path: the file.
        kind: the errors that come of it.
    """
    try:
        yield
    except kind as ours:
        name = printable(str(path))
        if name not in str(ours) and str(path) not in str(ours):
            ours.args = (f"{name}: {ours}", *ours.args[1:])
        raise


def is_file(path: Path | str) -> bool:
    """Tell whether a path leads to a regular file; one that is too long or loops does not."""
    return os.path.isfile(path)  # noqa: PTH113 - pathlib raises in some versions


def is_dir(path: Path | str) -> bool:
    """Tell whether a path leads to a folder; one that is too long or loops does not."""
    return os.path.isdir(path)  # noqa: PTH112 - as above


def exists(path: Path | str) -> bool:
    """Tell whether a path leads to anything; one that is too long or loops does not."""
    return os.path.exists(path)  # noqa: PTH110 - as above


def leads_to_file(path: Path | str) -> bool:
    """Tell whether a path leads to anything but a folder, be it one that opening refuses."""
    return exists(path) and not is_dir(path)


def resolved(path: Path | str) -> Path:
    """Return an absolute path without links; a loop of links is left as it stands."""
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return Path(path).absolute()


def shown(value: object, limit: int = 80) -> str:
    """Write any value out of a file as it may stand in a message: printable and short.

    Text stands in quotes. What is nested, long or refers to itself is cut: a few lines of YAML can
    describe more text than a machine has memory.
    """
    text = _Short(limit).repr(str(value) if isinstance(value, PurePath) else value)
    return printable(text, limit)


def printable(text: str, limit: int = _LONGEST_PATH) -> str:
    """Cut text to `limit` letters and show what would steer a terminal as escapes."""
    return visible(text if len(text) <= limit else f"{text[: limit - 3]}...")


class _Short(reprlib.Repr):
    """Python's own shortened `repr`, which fails on endless numbers and does not shorten bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxlong = self.maxother = limit

    def repr_int(self, value: int, level: int) -> str:
        if value.bit_length() > 3 * self.maxlong:
            return f"a whole number of about {int(value.bit_length() * 0.30103) + 1} digits"
        return repr(value)

    def repr_bytes(self, value: bytes, level: int) -> str:
        return repr(value[: self.maxother])

    repr_bytearray = repr_bytes


def _called(path: Path | str, called: str) -> str:
    return f"{called} {printable(str(path))}" if called else printable(str(path))


def _open(path: Path | str, kind: str) -> int:
    """Open a file that `open_input` lets through; as it is called for every label, by the system.

    Raises:
        OSError: the system cannot open it.
        ValueError: it is refused, or no file can have this name.
    """
    _expect_regular(os.stat(path), kind)  # noqa: PTH116 - a third of pathlib's time
    handle = os.open(path, _FLAGS)
    try:
        _expect_regular(os.fstat(handle), kind)  # it may be another one by now
    except BaseException:
        os.close(handle)
        raise
    return handle


def _read(handle: int, kind: str) -> bytes:
    """Read an open file to its end."""
    size = os.fstat(handle).st_size
    data = os.read(handle, min(size + 1, GB))
    if len(data) == size:
        return data
    # A large file comes in parts. One of /proc says that it is empty, and some have no end.
    parts = [data]
    total = len(data)
    while part := os.read(handle, 64 * MB if total < size else MB):
        parts.append(part)
        total += len(part)
        _expect_small(total, kind)
    return b"".join(parts)


def _expect_regular(found: os.stat_result, kind: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        what = next((what for test, what in _KINDS if test(found.st_mode)), "it is no file")
        raise _RefusedError(what if what[0] == "I" else f"{what}; a regular file is needed")
    _expect_small(found.st_size, kind)


def _expect_small(size: int, kind: str) -> None:
    if size > LIMITS[kind]:
        raise _RefusedError(
            f"it has {size / MB:,.0f} MB; a file of this kind has {LIMITS[kind] // MB:,} MB at most"
        )


class _RefusedError(ValueError):
    """A file that is not read, and why."""


def _of_system(cause: OSError) -> str:
    return cause.strerror or first_line(cause)


def _no_text(cause: UnicodeDecodeError) -> str:
    if bytes(cause.object[:2]) in (b"\xff\xfe", b"\xfe\xff"):
        return "it is UTF-16 text; save it as UTF-8"
    line = bytes(cause.object[: cause.start]).count(b"\n") + 1
    return f"it is no text file: line {line} is not UTF-8"


def _of_unicode(cause: UnicodeError) -> str:
    if isinstance(cause, UnicodeDecodeError):
        return "it is damaged: a text in it is not UTF-8"
    return "it has characters that no text can have"


# What a reader raises -> what is wrong with the file; the first that fits.
_WHY: tuple[tuple[type[Exception], Callable[..., str] | str], ...] = (
    (_RefusedError, str),
    (OSError, _of_system),
    (UnicodeError, _of_unicode),
    (MemoryError, "it needs more memory than there is"),
    (RecursionError, "it is nested too deeply"),
    (OverflowError, "a number in it is too large"),
    (struct.error, "it ends too early or is damaged"),
    (zipfile.BadZipFile, "it is a damaged archive"),
)


# What only code raises that did not expect such a file; its words are of use to nobody but us.
_OF_CODE = (AttributeError, TypeError, LookupError, AssertionError, ArithmeticError)


def reason(cause: Exception) -> str:
    """Say in one short line what a reader's error means, with the line of the file if known."""
    for kind, words in _WHY:
        if isinstance(cause, kind):
            return printable(words if isinstance(words, str) else words(cause), _LONGEST_WHY)
    what = first_line(cause)
    if isinstance(cause, ValueError) and "null" in what:
        return "a name cannot have a NUL character"
    line = getattr(cause, "line", None) or getattr(cause, "lineno", None)
    place = f"line {line}: " if isinstance(line, int) and not what.startswith("line ") else ""
    if isinstance(cause, _OF_CODE):
        what = f"it is damaged or not supported ({type(cause).__name__}: {what})"
    elif not (isinstance(cause, ValueError) and str(cause)):
        what = f"{type(cause).__name__}: {what}"
    return printable(f"{place}{what}", _LONGEST_WHY)
