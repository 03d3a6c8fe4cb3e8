"""Weights of images: by hand, and where there is little to weigh."""

from __future__ import annotations

import numpy as np
import pytest

from prune.data.labels import Boxes
from prune.evaluate.metrics import ClassMetrics, Metrics
from prune.train import sampling


def draw_image(*classes: int) -> Boxes:
    boxes = np.full((len(classes), 5), 0.5, dtype=np.float32)
    boxes[:, 0] = classes
    return boxes


LABELS = [draw_image(0, 0, 1), draw_image(), draw_image(0), draw_image(0, 2)]


@pytest.mark.parametrize(
    ("precision", "weights"),
    [
        ((0, 0, 0), (2 / 4 + 1, 0, 1 / 4, 1 / 4 + 1)),
        ((0.5, 1, 0.2), (2 / 16, 0, 1 / 16, 1 / 16 + 0.64)),
        ((0, 1, 1), (2 / 4, 0, 1 / 4, 1 / 4)),
        ((1, 1, 1), (1, 1, 1, 1)),
    ],
    ids=["before a score", "after one", "one class left", "nothing left"],
)
def test_weights_are_those_counted_by_hand(
    precision: tuple[float, ...], weights: tuple[float, ...]
) -> None:
    assert sampling.weigh_images(LABELS, precision) == pytest.approx(weights)


def test_images_without_boxes_weigh_the_same() -> None:
    assert sampling.weigh_images([draw_image(), draw_image()], [0.0, 0.0]).tolist() == [1, 1]


def test_a_class_without_boxes_changes_nothing() -> None:
    three = sampling.weigh_images(LABELS, [0.1, 0.2, 0.3])
    assert sampling.weigh_images(LABELS, [0.1, 0.2, 0.3, 0.4]).tolist() == three.tolist()


def test_the_latest_score_is_found_in_the_rows() -> None:
    classes = [("a", 0.25), ("b", None), ("c", 0.5)]
    per_class = tuple(ClassMetrics(name, ap, ap, ap, ap, ap is not None) for name, ap in classes)
    scores = Metrics(0.4, 0.3, 0.5, 0.5, 0.5, per_class, images=4)
    scored = {"epoch": 2.0, "map": 0.3, **sampling.class_precisions(scores)}
    rows = [{"epoch": 1.0, "map": 0.1, "map_0": 0.9, "map_1": 0.9}, scored, {"epoch": 3.0}]
    assert sampling.latest_precisions(rows, 3) == [0.25, 0, 0.5]
    assert sampling.latest_precisions([], 3) == [0, 0, 0]
