"""Pictures of a run: the batches it saw, the curves it drew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from prune.atomic import replacing
from prune.boxes import xywh_to_xyxy

if TYPE_CHECKING:
    from prune.data.loader import Batch

Image = NDArray[np.uint8]  # [height, width, 3], BGR

_MOST = 16  # pictures of a batch that are drawn
_COLOURS = ((60, 76, 231), (113, 204, 46), (219, 152, 52), (15, 196, 241), (182, 89, 155))  # BGR
_CURVES = (
    *("train_box", "train_obj", "train_cls", "train_loss", "precision"),
    *("val_box", "val_obj", "val_cls", "val_loss", "recall"),
    *("map50", "map", "f1", "lr", "seconds"),
)


def batch_picture(batch: Batch, path: Path) -> None:
    """Write a batch's pictures with their boxes, side by side."""
    drawn = [_with_boxes(batch, index) for index in range(min(len(batch.images), _MOST))]
    columns = math.ceil(math.sqrt(len(drawn)))
    blank = np.full_like(drawn[0], 255)
    drawn += [blank] * (-len(drawn) % columns)
    rows = [np.hstack(drawn[i : i + columns]) for i in range(0, len(drawn), columns)]
    with replacing(path) as part:
        cv2.imwrite(str(part), np.vstack(rows))


def results_picture(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Write the curves of results.csv, one panel a column."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 8), layout="constrained")
    for name, axes in zip(_CURVES, figure.subplots(3, 5).flat, strict=True):
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True) if points else ((), ()), marker=".")
        axes.set_title(name)
        axes.grid(alpha=0.3)
    with replacing(path) as part:
        figure.savefig(part, dpi=100)


def _with_boxes(batch: Batch, index: int) -> Image:
    """Draw one picture's boxes, [H, W, 3] BGR."""
    image = batch.images[index].permute(1, 2, 0).flip(-1).contiguous().numpy()
    rows = batch.targets[batch.targets[:, 0] == index]  # [n, 6]
    height, width = image.shape[:2]
    corners = xywh_to_xyxy(rows[:, 2:]) * rows.new_tensor((width, height, width, height))
    for label, box in zip(rows[:, 1].int().tolist(), corners.round().int().tolist(), strict=True):
        colour = _COLOURS[label % len(_COLOURS)]
        cv2.rectangle(image, (box[0], box[1]), (box[2], box[3]), colour, 2)
        place = (box[0], max(box[1] - 3, 10))
        cv2.putText(image, str(label), place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, colour)
    return np.asarray(image, dtype=np.uint8)
