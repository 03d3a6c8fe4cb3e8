"""Bars with their spread, one row per name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prune.common.files import replacing
from prune.common.visible import visible
from prune.errors import InputError


def bars(
    rows: Sequence[str],
    spreads: Sequence[tuple[float, float, float]],
    target: Path,
    *,
    title: str,
    label: str,
) -> None:
    """Draw a bar per row, the first on top.

    Args:
        rows: names.
        spreads: low, middle and high of each; the bar ends in the middle.
        target: the PNG to write.
        title: of the image.
        label: what the values are.
    """
    from matplotlib.figure import Figure

    low, middle, high = (list(column) for column in zip(*spreads, strict=True))
    below = [b - a for a, b in zip(low, middle, strict=True)]
    above = [b - a for a, b in zip(middle, high, strict=True)]
    figure = Figure(figsize=(9, 1.2 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    drawn = axes.barh(
        places, middle, xerr=(below, above), capsize=3, color="#5b8db8", ecolor="#333333"
    )
    axes.set_yticks(places, list(map(visible, rows)), fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.bar_label(drawn, fmt="%.3g", label_type="center", color="white", fontsize=8)
    axes.set_xlabel(label)
    axes.set_title(title, fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    with replacing(target) as part:
        figure.savefig(part, dpi=120)


def expect_format(target: Path) -> None:
    """Check that matplotlib writes what a name ends in, before what is drawn is measured.

    Raises:
        InputError: it does not.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    if target.suffix[1:].lower() not in FigureCanvasBase.filetypes:
        raise InputError(f"{target} is no name for an image; it must end in .png, .svg or .pdf")
