"""Bars of loops that take long: on a terminal drawn, elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from prune.common import progress, streams

if TYPE_CHECKING:
    from rich.progress import Progress

_DRAWN_AFTER_S = 1.0  # a loop that is over by then is not worth a bar
_TOLD_AFTER_S = 30.0  # without a terminal; then as often again

_open: list[Progress] = []  # rich draws in one place at a time


@contextmanager
def shown(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a loop on stderr; see `progress.Listener`."""
    bar = _Bar(name, total) if sys.stderr.isatty() else _Lines(name, total)
    try:
        yield bar.show
    finally:
        bar.end()


@contextmanager
def drawn() -> Iterator[None]:
    """Show the loops of the block, and give the terminal back however it ends."""
    try:
        with progress.shown_by(shown):
            yield
    finally:
        for bar in _open:
            bar.stop()  # a loop that was broken off has not ended its own
        _open.clear()


class _Lines:
    """A line now and then, with the time that is left."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.began = self.told = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if done < self.total and now - self.told >= _TOLD_AFTER_S:
            self.told = now
            left = timedelta(seconds=round((now - self.began) / done * (self.total - done)))
            streams.log(f"prune: {self.name}: {done} of {self.total}, about {left} left")

    def end(self) -> None:
        pass


class _Bar:
    """A bar, drawn once the loop has lasted a moment; loops within loops stand below each other."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total = name, total
        self.began = time.monotonic()
        self.drawing: Progress | None = None

    def show(self, done: int) -> None:
        if self.drawing is None and time.monotonic() - self.began > _DRAWN_AFTER_S:
            self.drawing = _drawing()
            self.task = self.drawing.add_task(self.name, total=self.total)
        if self.drawing is not None:
            self.drawing.update(self.task, completed=done)

    def end(self) -> None:
        if self.drawing is None:
            return
        self.drawing.remove_task(self.task)
        if not self.drawing.tasks and self.drawing in _open:
            self.drawing.stop()
            _open.remove(self.drawing)


def _drawing() -> Progress:
    """Return what is drawn in now, or begin to draw; name, count and time left are short enough."""
    from rich.console import Console
    from rich.errors import LiveError
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    if _open:
        return _open[-1]
    console = Console(file=streams.bare(sys.stderr), no_color="NO_COLOR" in os.environ)
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        BarColumn(bar_width=20),
    )
    bar = Progress(*columns, console=console, transient=True)
    try:
        bar.start()
    except LiveError:  # a command draws a bar of its own
        bar = Progress(disable=True)
    _open.append(bar)
    return bar
