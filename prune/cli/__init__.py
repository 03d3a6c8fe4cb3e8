"""The command line: a table of commands, each a file of its own, imported when it is used.

So is what only some of them need: `prune --help` is to be there at once.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, cast

from prune import __version__
from prune.common import signals, streams
from prune.errors import PruneError, RunError

if TYPE_CHECKING:
    from prune.cli.parser import CommandModule, Options

COMMANDS: dict[str, str] = {
    "data": "make or check a data set: voc, coco, shapes, check",
    "train": "train a network, or fine-tune a pruned one (--pt)",
    "val": "evaluate a checkpoint on a split: P, R, mAP",
    "detect": "draw boxes on images, folders, videos, streams",
    "whole": "turn any public checkpoint into one of ours",
    "show": "list layers, couplings and costs of a checkpoint",
    "diff": "compare two checkpoints, layer by layer",
    "conv": "prune single convolutions",
    "layers": "prune a range of layers",
    "global": "prune the whole network to a budget",
    "apply": "carry out a saved plan",
    "depth": "remove whole residual blocks",
    "sensitivity": "what cutting each coupled group alone costs in mAP",
    "export": "write ONNX (checked), ncnn or Darknet files",
    "auto": "prune, fine-tune, quantise and measure down to a latency",
    "quantize": "put an ONNX file into INT8, evaluate and time it",
    "bench": "time files in the runtimes of this machine",
    "doctor": "what this machine and this installation have, and what is missing",
    "completion": "print what a shell needs to complete commands and options",
}


# What no check of ours can see before: a full disk, a quota, a limit of sizes, a broken device.
_MACHINE_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    with streams.opened() as both, signals.handled(_stop, "SIGTERM", "SIGHUP"):
        try:
            status = _main(argv)
        except KeyboardInterrupt:
            streams.log("prune: stopped")
            status = 130
        except SystemExit as leaving:  # of argparse: --help, and options that cannot be read
            raise SystemExit(streams.settled(cast(int, leaving.code or 0), both)) from None
        return streams.settled(status, both)


def _main(argv: Sequence[str] | None) -> int:
    words = [_hyphens(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"prune {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name == "help":  # prune help train, prune help data voc
        return _main([*rest, "--help"])
    if name not in COMMANDS:
        from prune.cli import habits

        meant = habits.COMMANDS.get(name) or habits.suggestion(name, COMMANDS)
        hint = f"; did you mean {meant}?" if meant else "; prune --help lists them"
        streams.log(f"prune: unknown command {name!r}{hint}")
        return 2
    settle()
    return _run(name, rest)


def answer_call() -> int:
    """Do in this process, as a command, what another one asks for; see `child_processes.call`."""
    settle()
    from prune.cli import bars, console
    from prune.common import child_processes

    def work() -> int:
        report = console.logger().info
        with bars.drawn():
            child_processes.answer(Path(sys.argv[1]), report=report, progress=console.progress)
        return 0

    with streams.opened() as both, signals.handled(_stop, "SIGTERM", "SIGHUP"):
        try:
            status = _reported(work)
        except KeyboardInterrupt:
            status = child_processes.STOPPED
        return streams.settled(status, both)


def settle() -> None:
    """Set up the process as every command is; before torch is imported, which reads it."""
    from prune.common import child_processes

    # Threads that wait must not spin for long where others want the processor, a loader's workers
    # first of all: on a busy machine that took steps from 5 s to over 40. Asleep at once, they wake
    # too late for the next operation, which made steps 1.4 times as long: so a few microseconds.
    if os.environ.setdefault("OMP_WAIT_POLICY", "passive") == "passive":
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # The collector walks all that torch's import made again and again: half a second of every cut.
    gc.set_threshold(20_000)
    child_processes.hide_current_folder()


def read(name: str, words: Sequence[str]) -> Options:
    """Read a command's options; where they cannot be read, say why in one line and exit with 2.

    Raises:
        InputError: the file of --config cannot be used.
    """
    from prune.cli import parser

    return parser.read(name, COMMANDS[name], module(name), words)


def module(name: str) -> CommandModule:
    """Import the file of a command."""
    return cast("CommandModule", importlib.import_module(f"prune.cli.{name}"))


def _run(name: str, words: Sequence[str]) -> int:
    from prune.cli import bars, console
    from prune.common import notes

    def work() -> int:
        args = read(name, words)
        notes.forget()
        console.logger()  # remarks of any layer come as plain lines on stderr
        with bars.drawn():
            return module(name).run(args) or 0

    return _reported(work)


def _reported(work: Callable[[], int]) -> int:
    """Return the exit status of some work; what fails for a reason that users know is one line."""
    try:
        return work()
    except OSError as error:
        if error.errno not in _MACHINE_FAILED:
            raise  # a mistake of ours, which keeps its traceback
        where = f"{error.filename}: " if error.filename else ""
        streams.log(f"prune: {where}{error.strerror}")
        return RunError.exit_code
    except MemoryError as error:
        why = str(error) or "what was asked for needs more memory than there is"
        streams.log(
            f"prune: out of memory: {' '.join(why.split())}; smaller images or batches help"
        )
        return RunError.exit_code
    except PruneError as error:
        streams.log(f"prune: {' '.join(str(error).split())}")
        return error.exit_code


def _stop(number: int, frame: FrameType | None) -> None:
    """End a command as Ctrl-C does: what it began to write is cleaned up."""
    raise KeyboardInterrupt


def _overview() -> str:
    rows = "\n".join(f"  {name:11} {text}" for name, text in COMMANDS.items())
    return (
        f"prune {__version__}: make trained detectors small and fast; every cut is verified\n\n"
        f"usage: prune COMMAND [options]    prune COMMAND --help\n\n{rows}"
    )


def _hyphens(word: str) -> str:
    """Let --img_size mean --img-size; values keep their underscores."""
    option, equals, value = word.partition("=")
    return option.replace("_", "-") + equals + value if word.startswith("--") else word
