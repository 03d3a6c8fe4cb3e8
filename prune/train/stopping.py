"""What ends a run before its last epoch: a signal, or metrics that do not improve.

On Ctrl-C, SIGTERM and SIGHUP the current step is finished and saved first.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

from prune.common.notes import Report
from prune.common.signals import handled
from prune.train.checkpointing import Row, fitness

_ECHO_S = 5.0  # seconds within which a launcher repeats a signal

# Tells whether the run was asked to stop.
StopRequested = Callable[[], bool]


def never() -> bool:
    """Request no stop."""
    return False


@contextmanager
def catch_signals(report: Report, *, launched: bool = False) -> Iterator[StopRequested]:
    """Turn the first signal into a request to stop; a second one ends the process at once.

    Args:
        report: called once, on the first signal; from a thread, as the signal may interrupt a line
            of the same log, whose lock cannot be taken twice.
        launched: whether torchrun or `prune auto` started the process. On Ctrl-C these repeat the
            signal that the terminal has sent, so that one soon after the first does not count.

    Raises:
        KeyboardInterrupt: on a second signal.
    """
    times: list[float] = []  # of the signals, in seconds
    lines: SimpleQueue[str] = SimpleQueue()  # the one queue that a signal's handler may put into

    def report_lines() -> None:
        while line := lines.get():
            report(line)

    reporter = threading.Thread(target=report_lines, daemon=True)
    reporter.start()

    def note(number: int, _: FrameType | None) -> None:
        times.append(time.monotonic())
        if launched and 0 < times[-1] - times[0] < _ECHO_S:
            return
        if len(times) > 1:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        lines.put(f"{name}: finishing the step and saving; again ends at once")

    try:
        with handled(note, "SIGINT", "SIGTERM", "SIGHUP"):
            yield lambda: bool(times)
    finally:
        lines.put("")
        reporter.join()


def fitnesses(rows: Sequence[Row]) -> list[float]:
    """Return the fitness of every evaluated epoch."""
    return [fitness(row) for row in rows if "map" in row]


def out_of_patience(rows: Sequence[Row], patience: int) -> str:
    """Return why a run should stop before its end, as its fitness does not grow; else ""."""
    found = fitnesses(rows)
    if not patience or not found:
        return ""
    best = found.index(max(found))
    if len(found) - 1 - best < patience:
        return ""
    epoch = [row["epoch"] for row in rows if "map" in row][best]
    return (
        f"stopped early: the fitness {found[best]:.4f} of epoch {epoch:.0f} has stood for "
        f"{len(found) - 1 - best} evaluations (patience {patience})"
    )
