"""The names of a data set's classes, in the forms that tools write them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.common import schema
from prune.common.inputs import leads_to_file, printable, read_text, shown
from prune.common.notes import note
from prune.common.plain_json import BrokenJsonError, read_json
from prune.errors import DataError

MOST_CLASSES = 1_000_000  # the largest public vocabularies have some ten thousand
NAME_SUFFIXES = frozenset({".names", ".txt", ".labels", ".json"})


def read_names(given: object, count: object, *, path: Path, working: Path) -> tuple[str, ...]:
    """Read the names of the classes.

    Args:
        given: a list, a mapping from number to name or from name to number, a text with commas, the
            path of a file with a name per line, or None.
        count: how many classes there are (`nc`), or None; alone it names them 0, 1, 2, ...
        path: the data set description, for messages; a file of names lies relative to its folder.
        working: the working folder, to which such a file may be relative as well.

    Raises:
        DataError: there are no names, two are the same, or `count` is another number.
    """
    expected = _count(count, path)
    if given is None and expected:
        note(f"{path} names no classes; they are called 0 to {expected - 1} (nc: {expected})")
        return tuple(map(str, range(expected)))
    listed = _listed(given, path, working)
    if not listed:
        raise DataError(f"{path}: names: must list the classes, e.g. names: [cat, dog]")
    names = tuple(_name(value, path) for value in listed)
    for name, times in Counter(names).items():
        if times > 1:
            raise DataError(
                f"{path}: names: has {shown(name)} twice; each class needs a name of its own"
            )
    if expected not in (None, len(names)):
        raise DataError(f"{path}: nc is {expected}, but names has {len(names)} entries")
    return names


def names_of_file(path: Path) -> list[str]:
    """Read a file of names: one per line, or the categories of Label Studio's notes.json.

    Raises:
        DataError: it cannot be read, or names no class.
    """
    text = read_text(path, "names", error=DataError, called="the class names in")
    if path.suffix == ".json":
        names = _of_notes(text, path)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path} names no class; write one name per line")
    return names


def _of_notes(text: str, path: Path) -> list[str]:
    try:
        found: Any = read_json(text)
    except BrokenJsonError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    schema.expect(found, _NOTES, where=str(path), error=DataError)
    return [entry["name"] for entry in sorted(found["categories"], key=lambda one: one["id"])]


_CATEGORY = schema.mapping({"id": schema.whole(), "name": schema.text()})
_NOTES = schema.mapping({"categories": schema.listed(_CATEGORY)})


def _count(count: object, path: Path) -> int | None:
    if count is None:
        return None
    number = _index(count)
    if number is None or not 1 <= number <= MOST_CLASSES:
        raise DataError(
            f"{path}: nc is {shown(count)}; it must be the number of classes, up to "
            f"{MOST_CLASSES:,}, e.g. nc: 2"
        )
    return number


def _listed(given: object, path: Path, working: Path) -> Sequence[object]:
    if isinstance(given, Mapping):
        return _numbered(given, path)
    if isinstance(given, str):
        return _of_text(given.strip(), path, working)
    return given if isinstance(given, list) else []


def _of_text(text: str, path: Path, working: Path) -> list[str]:
    """Read the file that a text names, or the names in the text itself."""
    found = file_of_names(text, path, working)
    if found is not None:
        return names_of_file(found)
    bare = _bare(text)
    if bare.suffix.lower() in NAME_SUFFIXES and "," not in text:
        raise DataError(
            f"{path}: names: {printable(text)} does not exist; write the names, e.g. names: [cat, "
            f"dog], or the path of a file with a name per line, relative to "
            f"{path.parent.absolute()}"
        )
    return [name.strip() for name in text.strip("[]").split(",") if name.strip()]


def file_of_names(given: object, path: Path, working: Path) -> Path | None:
    """Find the file that `names:` of a description names; None where it is no file's name."""
    text = given.strip() if isinstance(given, str) else ""
    bare = _bare(text)
    places = [path.parent / bare, working / bare, path.parent / bare.name]
    return next((one for one in places if text and leads_to_file(one)), None)


def _bare(text: str) -> Path:
    return Path(text.replace("\\", "/"))


def _numbered(given: Mapping[object, object], path: Path) -> list[object]:
    """Order a mapping from number to name; keys may be texts, and names may be the keys."""
    by_number = {_index(key): value for key, value in given.items()}
    if None in by_number:
        by_number = {_index(value): key for key, value in given.items()}
    if None in by_number or len(by_number) < len(given):
        raise DataError(
            f"{path}: names: must be numbered, each class by a number of its own, e.g. "
            "names: {0: cat, 1: dog}"
        )
    missing = [number for number in range(len(given)) if number not in by_number]
    if missing:
        raise DataError(
            f"{path}: names: has no class {missing[0]}; {len(given)} names must be numbered 0 to "
            f"{len(given) - 1} without gaps"
        )
    return [by_number[number] for number in range(len(given))]


def _index(key: object) -> int | None:
    if isinstance(key, bool) or not isinstance(key, str | int):
        return None
    text = str(key).strip()
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _name(value: object, path: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # YAML reads a bare no, off or yes as a truth value
        raise DataError(f"{path}: {shown(value)} in names: is no text; put it in quotes")
    return str(value).strip()
