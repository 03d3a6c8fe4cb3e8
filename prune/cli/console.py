"""What commands print: tables and JSON on stdout, log lines and bars on stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from prune.common import streams
from prune.common.visible import visible

if TYPE_CHECKING:
    from loguru import Logger
    from rich.progress import Progress


def logger(*, quiet: bool = False) -> Logger:
    """Return loguru's logger, set to short lines on stderr, or to log nothing at all.

    Of several processes that train together, all but the first one are quiet.
    """
    from loguru import logger as log

    streams.log_remarks()
    if quiet:
        log.remove()
    return log


def print_json(document: object) -> None:
    """Print one JSON document on stdout, in ASCII."""
    text = json.dumps(document, indent=1, default=str)
    print(text.replace("\x7f", "\\u007f"))  # the one control character that json leaves as it is


def print_text(text: str) -> None:
    """Print one line on stdout; a terminal that is narrower gets it in several."""
    print(streams.fitted(visible(text), sys.stdout))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout that fits the terminal; numbers are set to the right.

    Where it is too wide, texts continue on the next line; where that is not enough, the columns
    that do not fit follow in a table of their own, which begins with the first column again.
    """
    cells = [[_text(value) for value in row] for row in rows]
    right = [
        bool(rows) and all(not isinstance(row[i], str) for row in rows) for i in range(len(columns))
    ]
    table = [
        _Column(visible(name), [row[i] for row in cells], right[i])
        for i, name in enumerate(columns)
    ]
    room = shutil.get_terminal_size().columns
    for number, block in enumerate(_blocks(table, room)):
        if number:
            print()
        for line in _lines(block, room):
            print(line)


def print_changes(totals: Mapping[str, tuple[int, int]]) -> None:
    """Print what each total was before and after, and its change in percent."""
    rows = [(name, a, b, f"{100 * (b / a - 1):+.1f} %") for name, (a, b) in totals.items()]
    print_table(("", "before", "after", "change"), rows)


def progress() -> Progress:
    """Make a progress bar on stderr; nothing is drawn where stderr is no terminal.

    On a narrow terminal the end of the note goes; name, steps and time left stay.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    whole = Column(no_wrap=True)
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    return Progress(
        TextColumn("{task.description}", table_column=whole),
        BarColumn(bar_width=12),
        MofNCompleteColumn(table_column=whole),
        TimeRemainingColumn(table_column=whole),
        TextColumn("{task.fields[note]}", table_column=rest),
        console=Console(file=streams.bare(sys.stderr), no_color="NO_COLOR" in os.environ),
        disable=not sys.stderr.isatty(),
        expand=True,
    )


@dataclass(frozen=True)
class _Column:
    """A column of a table: its name, the text of its cells, and the side it is set to."""

    name: str
    cells: list[str]
    right: bool

    @property
    def width(self) -> int:
        """The width of its longest cell."""
        return max(map(len, [self.name, *self.cells]))

    @property
    def least(self) -> int:
        """The width that it needs where texts continue on the next line: that of a word."""
        if self.right:
            return self.width
        words = (word for cell in self.cells for word in cell.split())
        return max(len(self.name), *map(len, words), 0)

    def pad(self, text: str, width: int) -> str:
        return text.rjust(width) if self.right else text.ljust(width)


_GAP = "  "


def _blocks(table: Sequence[_Column], room: int) -> Iterator[list[_Column]]:
    """Share out columns among tables that fit; each begins with the first column.

    A first column that takes half of the room, a long path, would stand alone each time: such a
    table is left to the terminal.
    """
    first, *rest = table
    if first.least > room // 2:
        yield [*table]
        return
    block = [first]
    for column in rest:
        if len(block) > 1 and _total([*block, column]) > room:
            yield block
            block = [first]
        block.append(column)
    yield block


def _total(columns: Sequence[_Column]) -> int:
    """Return the least width of a table."""
    return sum(column.least for column in columns) + len(_GAP) * (len(columns) - 1)


def _lines(block: Sequence[_Column], room: int) -> Iterator[str]:
    widths = [column.width for column in block]
    while sum(widths) + len(_GAP) * (len(block) - 1) > room:
        loose = [i for i, column in enumerate(block) if widths[i] > column.least]
        if not loose:
            break  # a single word that is wider than the terminal, such as a path
        widest = max(loose, key=lambda i: widths[i])
        widths[widest] -= 1
    yield from _row([column.name for column in block], block, widths)
    yield _GAP.join("-" * width for width in widths)
    for cells in zip(*(column.cells for column in block), strict=True):
        yield from _row(cells, block, widths)


def _row(cells: Sequence[str], block: Sequence[_Column], widths: Sequence[int]) -> Iterator[str]:
    """Set a row; a text that is wider than its column continues on the next line."""
    wrapped = [
        textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)
        if len(cell) > width
        else [cell]
        for cell, width in zip(cells, widths, strict=True)
    ]
    for parts in zip_longest(*wrapped, fillvalue=""):
        padded = map(_Column.pad, block, parts, widths)
        yield _GAP.join(padded).rstrip()


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else visible(str(value))
