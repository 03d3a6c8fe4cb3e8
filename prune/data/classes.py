"""The names of a data set's classes, in the forms that tools write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from prune.errors import DataError
from prune.inputs import read_text
from prune.notes import note

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
    wanted = _count(count, path)
    if given is None and wanted:
        note(f"{path} names no classes; they are called 0 to {wanted - 1} (nc: {wanted})")
        return tuple(map(str, range(wanted)))
    listed = _listed(given, path, working)
    if not listed:
        raise DataError(f"{path}: names: must list the classes, e.g. names: [cat, dog]")
    names = tuple(_name(value, path) for value in listed)
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{path}: names: has {name!r} twice; each class needs a name of its own"
            )
    if wanted not in (None, len(names)):
        raise DataError(f"{path}: nc is {wanted}, but names has {len(names)} entries")
    return names


def names_of_file(path: Path) -> list[str]:
    """Read a file of names: one per line, or the categories of Label Studio's notes.json.

    Raises:
        DataError: it cannot be read, or names no class.
    """
    text = read_text(path, error=DataError, called="the class names in")
    if path.suffix == ".json":
        names = _of_notes(text, path)
    else:
        names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise DataError(f"{path} names no class; write one name per line")
    return names


def _of_notes(text: str, path: Path) -> list[str]:
    try:
        categories = json.loads(text)["categories"]
        return [str(entry["name"]) for entry in sorted(categories, key=lambda entry: entry["id"])]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} has no categories with id and name: {error}") from error


def _count(count: object, path: Path) -> int | None:
    if count is None:
        return None
    text = str(count).strip()
    if isinstance(count, bool) or not text.isdecimal() or int(text) < 1:
        raise DataError(f"{path}: nc is {count!r}; it must be the number of classes, e.g. nc: 2")
    return int(text)


def _listed(given: object, path: Path, working: Path) -> Sequence[object]:
    if isinstance(given, Mapping):
        return _numbered(given, path)
    if isinstance(given, str):
        return _of_text(given.strip(), path, working)
    return given if isinstance(given, list) else []


def _of_text(text: str, path: Path, working: Path) -> list[str]:
    """Read the file that a text names, or the names in the text itself."""
    bare = Path(text.replace("\\", "/"))
    places = [path.parent / bare, working / bare, path.parent / bare.name]
    for place in places:
        if text and place.is_file():
            return names_of_file(place)
    if bare.suffix.lower() in NAME_SUFFIXES and "," not in text:
        raise DataError(
            f"{path}: names: {text} does not exist; write the names, e.g. names: [cat, dog], or "
            f"the path of a file with a name per line, relative to {path.parent.absolute()}"
        )
    return [name.strip() for name in text.strip("[]").split(",") if name.strip()]


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
    text = str(key).strip()
    return int(text) if text.isdecimal() and not isinstance(key, bool) else None


def _name(value: object, path: Path) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        # YAML reads a bare no, off or yes as a truth value
        raise DataError(f"{path}: {value!r} in names: is no text; put it in quotes")
    return str(value).strip()
