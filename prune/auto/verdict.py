"""What an automatic run came to: one table, one recommended file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from prune.auto.journal import Journal

_CLOCK = 1.05  # times the goal that still count as reached: it is measured anew, on another minute


@dataclass(frozen=True)
class Row:
    """A file in a runtime: mAP@.5:.95 in 0..1, milliseconds, bytes; as `prune bench` found them."""

    file: str
    runtime: str
    precision: str
    map: float
    ms: float
    bytes: int


@dataclass(frozen=True)
class Verdict:
    """All rows, the one that is recommended, and what it keeps of what was asked for.

    Attributes:
        rows: the dense file's first.
        best: the fastest that loses no more than is allowed; the dense one where none does.
        good_enough: whether a pruned file holds the score.
        fast_enough: whether one that does takes no longer than the goal, in whichever runtime.
        goal_ms: what was asked for.
    """

    rows: tuple[Row, ...]
    best: Row
    fast_enough: bool
    good_enough: bool
    goal_ms: float

    @property
    def held(self) -> bool:
        """Tell whether everything that was asked for holds, of one file: the fast is a good one."""
        return self.fast_enough


def verdict(journal: Journal, *, max_drop: float) -> Verdict:
    """Judge a finished run; `max_drop` is in points (hundredths) of mAP@.5:.95."""
    found = cast("Sequence[Mapping[str, object]]", journal.stages["bench"]["rows"])
    rows = tuple(
        Row(
            file=str(row["file"]),
            runtime=str(row["runtime"]),
            precision=str(row["precision"]),
            map=float(cast(float, row["map"])),
            ms=float(cast(float, row["median_ms"])),
            bytes=int(cast(int, row["bytes"])),
        )
        for row in found
    )
    dense = rows[0]
    goal = float(cast(float, journal.stages["cut"]["goal_ms"]))
    good = [row for row in rows if row.map >= dense.map - max_drop / 100]
    pruned = [row for row in good if row.file != dense.file]
    return Verdict(
        rows,
        best=min(good, key=lambda row: row.ms),
        fast_enough=any(row.ms <= _CLOCK * goal for row in pruned),
        good_enough=bool(pruned),
        goal_ms=goal,
    )


def table(found: Verdict) -> str:
    """Set the rows as Markdown, each beside the dense file in the same runtime."""
    dense = {row.runtime: row for row in found.rows if row.file == found.rows[0].file}
    lines = [
        "| file | runtime | precision | mAP@.5:.95 | ms | times as fast | file |",
        "|:--|:--|:--|--:|--:|--:|--:|",
    ]
    for row in found.rows:
        faster = dense[row.runtime].ms / row.ms
        lines.append(
            f"| {Path(row.file).name} | {row.runtime} | {row.precision} | {row.map:.3f} "
            f"| {row.ms:.2f} | {faster:.2f} | {row.bytes / 1e6:.2f} MB |"
        )
    return "\n".join(lines)


def conclusion(found: Verdict) -> str:
    """Say in one line which file to deploy, and what of the wish does not hold."""
    dense, best = found.rows[0], found.best
    lost = 100 * (dense.map - best.map)
    said = (
        f"deploy {best.file} in {best.runtime}: {best.ms:.2f} ms, {dense.ms / best.ms:.2f} times "
        f"as fast as {Path(dense.file).name} in {dense.runtime}, {lost:+.2f} points of mAP lost"
    )
    if not found.good_enough:
        return f"{said}; no pruned file holds the score: allow more time, more epochs or --max-drop"
    if not found.fast_enough:
        goal = f"the {found.goal_ms:.2f} ms that were asked for"
        return f"{said}; no pruned file that holds the score comes down to {goal}"
    return said
