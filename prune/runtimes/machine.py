"""What a measurement was made on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.common.device import cores
from prune.runtimes.backends import library


@dataclass(frozen=True)
class Machine:
    """A machine and its software.

    Attributes:
        cpu: the processor's own name.
        cores: that this process may use.
        load: processes that wanted to run in the last minute, before the measurement; None where
            the system does not report it.
        system: kernel and architecture.
        versions: of Python and the runtimes.
    """

    cpu: str
    cores: int
    load: float | None
    system: str
    versions: dict[str, str]


def machine(runtimes: Sequence[str]) -> Machine:
    """Describe this machine and the named runtimes."""
    versions = {name: str(library(name).__version__).partition("-")[0] for name in runtimes}
    return Machine(
        cpu=_cpu(),
        cores=cores(),
        load=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **versions},
    )


def threads_of(requested: int) -> int:
    """Turn 0, one thread per core, into a number: runtimes count cores in different ways."""
    return requested or cores()


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
