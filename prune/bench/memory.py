"""How much memory a model takes, measured in a process of its own: a peak is a process's."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from prune.common import child_processes
from prune.runtimes.backends import Setting, open_model

_RUNS = 3


def peak_bytes(runtime: str, path: Path, setting: Setting) -> int | None:
    """Measure what opening a file and running it adds to a process that has numpy and nothing else.

    The runtime's own code is part of it: a machine that runs the file needs memory for it, too.

    Returns:
        Bytes at the peak; None where the system does not report it, or the process was killed.
    """
    words = [runtime, str(path), json.dumps(asdict(setting))]
    done = child_processes.run("prune.bench.memory:main", words, quiet=True)
    last = done.stdout.split()[-1:]  # a runtime may print a line of its own before
    return int(last[0]) if not done.returncode and last and last[0].isdecimal() else None


def main() -> None:
    """Open and run what the command line names; print the bytes that it took."""
    runtime, path, setting = sys.argv[1:]
    facts = json.loads(setting)
    before = _peak()
    opened = open_model(runtime, Path(path), Setting(**{**facts, "imgsz": tuple(facts["imgsz"])}))
    for _ in range(_RUNS):
        opened.run()
    after = _peak()
    print("-" if before is None or after is None else after - before)


def _peak() -> int | None:
    """Read the process's highest resident bytes so far.

    Linux keeps `ru_maxrss` over an exec, which gives a child its parent's peak; VmHWM starts anew.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
        return 1024 * kilobytes[0] if kilobytes else None
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes
