"""Worker processes: how they start, and that they end with the process they work for."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.context import BaseContext

import cv2


def context(preload: Sequence[str]) -> BaseContext:
    """Start workers from a clean server process: forking one that runs threads can hang.

    Args:
        preload: modules that the server imports once, so that a further worker costs milliseconds.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver  # not to be had on Windows

    serving = multiprocessing.get_context("forkserver")
    serving.set_forkserver_preload(list(preload))
    forkserver.ensure_running()  # it imports while the caller goes on, e.g. to build the network
    return serving


def start(_: int = 0) -> None:
    """Keep this worker to one thread, and its end to the main process.

    Ctrl-C reaches the whole group of processes; what follows from it is for the main one to decide.
    """
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this worker when the main process is gone, however it went.

    torch's own check looks for a new parent, but a worker's parent is the server, which lives as
    long as any worker does.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
