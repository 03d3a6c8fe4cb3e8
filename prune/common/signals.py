"""Signals that ask a process to end: handled within a block, and afterwards as they were before."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled(handler: Handler, *names: str) -> Iterator[bool]:
    """Have signals handled; those that the caller ignores, as nohup does, stay ignored.

    Args:
        handler: is called with a signal's number.
        names: "SIGTERM"; those that the system lacks, as Windows does SIGHUP, are left out.

    Yields:
        Whether they are: Python lets the main thread alone handle signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    numbers = [number for name in names if (number := getattr(signal, name, None))]
    # None is a handler that is not Python's, and could not be put back.
    ours = [one for one in numbers if signal.getsignal(one) not in (None, signal.SIG_IGN)]
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield True
    finally:
        for number, old in before.items():
            signal.signal(number, old)
