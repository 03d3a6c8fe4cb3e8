"""Processes that a command starts: they end with it, and import nothing from the current folder."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from prune.errors import PruneError, RunError

if TYPE_CHECKING:
    import subprocess

Result = TypeVar("Result")
STOPPED = 130  # exit status of a process that was stopped by a signal
_SAFE = "PYTHONSAFEPATH"  # heeded by Python 3.11 and later
_GRACE_S = 1.0  # Ctrl-C in a terminal reaches the child as well

# A Python that is told a program by -c looks for modules in the current folder first.
_HIDING = "import sys; sys.path[:] = [folder for folder in sys.path if folder]; "
_ENTERING = "from prune.common.child_processes import enter; enter()"

_entered = False


def hide_current_folder() -> None:
    """Have no Python process that this one starts import modules from the current folder.

    In it may be anything: a clone of this project, called prune; a json.py or random.py.
    """
    if not _exposed():
        os.environ.setdefault(_SAFE, "1")


@contextmanager
def out_of_sight() -> Iterator[None]:
    """Start Python processes from a folder without modules, where Python does not heed `_SAFE`.

    They are told by multiprocessing, with -c, what to run, and go where this process is before they
    do it.
    """
    if _exposed() or (sys.version_info >= (3, 11) and os.environ.get(_SAFE)):
        yield
        return
    here = os.open(".", os.O_RDONLY)
    os.chdir(sys.prefix)
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def _exposed() -> bool:
    """Tell whether this process itself looks into the current folder first.

    The user has chosen that: `python -m prune` from a clone. Children then run the same code.
    """
    try:
        here = os.path.realpath(".")
    except FileNotFoundError:  # somebody has removed it
        return False
    library = str(Path(os.__file__).parent)
    before = sys.path[: sys.path.index(library)] if library in sys.path else sys.path
    return any(os.path.realpath(folder or ".") == here for folder in before)


def run(
    entry: str, words: Sequence[str], *, quiet: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run one of our functions in a process of its own; return its status and what it prints.

    The process ends with this one, however that goes: its standard input is a pipe, which then
    closes. When this one is stopped, the other is, and may save what it has; stopped again, it is
    killed.

    Args:
        entry: a function that returns an exit status, e.g. "prune.cli:main".
        words: what it finds in sys.argv, after the name.
        quiet: drop what it writes to stderr.

    Raises:
        KeyboardInterrupt: this process was stopped; the other has ended.
    """
    import subprocess

    program = ("" if _exposed() else _HIDING) + _ENTERING
    with subprocess.Popen(
        [sys.executable, "-c", program, entry, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        text=True,
    ) as process:
        try:
            printed = _drained(process)
        except KeyboardInterrupt:
            _stop(process)
            raise
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, printed)


def _drained(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    printed = process.stdout.read()
    process.wait()
    return printed


def _stop(process: subprocess.Popen[str]) -> None:
    """Have a process end as a user would; kill it when this one is stopped again meanwhile."""
    import subprocess

    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            return
        process.terminate()
        _drained(process)
    except BaseException:
        process.kill()
        raise


def call(entry: str, function: Callable[..., Result], config: object) -> Result:
    """Call one of our functions in a process of its own, which gives its memory back at its end.

    Args:
        entry: answers in the other process, by `answer`, e.g. "prune.cli:answer_call".
        function: of one argument, by its module's name, or a `functools.partial` of such a one.
        config: the argument.

    Raises:
        PruneError: what the function raised, or that its process was ended by a signal.
        KeyboardInterrupt: it was stopped, or this process was; it has saved what it had.
    """
    import pickle
    import signal
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        question, reply = (Path(folder) / name for name in ("question", "reply"))
        question.write_bytes(pickle.dumps((function, config)))
        status = run(entry, [folder]).returncode
        if reply.is_file():
            result = pickle.loads(reply.read_bytes())
            if isinstance(result, PruneError):
                raise result
            return cast(Result, result)
    if status == STOPPED:
        raise KeyboardInterrupt
    how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
    name = getattr(function, "func", function).__name__
    raise RunError(f"the process of {name} was ended {how}")


def answer(folder: Path, **more: object) -> None:
    """Do what `call` asks for and leave the result there, or an error of ours.

    Args:
        folder: where the question is.
        more: arguments that the function gets as well, those of them that it takes.
    """
    import inspect
    import pickle

    function, config = pickle.loads((folder / "question").read_bytes())
    known = inspect.signature(function).parameters
    result: object
    try:
        result = function(config, **{name: more[name] for name in more if name in known})
    except PruneError as error:
        result = error
    (folder / "reply").write_bytes(pickle.dumps(result))


def enter() -> None:
    """Run, in a child, the function that `run` names."""
    import threading

    global _entered
    _entered = True
    threading.Thread(target=_follow_parent, daemon=True).start()
    entry, *words = sys.argv[1:]
    module, function = entry.split(":")
    sys.argv = [module.partition(".")[0], *words]
    sys.exit(getattr(importlib.import_module(module), function)())


def entered() -> bool:
    """Tell whether `run` started this process; what stops the other is then sent on to this one."""
    return _entered


def _follow_parent() -> None:
    """End this process when its parent is gone: nobody else holds the other end of the pipe."""
    while os.read(0, 1):
        pass
    # Not sys.exit, which would end this thread alone; files are written whole or not at all.
    os._exit(1)
