"""Run one of our commands as a user would, in a process of its own."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence

from prune import streams
from prune.errors import MISSED, RunError, StageError

_STOPPED = 130


def prune(*words: object, allow: Sequence[int] = (0, MISSED)) -> dict[str, object]:
    """Run `prune WORDS --json`, its log on our stderr; return the document it prints.

    Raises:
        KeyboardInterrupt: it was stopped, and has saved what it had.
        StageError: it failed otherwise.
    """
    said = [*map(str, words), "--json"]
    streams.log(f"prune: {shlex.join(['prune', *said])}")
    with subprocess.Popen(
        [sys.executable, "-m", "prune", *said], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode == _STOPPED:
        raise KeyboardInterrupt
    if process.returncode not in allow:
        raise StageError(f"prune {words[0]} could not do it, see above", process.returncode)
    try:
        document: dict[str, object] = json.loads(printed)
    except ValueError as error:
        raise RunError(f"prune {words[0]} printed no document") from error
    return document
