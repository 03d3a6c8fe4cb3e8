"""One writer per run folder: who has the lock of a file in it, until its process ends."""

from __future__ import annotations

import errno
import os
import platform
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prune.common import temporary
from prune.common.notes import note
from prune.errors import InputError

_NAME = ".lock"
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Be the one that writes into a folder; the file of the lock goes when the block ends.

    The system takes the lock away when the process ends, however it does. Where there are no
    locks, as on some network drives, a note says so.

    Raises:
        InputError: another process has the folder, or it cannot be written into.
    """
    path = folder.absolute() / _NAME
    try:
        handle = _locked(path, folder)
    except OSError as error:
        raise InputError(f"cannot write into the folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # a file that is open stays on Windows, and does no harm
            path.unlink()
        os.close(handle)


def _locked(path: Path, folder: Path) -> int:
    """Open and lock the file; who had it before may remove it in between."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS, 0o666)
        try:
            locked = _lock(handle, folder)
        except BaseException:
            os.close(handle)
            raise
        if not locked or _is(path, handle):
            return handle
        os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    """Lock an open file and write into it who has it; False where the system has no locks."""
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise OSError(errno.EINVAL, f"{_NAME} in it is no file")
    locked = temporary.lock(handle)
    if locked is False:
        raise InputError(
            f"{folder}: another run is writing into this folder ({_owner(handle)}); "
            "choose another --name, or wait for its end"
        )
    if locked is None:
        note(f"{folder}: there are no locks here; two runs in it at once would not be noticed")
        return False
    with suppress(OSError):  # a full disk: nobody learns who it is
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {platform.node()}".encode())
    return True


def _owner(handle: int) -> str:
    """Read who has the lock."""
    os.lseek(handle, 0, os.SEEK_SET)
    text = os.read(handle, 300).decode(errors="replace")
    return text if re.fullmatch(r"process \d+ on [\w.-]*", text) else "its process is not known"


def _is(path: Path, handle: int) -> bool:
    """Tell whether a path names what is open."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(handle))
    except FileNotFoundError:
        return False
