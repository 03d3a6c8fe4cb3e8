"""Values out of a COCO file's JSON, checked where they are taken."""

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path

from prune.errors import DataError

Entry = Mapping[str, object]


def load(path: Path) -> Entry:
    """Read the file's outermost object.

    Raises:
        DataError: the file is missing, no JSON, or holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: broken JSON: {error.msg}") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} is no COCO file: {error}") from error
    if not isinstance(document, dict):
        raise DataError(f"{path} is no COCO file: it holds a {type(document).__name__}")
    return document


def entries(document: Entry, key: str, path: Path) -> list[Entry]:
    """Take a list of objects.

    Raises:
        DataError: there is none under that key.
    """
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise DataError(f"{path} is no COCO instances file: it has no list of {key}")
    return found


def identity(entry: Entry, key: str, path: Path) -> Hashable:
    """Take an id, a number or a text.

    Raises:
        DataError: it is missing or something else.
    """
    value = entry.get(key)
    if not isinstance(value, int | str):
        raise DataError(f"{path}: an entry's {key} is {value!r}: {str(dict(entry))[:80]}")
    return value


def text(entry: Entry, key: str, path: Path) -> str:
    """Take a text that is not empty.

    Raises:
        DataError: it is missing or something else.
    """
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path}: an entry has no {key}: {str(dict(entry))[:80]}")
    return value.strip()


def number(value: object) -> float | None:
    """Return a finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the largest float
        return None
