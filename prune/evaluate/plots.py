"""Draw boxes on images, precision-recall and F1 curves, and the confusion matrix."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw

from prune.common import fonts
from prune.common.files import replacing
from prune.common.fonts import Label
from prune.data.images import Image
from prune.evaluate import metrics
from prune.evaluate.metrics import GRID, Array, Boxes, Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Colour = tuple[int, int, int]  # blue, green, red, 0..255

_LEGEND = 20  # classes that a legend can name and still be read
_CELLS = 30  # classes whose counts can be written into a matrix


def colour(label: int) -> Colour:
    """Give each class its own colour: hues a golden ratio apart, so that neighbours differ."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 0.95)
    return round(255 * blue), round(255 * green), round(255 * red)


def draw(image: Image, boxes: Boxes, names: Sequence[str]) -> Image:
    """Draw boxes with class and confidence on a copy of an image.

    Args:
        image: uint8 [h, w, 3] BGR.
        boxes: [n, 6] x1, y1, x2, y2 in pixels, confidence, class; the most confident is drawn last.
        names: the classes.
    """
    drawn = np.ascontiguousarray(image).copy()
    thick = max(round(sum(image.shape[:2]) / 600), 1)
    rows = boxes[::-1].tolist()
    for x1, y1, x2, y2, _, label in rows:
        low, high = (round(x1), round(y1)), (round(x2), round(y2))
        cv2.rectangle(drawn, low, high, colour(int(label)), thick, cv2.LINE_AA)
    labels = fonts.labels(tuple(names))
    for x1, y1, _, _, confidence, label in rows:  # after all boxes: no line crosses a text
        shown = labels[int(label)]
        shown = replace(shown, text=f"{shown.text} {confidence:.2f}")
        _tag(drawn, shown, (round(x1), round(y1)), colour(int(label)))
    return drawn


def _tag(image: Image, label: Label, corner: tuple[int, int], background: Colour) -> None:
    """Write into `image`: text above a box's corner, or inside the box at the image's edge."""
    font = fonts.truetype(label.font, max(round(sum(image.shape[:2]) / 85), 10))
    above, below = font.getmetrics()
    width, tall = ceil(font.getlength(label.text)) + 2, above + below
    x = max(min(corner[0], image.shape[1] - width), 0)
    y = max(corner[1] - tall if corner[1] >= tall else corner[1], 0)
    bright = sum(weight * part for weight, part in zip((0.11, 0.59, 0.3), background, strict=True))
    ink = (0, 0, 0) if bright > 140 else (255, 255, 255)
    letters = PIL.Image.new("L", (width, tall))
    ImageDraw.Draw(letters).text((1, 0), label.text, fill=255, font=font)
    alpha = np.asarray(letters, dtype=np.float32)[..., None] / 255  # [tall, width, 1]
    tag = (1 - alpha) * np.array(background) + alpha * np.array(ink)
    place = image[y : y + tall, x : x + width]  # a view, cut off at the image's edge
    place[:] = tag[: place.shape[0], : place.shape[1]].round().astype(np.uint8)


def draw_metrics(
    truth: Sequence[Boxes], found: Sequence[Boxes], names: Sequence[str], folder: Path
) -> None:
    """Draw into a folder what the metrics are made of (see metrics.py for the arrays)."""
    pair, classes = (truth, found), len(names)
    precision_recall(metrics.coco_precision(*pair, classes)[0], names, folder / "pr_curve.png")
    f1_confidence(metrics.confidence_curves(*pair, classes), names, folder / "f1_curve.png")
    confusion_matrix(metrics.confusion(*pair, classes), names, folder / "confusion_matrix.png")


def precision_recall(precision: Array, names: Sequence[str], target: Path) -> None:
    """Plot precision over recall at IoU 0.5, a curve a class and their mean.

    Args:
        precision: COCO's at 101 recalls, [101, classes]; -1 for a class without truth.
        names: the classes.
        target: the PNG to write.
    """
    with fonts.plotting(names) as shown:
        figure, axes = _axes("recall", "precision", "Precision and recall at IoU 0.5")
        recall = np.linspace(0, 1, len(precision))
        present = np.flatnonzero(precision[0] >= 0)
        curves = precision[:, present].T  # [present classes, 101]
        labels = [f"{shown[i]} {precision[:, i].mean():.3f}" for i in present.tolist()]
        mean = curves.mean(axis=0) if len(present) else np.zeros(len(precision))
        _classes(axes, recall, curves, labels=labels, numbers=present)
        _mean(axes, recall, mean, label=f"mean {mean.mean():.3f}")
        _save(figure, target)


def f1_confidence(curves: Curves, names: Sequence[str], target: Path) -> None:
    """Plot F1 over the confidence threshold at IoU 0.5, and mark where the mean is highest."""
    with fonts.plotting(names) as shown:
        figure, axes = _axes("confidence threshold", "F1", "F1 at IoU 0.5")
        present = np.flatnonzero(curves.instances)
        mean, best = curves.mean(curves.f1), curves.best()
        axes.axvline(GRID[best], color="0.6", linestyle=":")
        labels = [shown[i] for i in present.tolist()]
        _classes(axes, GRID, curves.f1[present], labels=labels, numbers=present)
        _mean(axes, GRID, mean, label=f"mean, best {mean[best]:.3f} at {GRID[best]:.3f}")
        _save(figure, target)


def confusion_matrix(counts: NDArray[np.int64], names: Sequence[str], target: Path) -> None:
    """Plot the confusion matrix, each column as fractions of its true class.

    Args:
        counts: [classes + 1, classes + 1], rows predicted, columns true, the last background.
        names: the classes.
        target: the PNG to write.
    """
    from matplotlib.figure import Figure

    with fonts.plotting(names) as shown:
        fractions = counts / np.maximum(counts.sum(axis=0, keepdims=True), 1)
        side = min(4 + 0.45 * len(counts), 24)
        figure = Figure(figsize=(side + 1, side), layout="constrained")
        axes = figure.add_subplot()
        figure.colorbar(
            axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1), ax=axes, fraction=0.046
        )
        labels = [*shown, "background"]
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="true", ylabel="predicted", title="Confusion (fractions of the true class)")
        if len(labels) <= _CELLS:
            for (row, column), count in np.ndenumerate(counts):
                ink = "white" if fractions[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=8)
        _save(figure, target)


def _axes(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y, title=title, xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return figure, axes


def _classes(
    axes: Axes, x: Array, curves: Array, *, labels: Sequence[str], numbers: NDArray[np.intp]
) -> None:
    """Draw a thin curve a class, [classes, T]; the legend names them while it can be read."""
    for label, number, values in zip(labels, numbers.tolist(), curves, strict=True):
        tint = tuple(part / 255 for part in reversed(colour(number)))
        shown = label if len(labels) <= _LEGEND else "_"  # matplotlib skips labels with a _
        axes.plot(x, values, linewidth=1, color=tint, label=shown)


def _mean(axes: Axes, x: Array, values: Array, *, label: str) -> None:
    axes.plot(x, values, linewidth=2.5, color="black", label=label)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)


def _save(figure: Figure, target: Path) -> None:
    with replacing(target) as part:
        figure.savefig(part, dpi=120)
