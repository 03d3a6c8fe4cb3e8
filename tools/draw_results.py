"""Draw the two figures of the documentation from the tables of docs/laboratory.md.

`python tools/draw_results.py` reads every number from that page, so that a figure shows nothing
that no table says, and writes docs/images/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTES = DOCS / "laboratory.md"
IMAGES = DOCS / "images"
MACS = "What pruning is worth"
DEPLOYED = "What is deployed"

# First cell of a row -> the series that it belongs to.
TRAINED = {
    "**cut at 60, teacher**": "prune: half of the epochs before, teacher",
    "Torch-Pruning": "Torch-Pruning",
    "**control**, from nothing": "same size from scratch",
}
GROUPS = {
    "family from scratch": "trained from scratch",
    "control": "same MACs from scratch",
    "harder control": "pruned structure from scratch",
    "pruned": "pruned",
    "pruned, INT8": "pruned, INT8",
}
STYLES = {  # colour and marker of each series
    "trained from scratch": ("#1f77b4", "o"),
    "same MACs from scratch": ("#9467bd", "P"),
    "pruned structure from scratch": ("#ff7f0e", "s"),
    "pruned": ("#2ca02c", "D"),
    "pruned, INT8": ("#d62728", "^"),
}


@dataclass(frozen=True)
class Point:
    """One network: its series, cost, mAP@.5:.95 on the test split and standard deviation."""

    series: str
    cost: float
    map: float
    deviation: float = 0.0


def main() -> None:
    """Write both figures."""
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3})
    IMAGES.mkdir(exist_ok=True)
    notes = NOTES.read_text(encoding="utf-8")
    draw_macs(macs_points(notes), IMAGES / "map-over-macs.png")
    draw_latency(latency_points(notes), IMAGES / "map-over-latency.png")


def macs_points(notes: str) -> list[Point]:
    """Read mAP at 50 % and 30 % of the MACs, and of the unpruned network."""
    section = section_of(notes, MACS)
    found = re.search(r"% of (\d+) M MACs, \S+; dense [\d.]+ \(test ([\d.]+)\)", section)
    assert found, "the heading of a table names the MACs and the mAP of the unpruned network"
    whole = float(found[1])
    points = [Point("unpruned, 100 epochs", whole, float(found[2]))]
    for table in tables(section)[:2]:
        percent = re.match(r"(\d+)% of the MACs", table[0][0])
        assert percent, table[0]
        for row in table[1:]:
            if row[0] in TRAINED:
                mean, deviation = re.findall(r"[\d.]+", row[3])[:2]
                cost = whole * int(percent[1]) / 100
                points.append(Point(TRAINED[row[0]], cost, float(mean), float(deviation)))
    return points


def latency_points(notes: str) -> list[Point]:
    """Read mAP and the time in the faster of the two runtimes."""
    points, group = [], ""
    for row in tables(section_of(notes, DEPLOYED))[0][1:]:
        group = row[0] or group
        milliseconds = [float(re.findall(r"[\d.]+", cell)[0]) for cell in row[4:6]]
        points.append(Point(GROUPS[group], min(milliseconds), float(row[3].strip("*"))))
    return points


def section_of(notes: str, title: str) -> str:
    """Return the text below a heading of the second level."""
    return next(part for part in notes.split("\n## ") if part.startswith(title))


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text, each a list of rows of cells, its heading first."""
    found = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [[cells(line) for line in table.splitlines() if "|--" not in line] for table in found]


def cells(line: str) -> list[str]:
    """Split a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def draw_macs(points: Sequence[Point], target: Path) -> None:
    """Draw mAP over MACs, one line per way to get a small network."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for name in dict.fromkeys(point.series for point in points):
        own = [point for point in points if point.series == name]
        axes.errorbar(
            [point.cost for point in own],
            [point.map for point in own],
            [point.deviation for point in own],
            marker="o",
            capsize=3,
            label=name,
        )
    axes.set(xlabel="MACs of one image, millions", ylabel="mAP@.5:.95, test split", xlim=(0, None))
    finish(figure, target)


def draw_latency(points: Sequence[Point], target: Path) -> None:
    """Draw mAP over milliseconds, each series joined from the fastest network on."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    for name, (colour, marker) in STYLES.items():
        own = sorted((point.cost, point.map) for point in points if point.series == name)
        axes.plot(*zip(*own, strict=True), marker=marker, color=colour, label=name)
    axes.set(
        xlabel="ms per image, in the faster of ONNX Runtime and OpenVINO",
        ylabel="mAP@.5:.95, test split",
        xlim=(0, None),
    )
    finish(figure, target)


def finish(figure: Figure, target: Path) -> None:
    """Add the legend and write the file; equal figures give equal files."""
    figure.axes[0].legend(loc="lower right", framealpha=0.9)
    figure.tight_layout()
    figure.savefig(target, dpi=130, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
