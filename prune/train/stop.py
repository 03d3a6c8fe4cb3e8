"""Ctrl-C and SIGTERM while a run goes on: the step at hand is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Tells whether somebody asked the run to stop.
Asked = Callable[[], bool]


def never() -> bool:
    """Go on to the end."""
    return False


@contextmanager
def listening(say: Callable[[str], None]) -> Iterator[Asked]:
    """Note signals instead of dying of them; a second one ends the process at once.

    Args:
        say: told once, when the first signal comes; from a thread, for the signal may have come
            amid a line of the same log, whose lock is not to be had twice.

    Raises:
        KeyboardInterrupt: a second signal came.
    """
    came: list[int] = []
    lines: SimpleQueue[str] = SimpleQueue()  # the one queue that a signal's handler may put into
    teller = threading.Thread(target=_tell, args=(lines, say), daemon=True)
    teller.start()

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        lines.put(f"{name}: finishing the step and saving; again ends at once")

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        lines.put("")
        teller.join()


def _tell(lines: SimpleQueue[str], say: Callable[[str], None]) -> None:
    while line := lines.get():
        say(line)
