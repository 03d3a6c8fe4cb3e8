"""What a sensitivity run says to whoever shares out a budget: the drop by share, group by group."""

from __future__ import annotations

from pathlib import Path

from prune import checkpoint
from prune.errors import PlanError
from prune.pruning import Subject
from prune.sensitivity.rows import read

Curve = tuple[tuple[float, float], ...]


def curves(path: Path, subject: Subject) -> tuple[Curve, ...]:
    """Read the measured drops of every group of a subject: (share removed, drop) pairs.

    Groups that were not measured have none.

    Raises:
        InputError: no such file, or none of ours.
        PlanError: it is of another network, or the run was not finished.
    """
    found = read(path)
    identity = checkpoint.network_id(subject.checkpoint.cfg)
    if found.about.get("network") != identity:
        raise PlanError(f"{path} was measured on another network than {subject.path} holds")
    if not found.complete:
        raise PlanError(f"{path} is not finished; run prune sensitivity on to its end first")
    return tuple(
        tuple((row.removed / row.channels, row.drop) for row in found.rows if row.index == number)
        for number in range(len(subject.groups))
    )
