"""What a data set description contains, whichever tool wrote it: data.yaml or Darknet's .data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prune.common.inputs import printable, read_text, shown
from prune.common.notes import note
from prune.common.plain_yaml import read_yaml_file
from prune.common.wording import few
from prune.data.classes import file_of_names, read_names
from prune.data.rows import NO_KEYPOINTS, Keypoints
from prune.errors import DataError

SPLITS = ("train", "val", "test")
# Split -> the keys under which tools write it, the usual one first; upper case is the same.
KEYS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_OTHER_KEYS = frozenset({"path", "nc", "names", "kpt_shape"})
_LONGEST_PATH = 4096  # letters: what systems take
_EXAMPLE = "train: images/train, val: images/val and names: [cat, dog]"


@dataclass(frozen=True)
class Document:
    """A data set description; nothing in it was looked up on the disk.

    Attributes:
        path: the file, or the folder that stands for it.
        folder: the absolute folder that paths in it are relative to first of all.
        names: of the classes.
        entries: split -> folders, globs, list files and images, as they are written.
        root: `path:`, which comes before every entry; "" where it is not given.
        keypoints: see `rows.Keypoints`.
        names_file: where the names stand, if in a file of their own.
    """

    path: Path
    folder: Path
    names: tuple[str, ...]
    entries: Mapping[str, tuple[str, ...]]
    root: str = ""
    keypoints: Keypoints | None = None
    names_file: Path | None = None


def read_document(path: Path, working: Path) -> Document:
    """Read a data.yaml, or what Darknet calls a .data file.

    Args:
        path: the file.
        working: the absolute working folder; a file of names may be relative to it.

    Raises:
        DataError: the file is missing or broken, or its names cannot be read.
    """
    content = _darknet(path) if path.suffix.lower() == ".data" else _yaml(path)
    lower = {_word(key).lower(): value for key, value in content.items()}
    known = _OTHER_KEYS.union(*KEYS.values())
    ignored = sorted(_word(key) for key in content if _word(key).lower() not in known)
    if ignored:
        note(f"{path}: ignored {few([f'{key}:' for key in ignored], 20)}")
    return Document(
        path=path,
        folder=path.parent.absolute(),
        names=read_names(lower.get("names"), lower.get("nc"), path=path, working=working),
        entries=_entries(lower, path),
        root=_text(lower.get("path") or "", "path", path),
        keypoints=_keypoints(lower, path),
        names_file=file_of_names(lower.get("names"), path, working),
    )


def _word(key: object) -> str:
    """Return a key as text, shortened: keys of a hostile file are shown, too."""
    return printable(key) if isinstance(key, str) else shown(key)


def _yaml(path: Path) -> Mapping[object, object]:
    content = read_yaml_file(path, error=DataError)
    if not isinstance(content, dict):
        raise DataError(f"{path}: no data set description; it needs {_EXAMPLE}")
    return content


def _darknet(path: Path) -> Mapping[object, object]:
    """Read "key = value" lines; what only Darknet's own training needs is left out."""
    content: dict[object, object] = {}
    for number, line in enumerate(read_text(path, error=DataError).splitlines(), start=1):
        key, equals, value = line.partition("#")[0].partition("=")
        if equals:
            content[key.strip().lower()] = value.strip()
        elif key.strip():
            raise DataError(
                f"{path}:{number}: {shown(line.strip())} is no line like train = train.txt"
            )
    renamed = {"classes": "nc"}
    unused = {"backup", "eval", "results", "top", "difficult", "labels"}
    return {renamed.get(str(k), k): v for k, v in content.items() if k not in unused}


def _entries(content: Mapping[str, object], path: Path) -> dict[str, tuple[str, ...]]:
    entries: dict[str, tuple[str, ...]] = {}
    for split, keys in KEYS.items():
        given = [key for key in keys if content.get(key)]
        if len(given) > 1:
            note(f"{path}: {' and '.join(given)} name the same split; {given[0]}: is used")
        if given:
            value = content[given[0]]
            listed = value if isinstance(value, list) else [value]
            entries[split] = tuple(_text(entry, given[0], path) for entry in listed)
    return entries


def _text(value: object, key: str, path: Path) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_PATH:
        raise DataError(f"{path}: {key}: is {shown(value)}; it must be a path")
    return value.strip()


def _keypoints(content: Mapping[str, object], path: Path) -> Keypoints | None:
    """Read kpt_shape; null or [0, 0] means that outlines are outlines."""
    if "kpt_shape" not in content:
        return None
    given = content["kpt_shape"] or list(NO_KEYPOINTS)
    if given == list(NO_KEYPOINTS):
        return NO_KEYPOINTS
    if isinstance(given, list) and len(given) == 2:
        count, size = given
        if isinstance(count, int) and count > 0 and size in (2, 3):
            return count, size
    raise DataError(
        f"{path}: kpt_shape: is {shown(given)}; it must be the number of keypoints and 2 or 3, "
        "e.g. kpt_shape: [17, 3]"
    )
