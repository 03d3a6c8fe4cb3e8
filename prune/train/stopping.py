"""Ctrl-C, SIGTERM and SIGHUP while a run goes on: the step at hand is finished and saved first."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from prune.common.signals import handled
from prune.train.checkpointing import Row, fitness

_ECHO_S = 5.0  # a launcher's copy of a signal comes within

# Tells whether somebody asked the run to stop.
StopRequested = Callable[[], bool]


def never() -> bool:
    """Go on to the end."""
    return False


@contextmanager
def catch_signals(say: Callable[[str], None], *, launched: bool = False) -> Iterator[StopRequested]:
    """Note signals instead of dying of them; a second one ends the process at once.

    Args:
        say: told once, when the first signal comes; from a thread, for the signal may have come
            amid a line of the same log, whose lock is not to be had twice.
        launched: torchrun or `prune auto` started the process. On Ctrl-C it sends on the signal
            that the terminal has sent already, so that one soon after the first is no second one.

    Raises:
        KeyboardInterrupt: a second signal came.
    """
    came: list[float] = []  # when, in seconds
    lines: SimpleQueue[str] = SimpleQueue()  # the one queue that a signal's handler may put into
    teller = threading.Thread(target=_report_lines, args=(lines, say), daemon=True)
    teller.start()

    def note(number: int, _: FrameType | None) -> None:
        came.append(time.monotonic())
        if launched and 0 < came[-1] - came[0] < _ECHO_S:
            return
        if len(came) > 1:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        lines.put(f"{name}: finishing the step and saving; again ends at once")

    try:
        with handled(note, "SIGINT", "SIGTERM", "SIGHUP"):
            yield lambda: bool(came)
    finally:
        lines.put("")
        teller.join()


def _report_lines(lines: SimpleQueue[str], say: Callable[[str], None]) -> None:
    while line := lines.get():
        say(line)


def fitnesses(rows: Sequence[Row]) -> list[float]:
    """Return the fitness of every scored epoch."""
    return [fitness(row) for row in rows if "map" in row]


def out_of_patience(rows: Sequence[Row], patience: int) -> str:
    """Say why a run should stop before its end: so many scores without a better one; or nothing."""
    found = fitnesses(rows)
    if not patience or not found:
        return ""
    best = found.index(max(found))
    if len(found) - 1 - best < patience:
        return ""
    epoch = [row["epoch"] for row in rows if "map" in row][best]
    return (
        f"stopped early: the fitness {found[best]:.4f} of epoch {epoch:.0f} has stood for "
        f"{len(found) - 1 - best} scores (patience {patience})"
    )
