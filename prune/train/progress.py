"""What the scores so far decide: functions of a run's rows, so that a resumed run decides alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prune.train.checkpointing import Row, fitness
from prune.train.run import Run
from prune.train.schedule import plateau_factor


def fitnesses(rows: Sequence[Row]) -> list[float]:
    """Return the fitness of every scored epoch."""
    return [fitness(row) for row in rows if "map" in row]


def enough(rows: Sequence[Row], patience: int) -> str:
    """Say why a run should stop before its end: so many scores without a better one; or nothing."""
    found = fitnesses(rows)
    if not patience or not found:
        return ""
    best = found.index(max(found))
    if len(found) - 1 - best < patience:
        return ""
    epoch = [row["epoch"] for row in rows if "map" in row][best]
    return (
        f"stopped early: the fitness {found[best]:.4f} of epoch {epoch:.0f} has stood for "
        f"{len(found) - 1 - best} scores (patience {patience})"
    )


def slowed(run: Run, rows: Sequence[Row]) -> Run:
    """Return the run with what its scores leave of the learning rate; a plateau's alone changes."""
    if run.settings.schedule != "plateau":
        return run
    factor = plateau_factor(fitnesses(rows), run.settings.plateau)
    return replace(run, schedule=replace(run.schedule, lowered=factor))
