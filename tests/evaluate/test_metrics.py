"""Metrics: COCO's own tool, and counting by hand."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prune.evaluate.metrics import (
    GRID,
    Array,
    Boxes,
    coco_precision,
    confidence_curves,
    confusion,
    evaluate,
    matched,
)

NAMES = ("a", "b", "c")


def random_split(seed: int, images: int = 6) -> tuple[list[Boxes], list[Boxes]]:
    """Truth, and detections scattered around it with some made up; class "c" has no truth."""
    rng = np.random.default_rng(seed)
    truth: list[Boxes] = []
    found: list[Boxes] = []
    for _ in range(images):
        count = int(rng.integers(0, 8))
        corner, size = rng.uniform(0, 200, (count, 2)), rng.uniform(5, 90, (count, 2))
        real = np.concatenate([rng.integers(0, 2, (count, 1)), corner, corner + size], axis=1)
        copies = np.repeat(real, int(rng.integers(0, 4)), axis=0)
        moved = copies[:, 1:] + rng.normal(0, 6, (len(copies), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        label = np.where(
            rng.random(len(copies)) < 0.2, rng.integers(0, 3, len(copies)), copies[:, 0]
        )
        confidence = rng.random(len(copies))
        truth.append(real)
        found.append(np.concatenate([moved, confidence[:, None], label[:, None]], axis=1))
    return truth, found


def pycocotools_scores(
    truth: list[Boxes], found: list[Boxes], *, limit: int = 100
) -> tuple[float, float]:
    """Return mAP and mAP@.5 by the reference tool, `limit` detections per image and class."""
    records = [
        {"image_id": i, "category_id": int(c), "bbox": [x, y, r - x, b - y]}
        | {"area": (r - x) * (b - y), "iscrowd": 0}
        for i, boxes in enumerate(truth)
        for c, x, y, r, b in boxes.tolist()
    ]
    answers = [
        {"image_id": i, "category_id": int(c), "bbox": [x, y, r - x, b - y], "score": s}
        for i, boxes in enumerate(found)
        for x, y, r, b, s, c in boxes.tolist()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        real = COCO()
        real.dataset = {
            "images": [{"id": i} for i in range(len(truth))],
            "categories": [{"id": i} for i in range(len(NAMES))],
            "annotations": [record | {"id": i + 1} for i, record in enumerate(records)],
        }
        real.createIndex()
        run = COCOeval(real, real.loadRes(answers), "bbox")
        run.params.maxDets = [1, 10, limit]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0, -1]  # [10 IoUs, 101 recalls, classes]
    return float(precision[precision > -1].mean()), float(precision[0][precision[0] > -1].mean())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_average_precision_equals_pycocotools(seed: int) -> None:
    truth, found = random_split(seed)
    scores = evaluate(truth, found, NAMES)
    if not any(map(len, truth)) or not any(map(len, found)):
        assert scores.map == 0  # pycocotools has no answer for an empty list of detections
        return
    assert (scores.map, scores.map50) == pytest.approx(pycocotools_scores(truth, found), abs=1e-6)


def test_hundred_a_image_and_class_as_coco_does() -> None:
    truth = [np.array([[0.0, 0, 0, 10, 10]])]
    wrong = np.tile([50.0, 50, 60, 60, 0.9, 0], (100, 1))
    right = np.array([[0.0, 0, 10, 10, 0.1, 0]])
    other = np.tile([50.0, 50, 60, 60, 0.9, 1], (100, 1))
    assert evaluate(truth, [np.concatenate([other, wrong[:99], right])], NAMES).map50 > 0
    assert evaluate(truth, [np.concatenate([wrong, right])], NAMES).map50 == 0


def test_more_than_a_hundred_count_as_coco_counts_them() -> None:
    """Many to a image, of two classes, with confidences that they share."""
    rng = np.random.default_rng(3)
    truth, found = random_split(3)
    for i, real in enumerate(truth):
        copies = np.tile(np.asarray(real, dtype=np.float64), (250 // max(len(real), 1), 1))
        moved = rng.normal(copies[:, 1:], 4)
        confidence = rng.choice(np.linspace(0.05, 0.95, 19), (len(copies), 1))
        found[i] = np.concatenate([moved, confidence, copies[:, :1]], axis=1)
    scores = evaluate(truth, found, NAMES)
    assert (scores.map, scores.map50) == pytest.approx(pycocotools_scores(truth, found), abs=1e-6)
    assert 0 < scores.map < 1


def grid(count: int, *, label: int = 0) -> Array:
    """Boxes of one class side by side, [count, 5]: class, x1, y1, x2, y2."""
    x, y = np.arange(count) % 20 * 30.0, np.arange(count) // 20 * 30.0
    return np.stack([np.full(count, float(label)), x, y, x + 20, y + 20], axis=1)


def test_as_many_count_as_the_fullest_image_has_of_a_class() -> None:
    """An image of 200 cells, all found, and in another one detections beyond 200 are left out."""
    truth: list[Boxes] = [grid(200), grid(1)]
    found: list[Boxes] = [
        np.concatenate([grid(count)[:, 1:], np.full((count, 1), 0.9), np.zeros((count, 1))], axis=1)
        for count in (200, 250)
    ]
    found[1] = found[1][::-1]  # the one that is right comes last
    scores = evaluate(truth, found, NAMES)
    assert scores.counted == 200
    assert (scores.map, scores.map50) == pytest.approx(
        pycocotools_scores(truth, found, limit=200), abs=1e-6
    )
    assert evaluate(truth[:1], found[:1], NAMES).map == pytest.approx(1)


@pytest.mark.parametrize("labels", [(0, 1), (0,)], ids=["100 of each class", "100 in all"])
def test_hundred_of_a_class_are_scored_as_coco_scores_them(labels: tuple[int, ...]) -> None:
    rng = np.random.default_rng(5)
    boxes: Array = np.concatenate([grid(100, label=label) for label in labels])
    truth: list[Boxes] = [boxes]
    real: Array = np.tile(boxes, (2, 1))
    moved = rng.normal(real[:, 1:], 3)
    found: list[Boxes] = [np.concatenate([moved, rng.random((len(real), 1)), real[:, :1]], axis=1)]
    scores = evaluate(truth, found, NAMES)
    assert scores.counted == 100
    assert (scores.map, scores.map50) == pytest.approx(pycocotools_scores(truth, found), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_own_matches_give_coco_average_precision(seed: int) -> None:
    truth, found = random_split(seed)
    right = np.concatenate([matched(*pair) for pair in zip(truth, found, strict=True)])
    rows = np.concatenate(found)
    expected = coco_precision(truth, found, len(NAMES))[0]  # [101, classes]
    for label in (0, 1):
        own = rows[:, 5] == label
        instances = sum(int((boxes[:, 0] == label).sum()) for boxes in truth)
        if instances:
            curve = interpolated(right[own].astype(float), rows[own, 4], instances)
            np.testing.assert_allclose(curve, expected[:, label], atol=1e-9)


def interpolated(right: Array, confidence: Array, instances: int) -> Array:
    """Best precision at each recall or beyond, at 101 recalls."""
    hits = np.cumsum(right[np.argsort(-confidence, kind="stable")])
    recall, precision = hits / instances, hits / np.arange(1, len(hits) + 1)
    reached = [precision[recall >= level] for level in np.linspace(0, 1, 101)]
    return np.array([values.max() if len(values) else 0.0 for values in reached])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), position=st.integers(0, 1000))
def test_curves_equal_counting_at_one_threshold(seed: int, position: int) -> None:
    truth, found = random_split(seed)
    curves = confidence_curves(truth, found, len(NAMES))
    sure = [boxes[boxes[:, 4] >= GRID[position]] for boxes in found]
    rows = np.concatenate(sure)
    right = np.concatenate([matched(*pair) for pair in zip(truth, sure, strict=True)])
    for label in range(2):
        hits = int(right[rows[:, 5] == label].sum())
        total, real = int((rows[:, 5] == label).sum()), int(curves.instances[label])
        precision, recall = hits / max(total, 1), hits / max(real, 1)
        assert curves.precision[label, position] == pytest.approx(precision)
        assert curves.recall[label, position] == pytest.approx(recall)
        f1 = 2 * precision * recall / max(precision + recall, 1e-12)
        assert curves.f1[label, position] == pytest.approx(f1)


def test_precision_and_recall_at_the_best_f1() -> None:
    truth = [np.array([[0, 0, 0, 10, 10], [0, 20, 20, 30, 30], [0, 40, 40, 50, 50]])]
    found = np.array(
        [
            [0, 0, 10, 10, 0.9, 0],
            [20, 20, 30, 30, 0.8, 0],
            [60, 60, 70, 70, 0.7, 0],
            [80, 80, 90, 90, 0.6, 0],
        ]
    )
    scores = evaluate(truth, [found], ("a",))
    assert (scores.precision, scores.recall) == pytest.approx((1, 2 / 3))
    assert scores.f1 == pytest.approx(0.8)
    assert scores.confidence == pytest.approx(0.75, abs=2e-3)  # all above 0.7 up to 0.8 are alike


def test_class_without_truth_has_no_score_and_no_part_in_the_mean() -> None:
    truth = [np.array([[0, 0, 0, 10, 10]])]
    found = [np.array([[0, 0, 10, 10, 0.9, 0], [0, 0, 10, 10, 0.9, 2]])]
    scores = evaluate(truth, found, NAMES)
    assert (scores.map50, scores.precision, scores.recall) == pytest.approx((1, 1, 1))
    assert [row.map50 for row in scores.per_class] == [pytest.approx(1), None, None]
    assert [row.instances for row in scores.per_class] == [1, 0, 0]


@pytest.mark.parametrize(
    ("truth", "found"),
    [
        ([], []),
        ([np.zeros((0, 5))], [np.zeros((0, 6))]),
        ([np.array([[0, 0, 0, 9, 9.0]])], [np.zeros((0, 6))]),
        ([np.zeros((0, 5))], [np.array([[0, 0, 9, 9, 0.5, 0]])]),
    ],
    ids=["no pictures", "empty pictures", "nothing found", "nothing there"],
)
def test_nothing_scores_zero(truth: list[Boxes], found: list[Boxes]) -> None:
    scores = evaluate(truth, found, NAMES)
    assert (scores.map50, scores.map, scores.precision, scores.recall, scores.f1) == (0,) * 5
    assert scores.images == len(truth)


def test_library_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(*random_split(1), NAMES)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_confusion_counts_every_box_once(seed: int) -> None:
    truth, found = random_split(seed)
    counts = confusion(truth, found, len(NAMES), confidence=0.25)
    rows: Array = np.concatenate(found)
    real: Array = np.concatenate(truth)
    for label in range(len(NAMES)):
        assert counts[:, label].sum() == (real[:, 0] == label).sum()
        assert counts[label].sum() == ((rows[:, 5] == label) & (rows[:, 4] >= 0.25)).sum()
    assert counts[-1, -1] == 0


def test_confusion_names_what_was_taken_for_what() -> None:
    truth = [np.array([[0, 0, 0, 10, 10], [1, 20, 20, 30, 30], [1, 40, 40, 50, 50]])]
    found = [
        np.array(
            [
                [0, 0, 10, 10, 0.9, 0],
                [20, 20, 30, 30, 0.8, 0],
                [80, 80, 90, 90, 0.6, 1],
                [40, 40, 50, 50, 0.1, 1],
            ]
        )
    ]
    assert confusion(truth, found, 2).tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
