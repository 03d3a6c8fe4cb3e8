"""--config FILE: a command's options in a YAML file, read as if they had been typed first."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from prune.cli import habits
from prune.errors import InputError

OPTION = "--config"
_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")
_NOTHING = ("", "null", "~", "none")


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add --config; `insert` has put the file's options in its place before a parser looks."""
    parser.add_argument(
        OPTION,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="YAML file of options, e.g. img-size: 320; what is typed counts before it",
    )


def insert(words: Sequence[str], known: Mapping[str, argparse.Action]) -> list[str]:
    """Put the options of --config before those that were typed, which therefore win.

    Raises:
        InputError: the file cannot be read, or it names what is no option of the command.
    """
    rest, paths = _split(words)
    first = next((i for i, word in enumerate(rest) if word.startswith("-")), len(rest))
    read = [word for path in paths for word in _words(Path(path), known)]
    return [*rest[:first], *read, *rest[first:]]


def named(words: Sequence[str]) -> list[str]:
    """List the files that a command line names by --config."""
    return _split(words)[1]


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command's words from the files that --config names."""
    rest: list[str] = []
    paths: list[str] = []
    upcoming = iter(words)
    for word in upcoming:
        option, equals, value = word.partition("=")
        if option != OPTION:
            rest.append(word)
        elif equals:
            paths.append(value)
        else:
            paths += [path for path in [next(upcoming, None)] if path is not None] or [""]
    return rest, paths


def _words(path: Path, known: Mapping[str, argparse.Action]) -> Iterator[str]:
    from prune.common.inputs import shown

    for key, value in _document(path).items():
        option = "--" + key.removeprefix("--").replace("_", "-")
        action = known.get(option)
        if action is None or option in (OPTION, "--help"):
            meant = habits.suggestion(option, known).removeprefix("--")
            hint = f"; did you mean {meant}?" if meant else "; write options as in --help"
            raise InputError(f"{path}: {shown(key)} is not an option of this command{hint}")
        yield from _typed(option, value, takes_value=action.nargs != 0, path=path)


def _typed(option: str, value: object, *, takes_value: bool, path: Path) -> list[str]:
    """Write an option as one would type it; without a value it is left out."""
    from prune.common.inputs import shown

    if isinstance(value, Mapping):
        raise InputError(f"{path}: {option[2:]} holds a mapping; write a value or a list")
    values = [str(one) for one in value] if isinstance(value, list) else [str(value)]
    alone = values[0].lower() if len(values) == 1 else None
    if not takes_value:
        if alone in _YES:
            return [option]
        if alone in (*_NO, *_NOTHING):
            return []
        raise InputError(f"{path}: {option[2:]} is {shown(value)}; it must be true or false")
    if not values or alone in _NOTHING:
        return []
    # One value may begin with a hyphen; several are a list, which --option=value cannot hold.
    return [option, *values] if alone is None else [f"{option}={values[0]}"]


def _document(path: Path) -> dict[str, object]:
    """Read the file, every value as the text that stands there: 0.40 is typed as 0.40."""
    from prune.common.plain_yaml import (
        read_yaml_file,  # here, so that commands without it start fast
    )

    found = read_yaml_file(path, typed=False, called=f"the file of {OPTION},")
    if found in (None, ""):
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold options, one per line, e.g. img-size: 320")
    return {str(key): value for key, value in found.items()}
