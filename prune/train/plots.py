"""Images of a run: its first batches, its detections, its curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from prune.common.boxes import xywh_to_xyxy
from prune.common.files import replacing
from prune.data.frames import Shape, fit
from prune.data.images import read_image
from prune.evaluate.plots import draw

if TYPE_CHECKING:
    from prune.data.loader import Batch
    from prune.evaluate.metrics import Boxes

Image = NDArray[np.uint8]  # [height, width, 3], BGR

_MOST = 16  # images of a batch that are drawn
_SURE = 0.25  # the least confidence of a box that is drawn, as in `prune detect`
_COLOURS = ((60, 76, 231), (113, 204, 46), (219, 152, 52), (15, 196, 241), (182, 89, 155))  # BGR
# One panel each: its title and the columns of results.csv it shows.
_PANELS: dict[str, tuple[str, ...]] = {
    "loss": ("train_loss", "val_loss"),
    "training loss": ("train_box", "train_obj", "train_cls"),
    "validation loss": ("val_box", "val_obj", "val_cls"),
    "learning rate": ("lr",),
    "precision, recall": ("precision", "recall", "f1"),
    "mean average precision": ("map50", "map"),
}


def write_batch(batch: Batch, path: Path) -> None:
    """Write a batch's images with their boxes, side by side."""
    write_image(draw_batch(batch), path)


def draw_batch(batch: Batch) -> Image:
    """Draw a batch's images with their boxes, side by side."""
    return _side_by_side([_with_boxes(batch, i) for i in range(min(len(batch.images), _MOST))])


def draw_detections(
    paths: Sequence[Path], found: Sequence[Boxes], names: Sequence[str], *, imgsz: Shape
) -> Image:
    """Draw the detections of images, side by side.

    Args:
        paths: of the images.
        found: of each, [n, 6] x1, y1, x2, y2 in its own pixels, confidence, class.
        names: the classes.
        imgsz: height and width that each is put into, pixels.
    """
    drawn = []
    for path, boxes in list(zip(paths, found, strict=True))[:_MOST]:
        sure = boxes[boxes[:, 4] >= _SURE]
        drawn.append(fit(draw(read_image(path), sure, names), imgsz)[0])
    return _side_by_side(drawn)


def as_rgb(image: Image) -> Image:
    """Swap blue and red."""
    return np.ascontiguousarray(image[..., ::-1])


def write_image(image: Image, path: Path) -> None:
    """Write an image in the format of the path's suffix."""
    coded = cv2.imencode(path.suffix, image)[1]  # imwrite does not report a full disk
    with replacing(path) as part:
        part.write_bytes(coded.tobytes())


def write_results(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Write the curves of results.csv."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7))
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.06, top=0.94, hspace=0.25)
    for axes, (title, columns) in zip(figure.subplots(2, 3).flat, _PANELS.items(), strict=True):
        for column in columns:
            known = [row for row in rows if column in row]
            values = [row[column] for row in known]
            axes.plot([row["epoch"] for row in known], values, marker=".", label=column)
        axes.set_title(title)
        axes.legend()
        axes.grid(alpha=0.3)
    with replacing(path) as part:
        figure.savefig(part, dpi=100)


def _side_by_side(drawn: Sequence[Image]) -> Image:
    """Join images of one size in rows, as square as possible."""
    columns = math.ceil(math.sqrt(len(drawn)))
    blank = np.full_like(drawn[0], 255)
    filled = [*drawn, *[blank] * (-len(drawn) % columns)]
    rows = [np.hstack(filled[i : i + columns]) for i in range(0, len(filled), columns)]
    return np.vstack(rows)


def _with_boxes(batch: Batch, index: int) -> Image:
    """Draw one image's boxes, [H, W, 3] BGR."""
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
