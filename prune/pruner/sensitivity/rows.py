"""The result of a sensitivity run: its rows, and the file from which a stopped run continues."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from prune.common.plain_json import read_json_file
from prune.common.schema import expect, flag, listed, mapping, number, text, whole
from prune.errors import InputError

FORMAT = "prune-sensitivity/1"


@dataclass(frozen=True)
class SensitivityRow:
    """One group cut alone.

    Attributes:
        group: its first layer.
        index: its number in trace order; tells groups apart that share their first layer.
        channels: how many it has.
        ratio: the fraction of its channels that was requested.
        removed: how many channels that is.
        macs: MACs saved per image.
        params: parameters saved.
        value: the metric with the group cut.
        drop: how much worse that is than the baseline; below zero where the cut improves it.
    """

    group: str
    index: int
    channels: int
    ratio: float
    removed: int
    macs: int
    params: int
    value: float
    drop: float


@dataclass(frozen=True)
class SensitivityResult:
    """A run, finished or not.

    Attributes:
        about: the network, criterion, metric and images that the rows are of.
        baseline: the metric with nothing cut.
        rows: by group and ratio, in network order.
        complete: whether the last run came to its end.
    """

    about: Mapping[str, object]
    baseline: float
    rows: tuple[SensitivityRow, ...]
    complete: bool

    def document(self) -> dict[str, object]:
        """Return the JSON document: what the file contains."""
        plain: dict[str, object] = json.loads(to_json(self))
        return plain

    @property
    def ratios(self) -> list[float]:
        """The fractions that were measured, ascending."""
        return sorted({row.ratio for row in self.rows})


def to_json(found: SensitivityResult) -> str:
    """Write as JSON, one line per row."""
    head = {"format": FORMAT, **found.about, "baseline": found.baseline}
    rows = ",\n  ".join(json.dumps(asdict(row)) for row in found.rows)
    start = json.dumps({**head, "complete": found.complete})[:-1]
    return start + (f', "rows": [\n  {rows}\n]}}\n' if rows else ', "rows": []}\n')


def read(path: Path) -> SensitivityResult:
    """Read a file that `to_json` wrote.

    Raises:
        InputError: there is no such file, or it is none of ours.
    """
    document: Any = read_json_file(path, file_names=True)
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f'{path} is no sensitivity file: its "format" must be "{FORMAT}"')
    expect(document, _FILE, where=f"{path} is damaged")
    rows = tuple(SensitivityRow(**entry) for entry in document["rows"])
    for place, row in enumerate(rows):
        if row.removed > row.channels:
            raise InputError(
                f"{path} is damaged: rows[{place}].removed is {row.removed} of {row.channels}"
            )
    about = {key: value for key, value in document.items() if key not in _OWN}
    return SensitivityResult(about, document["baseline"], rows, document["complete"])


_OWN = ("format", "baseline", "rows", "complete")
_ROW = {
    "group": text(),
    "index": whole(0),
    "channels": whole(1),
    "ratio": number(0, 1),
    "removed": whole(0),
    "macs": whole(0),
    "params": whole(0),
    "value": number(),
    "drop": number(),
}
_FILE = mapping(
    {
        **{name: text().or_missing() for name in ("network", "weights", "criterion", "scope")},
        "baseline": number(),
        "rows": listed(mapping(_ROW, closed=True)),
        "complete": flag(),
    }
)


def to_csv(rows: Sequence[SensitivityRow]) -> str:
    """Write rows as CSV, the smallest drop per MAC saved first."""
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [field.name for field in fields(SensitivityRow)], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(asdict(row) for row in sorted(rows, key=_price))
    return text.getvalue()


def _price(row: SensitivityRow) -> float:
    return row.drop / row.macs if row.macs else float("inf")


def by_price(rows: Sequence[SensitivityRow]) -> list[tuple[SensitivityRow, ...]]:
    """Gather the rows of each group; the smallest drop per MAC saved comes first."""
    groups: dict[int, list[SensitivityRow]] = {}
    for row in rows:
        groups.setdefault(row.index, []).append(row)
    return sorted((tuple(own) for own in groups.values()), key=price)


def price(rows: Sequence[SensitivityRow]) -> float:
    """Return the drop of a group per MAC saved over its ratios; infinite where none is saved."""
    saved = sum(row.macs for row in rows)
    return sum(row.drop for row in rows) / saved if saved else float("inf")
