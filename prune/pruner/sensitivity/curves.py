"""Measured drops of each group by the fraction removed, as an allocation reads them."""

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
    """What a sensitivity run measured of the groups of a session.

    Attributes:
        curves: of every group the pairs of (fraction removed, drop); none where it was not
            measured.
        baseline: the metric with nothing cut.
        criterion: the criterion by which channels were cut.
        scope: of the criterion.
    """

    curves: tuple[Curve, ...]
    baseline: float
    criterion: str
    scope: str


def known(path: Path, session: Session) -> Known:
    """Read what a sensitivity run measured of a session.

    Raises:
        InputError: there is no such file, or it is none of ours.
        PlanError: it is of another network or other weights, or the run was not finished.
    """
    found = read(path)
    identity = checkpoint.network_id(session.checkpoint.cfg)
    if found.about.get("network") != identity:
        raise PlanError(f"{path} was measured on another network than {session.path} contains")
    if found.about.get("weights") != fingerprint(session.net):
        raise PlanError(
            f"{path} was measured on other weights than {session.path} contains; measure these"
        )
    if not found.complete:
        raise PlanError(f"{path} is not finished; continue it with prune sensitivity first")
    if any(row.index >= len(session.groups) for row in found.rows):
        raise PlanError(f"{path} has rows of groups that {session.path} does not have")
    curves = tuple(
        tuple((row.removed / row.channels, row.drop) for row in found.rows if row.index == number)
        for number in range(len(session.groups))
    )
    criterion, scope = (str(found.about.get(key)) for key in ("criterion", "scope"))
    return Known(curves, found.baseline, criterion, scope)
