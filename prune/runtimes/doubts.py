"""What makes a measured time doubtful: reported in the same words by everything that measures."""

from __future__ import annotations

from collections.abc import Iterable

from prune.common.notes import Report
from prune.runtimes import other_processes
from prune.runtimes.timing import Ratio

_SURE = 0.03  # relative uncertainty of a ratio that is usual and needs no note


def note_if_busy(report: Report, *, threads: int) -> None:
    """Report that other processes use the cores, if they do."""
    if note := other_processes.note(other_processes.look(), threads=threads):
        report(f"note: {note}")


def note_if_unsure(report: Report, ratios: Iterable[Ratio], *, remedy: str) -> None:
    """Report how exactly the ratios are known, if that is worse than usual."""
    doubt = max(ratio.doubt for ratio in ratios)
    if doubt > _SURE:
        report(f"note: ratios are known to {100 * doubt:.0f} % only; {remedy}")
