"""Which pictures to draw more often: those with boxes of rare classes and of badly scored ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prune.data.labels import Boxes
from prune.evaluate.metrics import Metrics


def picture_weights(labels: Sequence[Boxes], precision: Sequence[float]) -> NDArray[np.float64]:
    """Weigh every picture by the sum over its boxes of (1 - AP)^2 / boxes of that class.

    A class whose AP is 0, as every one's is before the first score, has weight 1 in all. A picture
    without boxes is not drawn. Where that leaves nothing to draw, all pictures weigh the same.

    Args:
        labels: boxes of each picture, [n, 5] with the class first.
        precision: each class's mean average precision, in [0, 1].

    Returns:
        One weight a picture, [pictures]; not normalised.
    """
    classes = np.concatenate([boxes[:, 0] for boxes in labels]).astype(np.int64)  # [M]
    pictures = np.repeat(np.arange(len(labels)), [len(boxes) for boxes in labels])  # [M]
    numbers = np.bincount(classes, minlength=len(precision))  # [classes]
    each = (1 - np.asarray(precision)) ** 2 / np.maximum(numbers, 1)  # [classes]
    weights = np.bincount(pictures, each[classes], minlength=len(labels)).astype(np.float64)
    return weights if weights.any() else np.ones(len(labels))


def by_class(scores: Metrics) -> dict[str, float]:
    """Name each class's mean average precision for an epoch's row; no value for one without."""
    return {f"map_{i}": row.map for i, row in enumerate(scores.per_class) if row.map is not None}


def latest(rows: Sequence[Mapping[str, float]], classes: int) -> list[float]:
    """Read the last scored row's precision of each class; 0 where there is none."""
    scored = [row for row in rows if "map" in row] or [{}]
    return [scored[-1].get(f"map_{i}", 0.0) for i in range(classes)]
