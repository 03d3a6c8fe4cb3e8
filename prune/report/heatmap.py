"""A heat map with its numbers in it, one row per name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prune.common.files import replacing

_WRITTEN = 100  # rows whose numbers can still be read in an image
_TALL = 400  # rows that fit an image


def heatmap(
    cells: Sequence[Sequence[float]],
    target: Path,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    label: str,
) -> None:
    """Draw values as colours; dark is high.

    Args:
        cells: the values, [rows][columns]; NaN stays white.
        target: the PNG to write.
        rows: names, from the top.
        columns: names.
        title: of the image.
        label: what the values are.
    """
    from matplotlib.figure import Figure

    values = np.array(cells, dtype=np.float64).reshape(len(rows), len(columns))
    high = max(float(np.nanmax(values, initial=0.0)), 1e-9)
    tall = min(2.0 + 0.19 * len(rows), 2.0 + 0.19 * _TALL)
    figure = Figure(figsize=(3.5 + 1.1 * len(columns), tall), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="OrRd", vmin=0, vmax=high, aspect="auto")
    figure.colorbar(image, ax=axes, label=label, fraction=0.06)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_title(title, fontsize=9)
    if len(rows) <= _WRITTEN:
        for (row, column), value in np.ndenumerate(values):
            ink = "white" if value > 0.6 * high else "black"
            axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=ink, fontsize=6)
    with replacing(target) as part:
        figure.savefig(part, dpi=120)
