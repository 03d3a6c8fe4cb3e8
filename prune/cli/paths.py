"""Paths that no file can have are told before a command starts, whichever option names them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from prune.errors import InputError

_TEXTS = ("resume",)  # options that hold a path as text
_SHOWN = 40  # characters of a path that is too long to print


def expect_usable(options: argparse.Namespace) -> None:
    """Check that the system can look for every path among a command's options.

    Raises:
        InputError: a name is too long, or its folder is closed to us.
    """
    for name, value in vars(options).items():
        for path in _paths(name, value):
            if problem := _problem(path):
                shown = str(path) if len(str(path)) <= 2 * _SHOWN else f"{str(path)[:_SHOWN]}..."
                raise InputError(f"--{name.replace('_', '-')} {shown!r}: {problem}; name another")


def _paths(name: str, value: object) -> Iterator[Path]:
    if name in _TEXTS and isinstance(value, str):
        yield Path(value)
    values = value if isinstance(value, (list, tuple)) else [value]
    yield from (one for one in values if isinstance(one, Path))


def _problem(path: Path) -> str:
    """Say why a path cannot be looked at; "" where it can, also where there is nothing."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return ""  # who reads it says so, and who writes it may make it
    except OSError as error:
        return f"it cannot be used ({error.strerror})"
    except ValueError as error:  # a null character, from a file of options
        return f"it cannot be used ({error})"
    return ""
