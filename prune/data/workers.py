"""Worker processes: how they start, and that they end with the process they work for."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

import cv2

from prune.common import child_processes, streams


def _known(*names: str) -> list[signal.Signals]:
    """Return those of some signals that this system has."""
    return [number for number in signal.Signals if number.name in names]


# What reaches the whole group of processes: Ctrl-C in a terminal, `timeout`, a batch system, a
# terminal that closes. What follows from it is for the main process to decide.
_OF_THE_GROUP = _known("SIGINT", "SIGTERM", "SIGHUP")
# What torch reports in a line of its own before it ends a worker; the main process reports it.
_FAULTS = _known("SIGBUS", "SIGSEGV", "SIGFPE")
_SETTLING_S = 1.0  # a process's files and pipes close before its exit status can be read

if sys.platform == "win32":
    from multiprocessing.context import SpawnContext as _Base
    from multiprocessing.context import SpawnProcess as Worker

    def _serve(preload: Sequence[str]) -> None:
        """Do nothing: there is no server, and every worker starts anew."""

else:
    from multiprocessing import forkserver, popen_forkserver, resource_tracker
    from multiprocessing.context import ForkServerContext as _Base
    from multiprocessing.context import ForkServerProcess

    class _Popen(popen_forkserver.Popen):
        """A worker's handle: to terminate it is to kill it, for it is deaf and has nothing to save.

        An error that leaves workers behind sends them to multiprocessing's exit, which terminates
        each once and then waits for ever; torch does nearly the same.
        """

        def terminate(self) -> None:
            self.kill()

    class Worker(ForkServerProcess):
        """A process that starts from the server."""

        @staticmethod
        def _Popen(process_obj: BaseProcess) -> _Popen:  # noqa: N802  # multiprocessing's name
            return _Popen(process_obj)

    def _serve(preload: Sequence[str]) -> None:
        """Start the server, deaf to signals, and its workers with it.

        It imports while the caller goes on, e.g. to build the network. A signal that came while the
        server imports would end it with a traceback.
        """
        forkserver.set_forkserver_preload(list(preload))
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
        try:
            with child_processes.out_of_sight():
                resource_tracker.ensure_running()  # it lets some of the signals through again
                signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_GROUP)
                forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Unrelated(Worker):
    """A worker that knows nothing of the user's script: it would run it again from its top.

    multiprocessing does so for functions that are defined there, and none of ours are; a script
    needs no `if __name__ == "__main__"` then, and a worker starts faster.
    """

    def start(self) -> None:
        """Start."""
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            super().start()
        finally:
            sys.modules["__main__"] = script


class Context(_Base):
    """Starts workers from a clean server process: forking one that runs threads can hang.

    Args:
        preload: modules that the server imports once, so that a further worker costs milliseconds.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self._started: list[Worker] = []
        _serve(preload)

    def Process(self, *args: Any, **kwargs: Any) -> Worker:  # type: ignore[override]  # noqa: N802  # multiprocessing's name for a class
        """Make a worker, which is to be started."""
        worker = _Unrelated(*args, **kwargs)
        self._started.append(worker)
        return worker

    def ended(self) -> list[int]:
        """Return the exit statuses of workers that ended otherwise than they should.

        Negative ones are the numbers of signals. A worker that is about to end is waited for.
        """
        living = [w.sentinel for w in self._started if w.pid is not None and w.exitcode is None]
        if living:
            connection.wait(living, timeout=_SETTLING_S)
        return [worker.exitcode for worker in self._started if worker.exitcode]


def start(_: int = 0) -> None:
    """Keep this worker to one thread, and its end to the main process."""
    cv2.setNumThreads(0)
    streams.log_remarks()  # as the main process does
    for number in _OF_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    for number in _FAULTS:
        signal.signal(number, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _OF_THE_GROUP)  # blocked by the server
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
