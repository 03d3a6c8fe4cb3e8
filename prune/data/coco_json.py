"""Values out of a COCO file's JSON, checked where they are taken."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from prune.common.digits import real
from prune.common.inputs import shown
from prune.common.plain_json import has_half_characters, read_json_file
from prune.errors import DataError

Entry = Mapping[str, object]

# A key by which files of other formats are known -> whose format it is.
_OTHERS = {
    "_via_img_metadata": "a project of VIA",
    "shapes": "a file of labelme",
    "items": "a file of datumaro",
    "assets": "a project of VoTT",
}


def load(path: Path) -> Entry:
    """Read the file's outermost object.

    Raises:
        DataError: the file is missing, not JSON, or contains something else.
    """
    document = read_json_file(path, "coco", lenient=True, error=DataError)
    if not isinstance(document, dict):
        raise DataError(
            f"{path} is not a COCO file: it contains a {type(document).__name__}; export it as COCO"
        )
    return document


def entries(document: Entry, key: str, path: Path) -> list[Entry]:
    """Take a list of objects.

    Raises:
        DataError: there is none under that key.
    """
    found = document.get(key)
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        own = next((tool for mark, tool in _OTHERS.items() if mark in document), "")
        advice = f"; it is {own}, export it as COCO" if own else ""
        raise DataError(f"{path} is not a COCO instances file: it has no list of {key}{advice}")
    return found


def identity(value: object) -> int | str | None:
    """Return an id as a whole number where it is one, else as text; None is no id.

    Tools write the same id as 7, 7.0 (pandas) and "7" (VIA).
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}(\.0*)?", value.strip()):
        return int(value.partition(".")[0])
    return value if isinstance(value, int) else value.strip() or None


def own_id(entry: Entry, path: Path) -> int | str:
    """Take an entry's id.

    Raises:
        DataError: it is missing or something else than a number or a text.
    """
    found = identity(entry.get("id"))
    if found is None:
        raise DataError(f"{path}: an entry's id is {shown(entry.get('id'))}: {shown(entry)}")
    return found


def text(entry: Entry, key: str, path: Path) -> str:
    """Take a text that is not empty.

    Raises:
        DataError: it is missing or something else.
    """
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path}: an entry has no {key}: {shown(entry)}")
    if has_half_characters(value):
        raise DataError(f"{path}: an entry's {key} is broken Unicode: {shown(value)}")
    return value.strip()


def number(value: object) -> float | None:
    """Return a finite number, also one written as text ("7.5"), or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = real(value) if isinstance(value, str) else float(value)
    except (OverflowError, ValueError):  # beyond the largest float; a text that is no number
        return None
    return found if math.isfinite(found) else None
