"""What makes a measured time doubtful: said in the same words by every command that measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.runtimes.timing import Ratio

_SURE = 0.03  # doubt of a ratio that goes without saying

Say = Callable[[str], None]


def note_if_busy(say: Say, *, threads: int) -> None:
    """Say that other processes want the cores, if they do."""
    from prune.runtimes import other_processes

    if note := other_processes.note(other_processes.look(), threads=threads):
        say(f"note: {note}")


def note_if_unsure(say: Say, ratios: Iterable[Ratio], *, remedy: str) -> None:
    """Say how well the ratios are known, if that is worse than it usually is."""
    doubt = max(ratio.doubt for ratio in ratios)
    if doubt > _SURE:
        say(f"note: ratios are known to {100 * doubt:.0f} % only; {remedy}")
