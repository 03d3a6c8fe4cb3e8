"""The stages of one network side by side: its metrics and its costs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One row: a network at some stage.

    `map50` and `map` lie in 0..1, `bytes` is the length of its file, `latency_ms` that of one
    image; None where it was not measured.
    """

    name: str
    map50: float | None
    map: float | None
    params: int
    macs: int
    bytes: int
    latency_ms: float | None


def stages(rows: Sequence[Stage]) -> str:
    """Set the stages as a Markdown table that reads well as plain text too.

    Costs carry their change against the first row.
    """
    header = ("", *COLUMNS)
    body = [(row.name, *(cell(row, rows[0]) for cell in COLUMNS.values())) for row in rows]
    widths = [max(len(line[i]) for line in (header, *body)) for i in range(len(header))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(_line(line, widths) for line in (header, rule, *body))


Cell = Callable[[Stage, Stage], str]
"""(row, first row) -> text."""

COLUMNS: dict[str, Cell] = {
    "mAP@.5": lambda row, first: _map(row.map50),
    "mAP@.5:.95": lambda row, first: _map(row.map),
    "parameters": lambda row, first: f"{row.params:,}{_change(row.params, first.params)}",
    "MACs": lambda row, first: f"{row.macs / 1e6:,.0f} M{_change(row.macs, first.macs)}",
    "file": lambda row, first: f"{row.bytes / 1e6:.1f} MB{_change(row.bytes, first.bytes)}",
    "latency": lambda row, first: _latency(row.latency_ms, first.latency_ms),
}


def _map(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _latency(value: float | None, first: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms{_change(value, first)}"


def _change(value: float, first: float | None) -> str:
    return "" if not first or value == first else f" ({100 * (value / first - 1):+.0f} %)"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = zip(cells, widths, strict=True)
    padded = (first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest))
    return f"| {' | '.join(padded)} |"
