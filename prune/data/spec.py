"""data.yaml: which pictures belong to which split, and what the classes are called."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from loguru import logger

from prune.data.pictures import SUFFIXES, is_picture
from prune.errors import DataError, InputError, unreadable

ONE_CLASS = "object"
SPLITS = ("train", "val", "test")
_KNOWN = frozenset({*SPLITS, "path", "nc", "names"})


@dataclass(frozen=True)
class DataSpec:
    """A data set: the yaml it came from, the classes' names, the sorted pictures of each split.

    Where all classes count as one, `merged` is how many the label files number (see labels.read).
    """

    path: Path
    names: tuple[str, ...]
    splits: Mapping[str, tuple[Path, ...]]
    merged: int | None = None

    def pictures(self, split: str) -> tuple[Path, ...]:
        """Return a split's pictures.

        Raises:
            DataError: the data set has no such split.
        """
        if split not in self.splits:
            raise DataError(f"{self.path} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def expect_classes(self, names: Sequence[str], *, of: Path) -> None:
        """Refuse a detector of other classes: not as many, or the same in another order.

        Names that differ otherwise are taken for other words for the same.

        Args:
            names: of the detector's classes.
            of: the detector's file, for the message.

        Raises:
            InputError: the classes differ.
        """
        if len(names) != len(self.names):
            raise InputError(
                f"{of} detects {len(names)} classes ({few(names)}) but {self.path} has "
                f"{len(self.names)} ({few(self.names)}); they must agree"
            )
        if reordered(names, self.names):
            raise InputError(
                f"{of} numbers its classes {few(names)} but {self.path} {few(self.names)}; they "
                "must agree"
            )

    def as_one_class(self) -> DataSpec:
        """Copy a data set so that all of its classes are one, called "object"."""
        if len(self.names) == 1:
            return self
        return replace(self, names=(ONE_CLASS,), merged=len(self.names))


def reordered(first: Sequence[str], second: Sequence[str]) -> bool:
    """Tell whether two lists have the same names, numbered otherwise."""
    return list(first) != list(second) and sorted(first) == sorted(second)


def few(names: Sequence[str]) -> str:
    """List the first five names."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def load(path: Path, *, splits: Collection[str] = (), optional: Collection[str] = ()) -> DataSpec:
    """Read a data.yaml as YOLO tools write them.

    A split is a folder (searched with its subfolders), a glob, a .txt list of pictures, or a list
    of these; each is relative to the yaml's own folder, or to `path:` in it, which itself is
    relative to the yaml's folder. Lines of a list file that start with ./ are relative to the list
    file. `names` is a list or a dictionary from number to name; `nc` may be left out. Other keys
    are ignored with a note; `download:` is never run.

    Args:
        path: the yaml file.
        splits: the splits that are needed; when empty, all that the file names.
        optional: splits to read too where the file names them; without pictures they are left out
            with a note, since published files name test pictures that nobody has.

    Raises:
        DataError: the file is missing or broken, a split is missing or holds no picture, or names
            and nc disagree.
    """
    path = Path(path)
    document = _document(path)
    names = _names(document, path)
    ignored = sorted(str(key) for key in document if key not in _KNOWN)
    if ignored:
        logger.warning(f"{path}: ignored {', '.join(f'{key}:' for key in ignored)}")
    wanted = splits or [name for name in SPLITS if document.get(name)]
    if not wanted:
        raise DataError(f"{path}: no train:, val: or test: that says where the pictures are")
    root = path.parent / _text(document.get("path") or "", "path", path)
    found = {name: _split(document.get(name), name, root, path) for name in wanted}
    for name in optional:
        if document.get(name):
            try:
                found[name] = _split(document[name], name, root, path)
            except DataError as error:
                logger.warning(f"{error}; the split is left out")
    return DataSpec(path=path, names=names, splits=found)


def load_names(path: Path) -> tuple[str, ...]:
    """Read only the classes' names from a data.yaml; the pictures need not be there.

    Raises:
        DataError: the file is missing or broken, or names and nc disagree.
    """
    return _names(_document(path), path)


def _document(path: Path) -> dict[object, object]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text file: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise DataError(f"{path}:{line}: broken YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise DataError(f"{path}: broken YAML: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: no data set description; it needs train:, val: and names:")
    return document


def _names(document: Mapping[object, object], path: Path) -> tuple[str, ...]:
    given = document.get("names")
    if isinstance(given, dict):
        if set(given) != set(range(len(given))):
            raise DataError(f"{path}: names must be numbered 0 to {len(given) - 1} without gaps")
        given = [given[i] for i in range(len(given))]
    if not isinstance(given, list) or not given:
        raise DataError(f"{path}: names: must list the classes, e.g. names: [cat, dog]")
    names = tuple(_name(value, path) for value in given)
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{path}: names: has {name!r} twice; each class needs a name of its own"
            )
    count = document.get("nc", len(names))
    if count != len(names):
        raise DataError(f"{path}: nc is {count}, but names has {len(names)} entries")
    return names


def _name(value: object, path: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # YAML reads a bare no, off or yes as a truth value
        raise DataError(f"{path}: {value!r} in names: is no text; put it in quotes")
    return str(value).strip()


def _text(value: object, key: str, path: Path) -> str:
    if not isinstance(value, str):
        raise DataError(f"{path}: {key}: is {value!r}; it must be a path")
    return value


def _split(value: object, name: str, root: Path, path: Path) -> tuple[Path, ...]:
    if not value:
        raise DataError(f"{path}: no split {name!r}; add {name}: with a folder of pictures")
    entries = value if isinstance(value, list) else [value]
    found = {
        picture
        for entry in entries
        for picture in _pictures(root / _text(entry, name, path), root, f"{path}: {name}")
    }
    return tuple(sorted(found))


def _pictures(entry: Path, root: Path, where: str) -> list[Path]:
    """List the pictures of a folder, glob, list file or single picture."""
    if entry.is_dir():
        found = _only_pictures(entry.rglob("*"))
    elif entry.suffix == ".txt":
        found = list(_listed(entry, root))
    elif entry.is_file() and is_picture(entry):
        found = [entry]
    elif any(sign in str(entry) for sign in "*?["):
        found = _only_pictures(_glob(entry))
    else:
        raise DataError(f"{where}: {entry} does not exist")
    if not found:
        raise DataError(f"{where}: no pictures in {entry} (suffixes {' '.join(sorted(SUFFIXES))})")
    return found


def _only_pictures(paths: Iterable[Path]) -> list[Path]:
    # A dangling link counts too: naming it later beats leaving a picture out in silence.
    return [path for path in paths if is_picture(path) and not path.is_dir()]


def _glob(pattern: Path) -> Iterator[Path]:
    anchor = Path(pattern.anchor)
    return anchor.glob(str(pattern.relative_to(anchor)))


def _listed(listing: Path, root: Path) -> Iterator[Path]:
    """Yield the pictures a list file names.

    Raises:
        DataError: the list cannot be read, or a line names no existing picture.
    """
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {listing}: {unreadable(error)}") from error
    for number, line in enumerate(lines, start=1):
        entry = line.strip()
        if not entry:
            continue
        picture = (listing.parent if entry.startswith("./") else root) / entry
        if not is_picture(picture) or not picture.is_file():
            raise DataError(f"{listing}:{number}: {picture} is no picture")
        yield picture
