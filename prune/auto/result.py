"""What an automatic run came to: one table, one recommended file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from prune.auto.journal import Journal
from prune.common.visible import markdown, visible
from prune.errors import InputError
from prune.latency.approach import AMISS
from prune.runtimes.timing import Ratio

_CLOCK = 1.05  # times the goal that still count as reached: it is measured anew, on another minute


@dataclass(frozen=True)
class ResultRow:
    """A file in a runtime: mAP@.5:.95 in 0..1, milliseconds, bytes; as `prune bench` found them.

    `ratio` is to the first row's time, round by round.
    """

    file: str
    runtime: str
    precision: str
    map: float
    ms: float
    ratio: Ratio
    bytes: int


@dataclass(frozen=True)
class AutoResult:
    """All files, the one that is recommended, and whether it holds what was requested.

    Attributes:
        rows: the dense file's first.
        best: the fastest that loses no more than is allowed; the dense one where none does.
        good_enough: whether a pruned file holds the score.
        fast_enough: whether one that does takes no longer than the goal, in whichever runtime.
        too_deep: the file of the cut, in the runtime it was cut for, where it is so much faster
            than the goal that more was cut than requested; None where it is not.
        goal: the requested fraction of the dense file's time in the requested runtime.
        folder: the run's.
        stages: what each stage chose and found.
    """

    rows: tuple[ResultRow, ...]
    best: ResultRow
    fast_enough: bool
    good_enough: bool
    too_deep: ResultRow | None
    goal: float
    folder: Path
    stages: Mapping[str, Mapping[str, object]]

    def document(self) -> dict[str, object]:
        """Return the result as plain values, as `prune auto --json` prints it."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "recommended": asdict(self.best),
            "goal": self.goal,
            "goal_ms": self.goal * self.rows[0].ms,
            "fast_enough": self.fast_enough,
            "good_enough": self.good_enough,
            "too_deep": self.too_deep is not None,
            "folder": str(self.folder),
            "stages": self.stages,
        }

    def markdown(self, name: str) -> str:
        """Return the whole of report.md; `name` is that of the weights."""
        return f"# {markdown(name)}\n\n{table(self)}\n\n{visible(conclusion(self))}\n"

    @property
    def held(self) -> bool:
        """Tell whether everything that was requested holds for one file: a fast one is accurate."""
        return self.fast_enough and self.too_deep is None


def conclude(journal: Journal, *, max_drop: float, folder: Path) -> AutoResult:
    """Conclude a finished run; `max_drop` is in points (hundredths) of mAP@.5:.95."""
    found = cast("Sequence[Mapping[str, object]]", journal.stages["bench"]["rows"])
    rows = tuple(_row(row, journal) for row in found)
    dense = rows[0]
    if lone := {row.runtime for row in rows} - {r.runtime for r in rows if r.file == dense.file}:
        raise InputError(
            f"{journal.path} is damaged: stages.bench.rows has no row of {dense.file} in "
            f"{min(lone)}"
        )
    goal = _goal(journal)
    good = [row for row in rows if row.map >= dense.map - max_drop / 100]
    pruned = [row for row in good if row.file != dense.file]
    return AutoResult(
        rows,
        best=min(good, key=lambda row: row.ms),
        fast_enough=any(row.ratio.low <= _CLOCK * goal for row in pruned),
        good_enough=bool(pruned),
        too_deep=_too_deep(rows, journal, goal),
        goal=goal,
        folder=folder,
        stages=journal.stages,
    )


def _row(found: Mapping[str, object], journal: Journal) -> ResultRow:
    """Read a row of the bench; its ratio is the one that was measured for a busy machine, too."""
    said = {"middle": "ratio_to_first", "low": "ratio_low", "high": "ratio_high"}
    ratio = {name: found[column] for name, column in said.items()}
    first = cast("Sequence[Mapping[str, object]]", journal.stages["bench"]["rows"])[0]
    if found["runtime"] == first["runtime"]:
        measured = cast(
            "Mapping[str, dict[str, object]]", journal.stages["bench"].get("ratios", {})
        )
        ratio = measured.get(str(found["file"]), ratio)
    return ResultRow(
        file=str(found["file"]),
        runtime=str(found["runtime"]),
        precision=str(found["precision"]),
        map=float(cast(float, found["map"])),
        ms=float(cast(float, found["median_ms"])),
        bytes=int(cast(int, found["bytes"])),
        ratio=Ratio(*(float(cast(float, ratio[name])) for name in said)),
    )


def _goal(journal: Journal) -> float:
    """Return the fraction of the dense file's time; older runs wrote milliseconds down."""
    cut = journal.stages["cut"]
    if "goal" in cut:
        return float(cast(float, cut["goal"]))
    return float(cast(float, cut["goal_ms"])) / float(cast(float, journal.stages["dense"]["ms"]))


def _too_deep(rows: Sequence[ResultRow], journal: Journal, goal: float) -> ResultRow | None:
    """Find the last file made of the cut where it is far faster than the goal, if one was cut."""
    own = [row for row in rows if row.runtime == rows[0].runtime and row.file != rows[0].file]
    if not own or "macs" not in journal.stages["cut"]:
        return None
    return own[-1] if own[-1].ratio.high < goal / AMISS else None


def table(found: AutoResult) -> str:
    """Set the rows as Markdown, each beside the dense file in the same runtime."""
    dense = {row.runtime: row for row in found.rows if row.file == found.rows[0].file}
    lines = [
        "| file | runtime | precision | mAP@.5:.95 | ms | times as fast | file |",
        "|:--|:--|:--|--:|--:|--:|--:|",
    ]
    for row in found.rows:
        faster = dense[row.runtime].ms / row.ms
        lines.append(
            f"| {markdown(Path(row.file).name)} | {row.runtime} | {row.precision} | {row.map:.3f} "
            f"| {row.ms:.2f} | {faster:.2f} | {row.bytes / 1e6:.2f} MB |"
        )
    return "\n".join(lines)


def conclusion(found: AutoResult) -> str:
    """Return one line: which file to deploy, and what of the request does not hold."""
    dense, best = found.rows[0], found.best
    lost = 100 * (dense.map - best.map)
    said = (
        f"deploy {best.file} in {best.runtime}: {best.ms:.2f} ms, {dense.ms / best.ms:.2f} times "
        f"as fast as {Path(dense.file).name} in {dense.runtime}, {lost:+.2f} points of mAP lost"
    )
    if not found.good_enough:
        return f"{said}; no pruned file holds the score: allow more time, more epochs or --max-drop"
    if not found.fast_enough:
        goal = f"{found.goal:.3g} of the dense file's time, which was requested"
        return f"{said}; no pruned file that holds the score comes down to {goal}"
    if found.too_deep is not None:
        return (
            f"{said}; {found.too_deep.file} takes {found.too_deep.ratio} of the dense file's "
            f"time, though {found.goal:.3g} was requested: more was cut than had to be"
        )
    return said
