"""What other processes use of this machine now; a load average is of the last minute."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prune.common.device import cores

_STAT = Path("/proc/stat")
_IDLE = (3, 4)  # columns of a core: idle, waiting for a disk
_GUEST = 8  # from this column on time is counted a second time
_LOOK_S = 0.2  # as long as a look takes: 20 ticks of the kernel's counter of a core
BUSY = 0.25  # of a thread's core: what others may take of it


@dataclass
class Neighbours:
    """What other processes take of the cores that this process may use.

    Attributes:
        cores: how many there are.
        taken: how many of them others took on average; None where the system does not report it.
    """

    cores: int
    taken: float | None = None

    def busy(self, threads: int) -> bool:
        """Return whether others take more than a quarter of what so many threads need."""
        return self.taken is not None and self.taken > self.cores - (1 - BUSY) * threads


@contextmanager
def watched() -> Iterator[Neighbours]:
    """Measure what others take while the block runs; the answer is there when it ends."""
    found = Neighbours(cores())
    wall, own, all_of_them = time.perf_counter(), time.process_time(), _busy_s()
    yield found
    after = _busy_s()
    if all_of_them is not None and after is not None:
        others = after - all_of_them - (time.process_time() - own)
        found.taken = max(others, 0.0) / max(time.perf_counter() - wall, 1e-9)


def look() -> Neighbours:
    """Wait a moment; return what others use, or the load of the last minute if that is unknown."""
    with watched() as found:
        time.sleep(_LOOK_S)
    if found.taken is None and hasattr(os, "getloadavg"):
        found.taken = os.getloadavg()[0]
    return found


def _busy_s() -> float | None:
    """Read the seconds that our cores were busy, a hypervisor's other guests included."""
    try:
        rows = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines()]
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        counted = [row[1 : 1 + _GUEST] for row in rows if row[0] in ours]
        ticks = sum(int(w) for row in counted for i, w in enumerate(row) if i not in _IDLE)
    except (OSError, ValueError, IndexError, AttributeError):  # no Linux
        return None
    # A container may number its cores in another way than the kernel does.
    return ticks / os.sysconf("SC_CLK_TCK") if len(counted) == len(ours) else None


def note(found: Neighbours, *, threads: int) -> str | None:
    """Say that the machine is busy; None where it is not."""
    if not found.busy(threads):
        return None
    return (
        f"the machine is busy: other processes take {found.taken:.1f} of {found.cores} core(s); "
        "trust ratios, not milliseconds"
    )
