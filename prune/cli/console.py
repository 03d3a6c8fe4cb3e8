"""What commands print: tables and JSON on stdout, log lines and bars on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loguru import Logger
    from rich.progress import Progress


def logger(*, quiet: bool = False) -> Logger:
    """Return loguru's logger, set to short lines on stderr, or to log nothing at all.

    Of several processes that train together, all but the first one are quiet.
    """
    from loguru import logger as log

    log.remove()
    if not quiet:
        log.add(sys.stderr, format="{message}", level="INFO", colorize=False)
    return log


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    print(json.dumps(document, indent=1, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout; numbers are set to the right, and no line is cut off a terminal."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [
        max(len(name), *(len(row[i]) for row in cells)) if cells else len(name)
        for i, name in enumerate(columns)
    ]
    right = [
        all(not isinstance(row[i], str) for row in rows) and bool(rows) for i in range(len(columns))
    ]
    print(_line(columns, widths, right))
    print("  ".join("-" * width for width in widths))
    for row in cells:
        print(_line(row, widths, right))


def print_changes(totals: Mapping[str, tuple[int, int]]) -> None:
    """Print what each total was before and after, and its change in percent."""
    rows = [(name, a, b, f"{100 * (b / a - 1):+.1f} %") for name, (a, b) in totals.items()]
    print_table(("", "before", "after", "change"), rows)


def progress() -> Progress:
    """Make a progress bar on stderr; nothing is drawn where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True, no_color="NO_COLOR" in os.environ),
        disable=not sys.stderr.isatty(),
    )


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = (
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(cells, widths, right, strict=True)
    )
    return "  ".join(padded).rstrip()


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
