"""Write files whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune.errors import InputError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; it takes the target's place when the block ends well.

    The folder is made if missing. When the block raises, the target is left as it was and the
    temporary file goes.

    Raises:
        InputError: the target is a folder, or its folder cannot be made or written.
    """
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}-", suffix=target.suffix, dir=target.parent
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
    finally:
        part.unlink(missing_ok=True)


def expect_writable(target: Path) -> None:
    """Check early, and without a trace, what can be known of `replacing`'s errors.

    Raises:
        InputError: the target is a folder, or lies in what is none or may not be written.
    """
    folder = next(path for path in target.absolute().parents if path.exists())
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {target}: {folder} is no folder that may be written")


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, whole or not at all.

    Raises:
        InputError: the target cannot be written.
    """
    with replacing(target) as part:
        part.write_text(text, encoding="utf-8")


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask
