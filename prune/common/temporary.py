"""Temporary files and folders: each is locked by its writer, and one without a lock is nobody's."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from prune.errors import InputError

DRAWN = "?" * 8  # the letters of a temporary name that tempfile draws, as a pattern
_STALE_S = 86_400  # after which a file is nobody's where the system has no locks


def make(prefix: str, suffix: str, folder: Path, *, is_folder: bool) -> tuple[Path, int]:
    """Make a temporary file or folder that no sweep takes.

    Args:
        prefix: how its name begins, before DRAWN.
        suffix: how it ends.
        folder: where it lies.
        is_folder: make a folder.

    Returns:
        Its path, and the open handle that holds its lock: to be closed when it is done with.
    """
    while True:
        if is_folder:
            name = tempfile.mkdtemp(prefix=prefix, suffix=suffix, dir=folder)
            handle = os.open(name, os.O_RDONLY)
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=folder)
        # A sweep may have seen it before it had its lock; then it is gone, or will be.
        if lock(handle) is not False and Path(name).exists():
            return Path(name), handle
        os.close(handle)
        remove(Path(name))


def lock(handle: int) -> bool | None:
    """Lock what is open; False where another has it, None where the system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network drives
        return None
    return True


def sweep(folder: Path, pattern: str, *, strict: bool = False) -> None:
    """Remove temporary files and folders whose writers are gone.

    Args:
        folder: where they lie.
        pattern: of their names.
        strict: raise what prevents it.

    Raises:
        InputError: one of them cannot be removed, with `strict`.
    """
    for path in folder.glob(pattern):
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # it may be a pipe
            try:
                locked = lock(handle)
                if locked is None:
                    locked = time.time() - path.stat().st_mtime > _STALE_S
                if locked:
                    remove(path, strict=strict)
            finally:
                os.close(handle)
        except FileNotFoundError:
            continue  # its writer was faster
        except OSError as error:
            if strict:
                raise InputError(f"cannot remove {path}: {error.strerror}") from error


def remove(path: Path, *, strict: bool = False) -> None:
    """Remove a file or a folder with all in it; with `strict`, what prevents that is raised."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=not strict)
        return
    with suppress(*(() if strict else (OSError,))):
        path.unlink(missing_ok=True)
