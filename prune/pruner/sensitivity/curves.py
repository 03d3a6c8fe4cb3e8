"""What a sensitivity run says to whoever shares out a budget: the drop by share, group by group."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune import checkpoint
from prune.errors import PlanError
from prune.pruner.importance import fingerprint
from prune.pruner.sensitivity.rows import read
from prune.pruner.session import Session

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Known:
    """What is known of a subject's groups.

    Attributes:
        curves: of every group the (share removed, drop) pairs; none where it was not measured.
        baseline: the metric with nothing cut.
        criterion: which channels were cut.
        scope: of the criterion.
    """

    curves: tuple[Curve, ...]
    baseline: float
    criterion: str
    scope: str


def known(path: Path, subject: Session) -> Known:
    """Read what a sensitivity run found of a subject.

    Raises:
        InputError: no such file, or none of ours.
        PlanError: it is of another network or other weights, or the run was not finished.
    """
    found = read(path)
    identity = checkpoint.network_id(subject.checkpoint.cfg)
    if found.about.get("network") != identity:
        raise PlanError(f"{path} was measured on another network than {subject.path} holds")
    if found.about.get("weights") != fingerprint(subject.net):
        raise PlanError(
            f"{path} was measured on other weights than {subject.path} holds; measure these"
        )
    if not found.complete:
        raise PlanError(f"{path} is not finished; run prune sensitivity on to its end first")
    if any(row.index >= len(subject.groups) for row in found.rows):
        raise PlanError(f"{path} has rows of groups that {subject.path} has not")
    curves = tuple(
        tuple((row.removed / row.channels, row.drop) for row in found.rows if row.index == number)
        for number in range(len(subject.groups))
    )
    said = (str(found.about.get(key)) for key in ("criterion", "scope"))
    return Known(curves, found.baseline, *said)
