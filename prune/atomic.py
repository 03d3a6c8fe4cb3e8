"""Write files whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune.errors import InputError, WriteError

_MARK = "-part-"  # in the names of temporary files
_LONGEST = 100  # bytes of the target's name in them; systems allow 255 for a whole name


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; it takes the target's place when the block ends well.

    The folder is made if missing. When the block raises, the target is left as it was and the
    temporary file goes.

    Raises:
        InputError: the target is a folder or a device, or its folder cannot be made or written.
        WriteError: the system failed the block or what follows it: a full disk, a vanished folder.
    """
    try:
        _expect_replaceable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{_short(target.stem)}{_MARK}", suffix=target.suffix, dir=target.parent
        )
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}") from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        _sync(part)
        part.replace(target)
    except BrokenPipeError:  # of what the block printed
        raise
    except OSError as error:
        raise WriteError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Take away the temporary files that a killed process left in a folder nobody else writes to.

    Raises:
        InputError: one of them cannot be removed.
    """
    for part in folder.glob(f".*{_MARK}????????*"):  # as many as mkstemp draws
        try:
            part.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {part}: {error.strerror}") from error


def expect_writable(target: Path) -> None:
    """Check early, and without a trace, what can be known of `replacing`'s errors.

    Raises:
        InputError: the target is a folder or a device, or its folder cannot be made or written.
    """
    try:
        folder = next(path for path in target.absolute().parents if path.exists())
        _expect_replaceable(target)
        if not folder.is_dir():
            raise InputError(f"cannot write {target}: {folder} is no folder")
    except OSError as error:  # a name that is too long, a folder that is closed to us
        raise InputError(f"cannot write {target}: {error.strerror}") from error
    probe(folder)


def probe(folder: Path) -> None:
    """Check by writing that files can be written into a folder; no trace stays, even of a kill.

    Permissions alone do not tell: root has them all, a read-only or full disk has them too.

    Raises:
        InputError: they cannot.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        raise InputError(f"cannot write into the folder {folder}: {error.strerror}") from error


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, whole or not at all.

    Raises:
        InputError: the target cannot be written.
    """
    with replacing(target) as part:
        part.write_text(text, encoding="utf-8")


def _expect_replaceable(target: Path) -> None:
    """Refuse what is no file: a file put in the place of /dev/null breaks the machine.

    Raises:
        InputError: the target is a folder, a device, a pipe or a socket.
    """
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder")
    if target.exists() and not target.is_file():
        raise InputError(f"cannot write {target}: it is a device or a pipe; name a file")


def _short(stem: str) -> str:
    """Shorten a name to bytes that leave room for what a temporary file's has besides."""
    return os.fsencode(stem)[:_LONGEST].decode(errors="ignore")


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask
