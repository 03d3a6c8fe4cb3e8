"""The one way to write: files and folders appear whole, in the place of older ones, or not at all.

What is written lies under a temporary name beside its target until it is complete and on the disk;
then it is renamed. Files that belong together are renamed one right after another, and where that
fails, all of them are again what they were. A process that is killed may leave temporary files; the
next one that writes the same target removes them: each writer holds a lock on its own, so that
those without one are nobody's.
"""

from __future__ import annotations

import errno
import glob
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prune.common import temporary
from prune.common.temporary import DRAWN
from prune.errors import InputError, PruneError, WriteError

_MARK = "-part-"  # in temporary names
_LONGEST = 100  # bytes of the target's name in them; systems allow 255 for a whole name
_LONGEST_SUFFIX = 20  # bytes; by it, writers know a format, and no format has a longer one
_FEW = 64  # files of a folder that are put on the disk one by one
_EXCHANGE, _HERE = 2, -100  # renameat2's RENAME_EXCHANGE, and AT_FDCWD


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; it takes the target's place when the block ends well.

    The folder is made if missing; where the target is a symbolic link, the file that it names is
    replaced. When the block raises, the target is left as it was and the temporary file goes.

    Raises:
        InputError: the target is a folder or a device, or its folder cannot be made or written.
        WriteError: the system failed the block or what follows it: a full disk, a vanished folder.
    """
    with together(target) as (part,):
        yield part


@contextmanager
def together(*targets: Path, folder: Path | None = None) -> Iterator[tuple[Path, ...]]:
    """Replace several files as `replacing` does one: all of them or none.

    The last target's rename decides: until then, whatever fails, all are as they were.

    Args:
        targets: the files.
        folder: one to replace as well, before them; all that it holds goes.

    Yields:
        The temporary paths, an empty folder for `folder` first.

    Raises:
        InputError: a target is of another kind, or its folder cannot be made or written.
        WriteError: the system failed the block or what follows it.
    """
    named = [*([folder] if folder else []), *targets]
    with ExitStack() as stack:
        parts = [stack.enter_context(_begun(path, is_folder=path is folder)) for path in named]
        try:
            yield tuple(part.path for part in parts)
            for part in parts:
                _complete(part)
            _take_places(parts)
        except PruneError as error:  # of a file inside a folder, which has its name only later
            error.args = (_by_its_name(str(error), parts, named), *error.args[1:])
            raise
        except OSError as error:
            raise WriteError(
                f"cannot write {_blamed(error, parts, named)}: {error.strerror or error}"
            ) from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which takes that name when the block ends well.

    Raises:
        InputError: there is something by that name already, or it cannot be made.
        WriteError: the system failed the block, or it cannot be moved to its place.
    """
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InputError(f"{target} exists already; name a new folder")
    except OSError as error:
        raise InputError(f"cannot make the folder {target}: {error.strerror}") from error
    with together(folder=target) as (part,):
        yield part


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` as UTF-8, whole or not at all.

    Raises:
        InputError: the target cannot be written.
    """
    with replacing(target) as part:
        part.write_text(text, encoding="utf-8")


def sweep(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder, whatever their targets.

    Raises:
        InputError: one of them cannot be removed.
    """
    temporary.sweep(folder, f".*{_MARK}{DRAWN}*", strict=True)


def expect_writable(target: Path) -> None:
    """Check early, and without a trace, what can be known of `replacing`'s errors.

    Raises:
        InputError: the target is a folder or a device, or its folder cannot be made or written.
    """
    try:
        real = _real(target)
        _expect_replaceable(target, real)
        folder = next(path for path in real.parents if path.exists())
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


@dataclass
class _Part:
    """A temporary file or folder and what it is to replace; its identity once it is complete."""

    path: Path
    target: Path
    is_folder: bool
    identity: os.stat_result | None = None

    @property
    def is_placed(self) -> bool:
        """Tell whether it stands in the target's place."""
        try:
            return self.identity is not None and os.path.samestat(
                self.identity, self.target.lstat()
            )
        except FileNotFoundError:
            return False


@contextmanager
def _begun(target: Path, *, is_folder: bool) -> Iterator[_Part]:
    """Make a temporary file or folder, locked; what stands there at the end goes."""
    with ExitStack() as kept:
        try:
            real = _real(target)
            if not is_folder:
                _expect_replaceable(target, real)
            kept.enter_context(unused_go(real.parent))
            real.parent.mkdir(parents=True, exist_ok=True)
            prefix, suffix = _affixes(real)
            temporary.sweep(real.parent, f"{glob.escape(prefix)}{DRAWN}{glob.escape(suffix)}")
            path, lock = temporary.make(prefix, suffix, real.parent, is_folder=is_folder)
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror}") from error
        try:
            yield _Part(path, real, is_folder)
        finally:
            temporary.remove(path)
            os.close(lock)


@contextmanager
def unused_go(folder: Path) -> Iterator[None]:
    """Remove, of a folder and its parents, those that the block makes and leaves empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        for path in missing:
            with suppress(OSError):  # something is in it, or it was not made
                path.rmdir()


def _real(target: Path) -> Path:
    """Follow symbolic links, also one to a file that is not there yet; loops are errors."""
    real = Path(os.path.realpath(target))
    with suppress(FileNotFoundError, NotADirectoryError):
        real.stat()
    return real


def _expect_replaceable(target: Path, real: Path) -> None:
    """Refuse what is no file: a file put in the place of /dev/null breaks the machine.

    Raises:
        InputError: the target is a folder, a device, a pipe or a socket.
    """
    if target.is_dir():
        raise InputError(f"cannot write {target}: it is a folder")
    if any(path.exists() and not path.is_file() for path in (target, real)):
        raise InputError(f"cannot write {target}: it is a device or a pipe; name a file")


def _affixes(real: Path) -> tuple[str, str]:
    """Return how temporary names of a target begin and end; neither is longer than systems allow.

    Files in the making are known by their suffix to those who write them.
    """
    plain = len(os.fsencode(real.suffix)) <= _LONGEST_SUFFIX
    stem, suffix = (real.stem, real.suffix) if plain else (real.name, "")
    return f".{os.fsencode(stem)[:_LONGEST].decode(errors='ignore')}{_MARK}", suffix


def _complete(part: _Part) -> None:
    """Give a temporary file or folder its permissions, and put it on the disk.

    A data set of thousands of small files is not: that takes minutes, and it can be made again.
    """
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    part.path.chmod((0o777 if part.is_folder else 0o666) & ~mask)  # tempfile's: the owner's alone
    files = [part.path]
    if part.is_folder:
        files = [path for path in part.path.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files if len(files) <= _FEW else ():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    part.identity = part.path.lstat()


def _take_places(parts: Sequence[_Part]) -> None:
    """Rename each to its target; until the last one is there, any failure undoes them all."""
    if not parts:
        return
    *others, last = parts
    try:
        for part in others:
            _exchange(part.path, part.target)
        last.path.replace(last.target)
    except BaseException:
        if not last.is_placed:
            for part in reversed(others):
                if part.is_placed:
                    _exchange(part.target, part.path)
        raise
    for folder in {part.target.parent for part in parts}:
        _sync_folder(folder)


def _exchange(path: Path, target: Path) -> None:
    """Put `path` in the place of `target`, and `target`, if there is one, in that of `path`."""
    if not target.exists():
        path.rename(target)
    elif not _exchanged_at_once(path, target):
        aside = path.with_name(f"{path.name}-old")
        target.rename(aside)
        path.rename(target)
        aside.rename(path)


def _exchanged_at_once(path: Path, target: Path) -> bool:
    """Exchange two names in one step, as Linux can on most file systems; False where it cannot."""
    import ctypes  # here: most commands do without

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if rename(_HERE, os.fsencode(path), _HERE, os.fsencode(target), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(target))


def _sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _by_its_name(text: str, parts: Sequence[_Part], named: Sequence[Path]) -> str:
    """Put the names that the user gave in the place of temporary ones."""
    for path, part in zip(named, parts, strict=True):
        text = text.replace(str(part.path), str(path))
    return text


def _blamed(error: OSError, parts: Sequence[_Part], named: Sequence[Path]) -> str:
    """Name the file that an error is about, as the user did; all of them where it does not tell."""
    about = str(error.filename)
    found = [
        path
        for path, part in zip(named, parts, strict=True)
        if about.startswith((str(part.path), str(part.target)))
    ]
    return " and ".join(map(str, found or named))
