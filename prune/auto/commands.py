"""Run one of our commands as a user would, in a process of its own."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Sequence

from prune.common import child_processes, streams
from prune.errors import MISSED, RunError, StageError

_STOPPED = 130


def prune(*words: object, allow: Sequence[int] = (0, MISSED)) -> dict[str, object]:
    """Run `prune WORDS --json`, its log on our stderr; return the document it prints.

    Raises:
        KeyboardInterrupt: it was stopped, or this process was; it has saved what it had.
        StageError: it failed otherwise.
    """
    said = [*map(str, words), "--json"]
    streams.log(f"prune: {shlex.join(['prune', *said])}")
    done = child_processes.run("prune.cli:main", said)
    status = done.returncode
    if status == _STOPPED:
        raise KeyboardInterrupt
    if status < 0:
        name = signal.Signals(-status).name
        raise StageError(f"prune {words[0]} was ended by {name}", RunError.exit_code)
    if status not in allow:
        raise StageError(f"prune {words[0]} could not do it, see above", status)
    try:
        document: dict[str, object] = json.loads(done.stdout)
    except ValueError as error:
        raise RunError(f"prune {words[0]} printed no document") from error
    return document
