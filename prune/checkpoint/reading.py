"""How a file of weights is read: what the user knows of it, and the note on what was read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from prune.checkpoint.convert import AS_IT_IS, Reading, open_weights
from prune.checkpoint.file import Checkpoint, save
from prune.checkpoint.foreign.source import namesakes
from prune.common import shipped
from prune.common.inputs import leads_to_file
from prune.common.notes import note
from prune.errors import InputError

Names = str | Sequence[str]
"""Class names: one by one, or a text as `class_names` reads it."""

_DESCRIPTIONS = (".yaml", ".yml", ".data")


def reading_of(cfg: Path | None, names: Names | None, decoding: str | None) -> Reading:
    """Turn what the user knows of a file of weights into how it is read.

    Args:
        cfg: a file, or the name of one in ./cfg.
        names: as `class_names` reads them.
        decoding: "exp" or "sigmoid".

    Raises:
        InputError: the names cannot be read.
    """
    return Reading(find_cfg(cfg), class_names(names), decoding)


def open_with_note(path: Path, reading: Reading = AS_IT_IS) -> Checkpoint:
    """Open a file of weights; a note says how a public one was read.

    Raises:
        PruneError: the file cannot be used.
    """
    found = open_weights(path, reading)
    note_reading(path, found, reading)
    return found


def note_reading(path: Path, found: Checkpoint, reading: Reading) -> None:
    """Note in one line how a file was read, if there is something to note."""
    remarks = list(found.remarks)
    if reading.cfg is not None and not found.foreign:
        remarks.append(f"it is a checkpoint of ours, so that its own cfg counts, not {reading.cfg}")
    if remarks:
        note(f"{path}: {'; '.join(remarks)}")


def is_ours_as_read(found: Checkpoint, reading: Reading) -> bool:
    """Return whether a file is a checkpoint of ours that says by itself how it is read."""
    return not found.foreign and reading.names is None and reading.decoding is None


def as_our_file(path: Path, found: Checkpoint, reading: Reading, *, target: Path) -> Path:
    """Return a file of ours with the weights in `path`, for what takes a path and no options.

    Args:
        path: the file.
        found: what was read of it.
        reading: how.
        target: where it is written as a checkpoint, unless it is one that needs no `reading`.
    """
    if path.suffix == ".pt" and is_ours_as_read(found, reading):
        return path
    save(found, target)
    return target


def find_cfg(path: Path | None) -> Path | None:
    """Find the cfg that the user names: a file, one in ./cfg, or one that comes with prune."""
    if path is None or path.exists():
        return path
    named = Path("cfg") / f"{path.name}.cfg"
    own = not path.suffix and path == Path(path.name) and named.is_file()
    return named if own else shipped.find(path)


def cfgs_read(weights: Path, cfg: Path | None, found: Checkpoint) -> Iterator[Path]:
    """Yield the cfgs that weights may have been read with, which nothing should be written to."""
    if cfg is not None:
        yield cfg
    if found.foreign:
        yield from namesakes(weights)


def class_names(names: Names | None) -> tuple[str, ...] | None:
    """Read class names: names between commas, a file of names, or a data set's description.

    What ends as such files do is a file, and so is what has a path separator and no comma.

    Raises:
        InputError: it names no class, or the file cannot be read.
    """
    if not isinstance(names, str):
        return None if names is None else tuple(names)
    from prune.data.classes import NAME_SUFFIXES, names_of_file

    suffix = Path(names).suffix.lower()
    if suffix in _DESCRIPTIONS:
        from prune.data.spec import load_names

        return load_names(Path(names))
    if leads_to_file(names):
        return tuple(names_of_file(Path(names)))
    if suffix in NAME_SUFFIXES or ("," not in names and ("/" in names or os.sep in names)):
        raise InputError(
            f"cannot read the class names in {names}: No such file; name a file with one per line, "
            "or the classes themselves, e.g. --names person,car"
        )
    found = tuple(name.strip() for name in names.split(",") if name.strip())
    if not found:
        raise InputError(f"--names {names!r} names no class; write e.g. --names person,car")
    return found
