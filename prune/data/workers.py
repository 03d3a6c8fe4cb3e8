"""Worker processes: how they start, and that they end with the process they work for."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing.context import BaseContext
from types import FrameType

import cv2

from prune import streams


def context(preload: Sequence[str]) -> BaseContext:
    """Start workers from a clean server process: forking one that runs threads can hang.

    Args:
        preload: modules that the server imports once, so that a further worker costs milliseconds.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    serving = multiprocessing.get_context("forkserver")
    serving.set_forkserver_preload(list(preload))
    _serve()
    return serving


def _serve() -> None:
    """Start the server, deaf to signals, and its workers with it until they say otherwise.

    It imports while the caller goes on, e.g. to build the network. Signals that reach the whole
    group of processes are for the main one to act on; one that comes while the server imports would
    end it with a traceback.
    """
    from multiprocessing import forkserver, resource_tracker  # not to be had on Windows

    resource_tracker.ensure_running()  # first: starting it lets the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(_: int = 0) -> None:
    """Keep this worker to one thread, and its end to the main process.

    Ctrl-C reaches the whole group of processes; what follows from it is for the main one to decide.
    """
    cv2.setNumThreads(0)
    streams.log_remarks()  # as the main process does
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))  # blocked by its server
    threading.Thread(target=_follow_parent, daemon=True).start()


def start_patient(number: int = 0) -> None:
    """Start a worker that outlives one SIGTERM, so that the main process can finish its step.

    `timeout`, a batch system and systemd send it to the whole group. A second one is deadly: that
    is how torch and multiprocessing end a worker that does not end by itself.
    """
    signal.signal(signal.SIGTERM, _once)
    start(number)


def _once(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


def _follow_parent() -> None:
    """End this worker when the main process is gone, however it went.

    torch's own check looks for a new parent, but a worker's parent is the server, which lives as
    long as any worker does.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
