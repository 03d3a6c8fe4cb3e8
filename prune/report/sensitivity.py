"""Draw a sensitivity run: the drop of each group at each fraction that was cut."""

from __future__ import annotations

from pathlib import Path

from prune.common.layer_ranges import short_name
from prune.pruner.sensitivity.rows import SensitivityResult, by_price
from prune.report.heatmap import heatmap


def draw(result: SensitivityResult, target: Path) -> None:
    """Draw a heat map; the group with the smallest drop per MAC saved comes first."""
    groups = by_price(result.rows)
    cells = []
    for rows in groups:
        drops = {row.ratio: row.drop for row in rows}
        cells.append([drops.get(ratio, float("nan")) for ratio in result.ratios])
    metric = result.about["metric"]
    heatmap(
        cells,
        target,
        rows=[f"{short_name(rows[0].group)} ({rows[0].channels})" for rows in groups],
        columns=[f"{ratio:g}" for ratio in result.ratios],
        title=f"{result.about['criterion']}: group (channels) by fraction cut\n"
        "smallest drop per MAC saved first",
        label="rise of the loss" if metric == "loss" else f"drop of {metric}",
    )
