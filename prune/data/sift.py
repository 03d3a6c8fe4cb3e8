"""Leave broken images out before anything looks at them, with one note that counts them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from prune.common.device import cores
from prune.common.notes import note
from prune.common.wording import counted
from prune.data.images import expect_whole, read_bytes
from prune.data.spec import DataSpec
from prune.errors import DataError

_Key = tuple[str, int, int]  # path, bytes, time of the last change

# What was found of files in this process: several steps of a command look at the same ones.
_known: dict[_Key, str] = {}


def sift(spec: DataSpec, splits: Collection[str], *, strict: bool = False) -> DataSpec:
    """Copy a data set without the broken images of some splits.

    Args:
        spec: the data set.
        splits: of it; those that it lacks are passed over.
        strict: refuse broken images instead.

    Raises:
        DataError: a broken image, or a listed one that does not exist, and `strict`; no image of a
            split can be read.
    """
    if strict:
        for problem in spec.remarks:
            raise DataError(f"{problem} (--strict)")
    kept = {
        name: sound(spec.splits[name], where=f"{spec.path}: {name}", strict=strict)
        for name in splits
        if name in spec.splits
    }
    return replace(spec, splits={**spec.splits, **kept})


def sound(paths: Sequence[Path], *, where: str, strict: bool = False) -> tuple[Path, ...]:
    """Return the images that can be read; `where` is for the note, otherwise like `sift`."""
    with ThreadPoolExecutor(max_workers=min(16, cores())) as pool:
        faults = dict(zip(paths, pool.map(fault, paths), strict=True))
    broken = [f"{path}: {why}" for path, why in faults.items() if why]
    if broken and strict:
        raise DataError(f"{broken[0]} ({len(broken)} broken images in all; --strict refuses them)")
    if broken and len(broken) == len(paths):
        raise DataError(f"{where}: none of the {len(paths)} images can be read; {broken[0]}")
    if broken:
        what = counted(len(broken), "broken image is", "broken images are")
        note(f"{where}: {what} left out of {len(paths)}, e.g. {broken[0]}")
    return tuple(path for path, why in faults.items() if not why)


def fault(path: Path) -> str:
    """Say why an image cannot be read, "" where it can."""
    try:
        status = path.stat()
    except OSError as error:
        return f"cannot read image: {error.strerror}"
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _known:
        try:
            expect_whole(read_bytes(path), path)
            _known[key] = ""
        except DataError as error:
            _known[key] = str(error).removeprefix(f"{path}: ")
    return _known[key]
