"""Detections against the truth: COCO's average precision, and P, R, F1 at the best confidence.

Boxes come as one array per image, in pixels of the original: truth [n, 5] class, x1, y1, x2, y2;
found [n, 6] x1, y1, x2, y2, confidence, class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune.common.notes import note

Array = NDArray[np.float64]
Boxes = NDArray[np.float32] | NDArray[np.float64]

GRID = np.linspace(0, 1, 1001)  # confidences that curves are drawn over
LEARNED = 0.05  # mAP@.5 below which a detector has not learned its classes yet
CLOSE = 0.01  # mAP that a smaller or faster file may lose and still count as equal
COCO_LIMIT = 100  # detections per image and class that COCO counts


@dataclass(frozen=True)
class ClassMetrics:
    """One class; where it has no instances its metrics are None, not zero."""

    name: str
    map50: float | None
    map: float | None
    precision: float | None
    recall: float | None
    instances: int


@dataclass(frozen=True)
class Metrics:
    """Metrics of a split, in [0, 1]; means are over the classes that have instances.

    precision, recall and f1 are taken at `confidence`, where the mean F1 at IoU 0.5 is highest.
    `counted` is the number of detections per image and class that mAP counts, see `limit_of`.
    """

    map50: float
    map: float
    precision: float
    recall: float
    f1: float
    per_class: tuple[ClassMetrics, ...]
    images: int
    confidence: float = 0.0
    losses: tuple[float, ...] = ()
    forward_ms: float | None = None
    nms_ms: float | None = None
    counted: int = COCO_LIMIT

    @property
    def instances(self) -> int:
        """Count the objects that were to be found."""
        return sum(row.instances for row in self.per_class)


@dataclass(frozen=True)
class Curves:
    """Precision, recall and F1 of each class over `GRID`, [classes, 1001], at IoU 0.5."""

    precision: Array
    recall: Array
    f1: Array
    instances: NDArray[np.int64]

    def mean(self, values: Array) -> Array:
        """Average over the classes that have instances, [classes, T] -> [T]."""
        present = values[self.instances > 0]
        return present.mean(axis=0) if len(present) else np.zeros(values.shape[1])

    def best(self) -> int:
        """Return where in `GRID` the mean F1 is highest; of several places, the middle one."""
        mean = self.mean(self.f1)
        highest = np.flatnonzero(mean == mean.max())
        return int(highest[len(highest) // 2])


def evaluate(truth: Sequence[Boxes], found: Sequence[Boxes], names: Sequence[str]) -> Metrics:
    """Score detections against the truth (see the file's head for the arrays)."""
    precision = coco_precision(truth, found, len(names))  # [10, 101, classes]
    curves = confidence_curves(truth, found, len(names))
    best = curves.best()
    ap50, ap = precision[0].mean(axis=0), precision.mean(axis=(0, 1))  # [classes]
    columns = (ap50, ap, curves.precision[:, best], curves.recall[:, best])
    rows = zip(names, *columns, curves.instances, strict=True)
    return Metrics(
        map50=mean_precision(precision[:1]),
        map=mean_precision(precision),
        precision=float(curves.mean(curves.precision)[best]),
        recall=float(curves.mean(curves.recall)[best]),
        f1=float(curves.mean(curves.f1)[best]),
        per_class=tuple(_class_score(name, *values) for name, *values in rows),
        images=len(truth),
        confidence=float(GRID[best]),
        counted=limit_of(truth),
    )


def mean_precision(precision: Array) -> float:
    """Average what `coco_precision` gives over the classes that have truth; 0 where none has."""
    present = (precision >= 0).all(axis=(0, 1))  # [classes]
    return float(precision[..., present].mean()) if present.any() else 0.0


def _class_score(
    name: str, map50: float, ap: float, precision: float, recall: float, instances: int
) -> ClassMetrics:
    if not instances:
        return ClassMetrics(name, None, None, None, None, 0)
    scores = (float(map50), float(ap), float(precision), float(recall))
    return ClassMetrics(name, *scores, int(instances))


def coco_precision(truth: Sequence[Boxes], found: Sequence[Boxes], classes: int) -> Array:
    """Interpolated precision by COCO's definition: all areas, `limit_of` detections per class.

    Returns:
        [10 IoU thresholds 0.5 to 0.95, 101 recalls 0 to 1, classes]; -1 for a class without truth.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    images = [{"id": i + 1} for i in range(len(truth))]
    labels = [{"id": i + 1, "name": str(i)} for i in range(classes)]
    if not images or not any(len(boxes) for boxes in truth):
        return np.full((10, 101, classes), -1.0)
    limit = limit_of(truth)
    if limit > COCO_LIMIT:
        note(
            f"an image has {limit} boxes of one class; COCO counts {COCO_LIMIT} detections per "
            f"image and class, here {limit} count, so that all of them can be found"
        )
    annotations = _truth_records(truth)
    real = COCO(
        {"images": images, "categories": labels, "annotations": annotations},
        print_function=_silent,
    )
    answers = real.loadRes(_found_records(found, limit))
    run = COCOeval_faster(real, answers, "bbox", print_function=_silent)
    run.params.areaRng, run.params.areaRngLbl, run.params.maxDets = [[0, 1e10]], ["all"], [limit]
    run.evaluate()
    run.accumulate()
    return np.asarray(run.eval["precision"], dtype=np.float64)[:, :, :, 0, 0]


def limit_of(truth: Sequence[Boxes]) -> int:
    """Return how many detections per image and class count, given the truth of all images.

    COCO counts 100. An image with more boxes of one class could then never be found completely, so
    as many count as the fullest image has of a class.
    """
    labels = (np.asarray(boxes)[:, 0].astype(np.int64) for boxes in truth if len(boxes))
    return max(COCO_LIMIT, 0, *(int(np.bincount(own).max()) for own in labels))


def _silent(*_: object) -> None:
    """Swallow what the COCO library would print."""


def _truth_records(truth: Sequence[Boxes]) -> list[dict[str, object]]:
    records: list[dict[str, object]] = []
    for image, boxes in enumerate(truth, start=1):
        for label, x1, y1, x2, y2 in np.asarray(boxes, dtype=np.float64).tolist():
            record = _record(image, label, (x1, y1, x2, y2))
            # COCO takes number 0 for "no match", so its numbers start at 1
            records.append({**record, "id": len(records) + 1, "iscrowd": 0})
    return records


def _found_records(found: Sequence[Boxes], limit: int) -> list[dict[str, object]]:
    return [
        {**_record(image, label, (x1, y1, x2, y2)), "score": score}
        for image, boxes in enumerate(found, start=1)
        for x1, y1, x2, y2, score, label in _counted(boxes, limit).tolist()
    ]


def _counted(boxes: Boxes, limit: int) -> Array:
    """Keep the detections of an image that count: the most confident `limit` of each class, [n, 6].

    COCO's tool leaves the others out by itself, but only after a record was built of each.
    """
    rows: Array = np.asarray(boxes, dtype=np.float64)
    if len(rows) <= limit:
        return rows
    order = np.argsort(-rows[:, 4], kind="stable")
    labels = rows[order, 5]
    kept = [order[labels == label][:limit] for label in np.unique(labels)]
    counted: Array = rows[np.sort(np.concatenate(kept))]
    return counted


def _record(image: int, label: float, box: tuple[float, float, float, float]) -> dict[str, object]:
    x1, y1, x2, y2 = box
    return {
        "image_id": image,
        "category_id": int(label) + 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "segmentation": None,  # else the library makes a polygon of every box
    }


def confidence_curves(
    truth: Sequence[Boxes], found: Sequence[Boxes], classes: int, *, iou: float = 0.5
) -> Curves:
    """Sweep the confidence threshold: P, R and F1 of each class over `GRID`.

    Where a class has no detection above the threshold, its precision counts as 0.
    """
    correct = np.concatenate(
        [matched(*pair, iou=iou) for pair in zip(truth, found, strict=True)] or [np.zeros(0, bool)]
    )
    rows = np.concatenate([np.zeros((0, 6)), *found])  # [detections, 6]
    labels = np.concatenate([np.zeros((0, 5)), *truth])[:, 0].astype(np.int64)
    instances = np.bincount(labels, minlength=classes)
    total, hits = np.zeros((2, classes, len(GRID)))
    for label in range(classes):
        own = rows[:, 5] == label
        total[label] = _count_above(rows[own, 4])
        hits[label] = _count_above(rows[own & correct, 4])
    precision = hits / np.maximum(total, 1)
    recall = hits / np.maximum(instances, 1)[:, None]
    f1 = 2 * hits / np.maximum(total + instances[:, None], 1)
    return Curves(precision, recall, f1, instances)


def _count_above(confidences: Array) -> NDArray[np.int64]:
    """How many confidences reach each point of `GRID`, [n] -> [1001]."""
    return len(confidences) - np.searchsorted(np.sort(confidences), GRID, side="left")


def matched(truth: Boxes, found: Boxes, *, iou: float = 0.5) -> NDArray[np.bool_]:
    """Return which detections of one image are right, by COCO's rule, [n, 5] x [m, 6] -> bool [m].

    The most confident first, each detection takes the truth of its class that it overlaps most
    among those still free, if that reaches `iou`.
    """
    right = np.zeros(len(found), dtype=bool)
    overlaps = pairwise_overlaps(found[:, :4], truth[:, 1:5])  # [m, n]
    overlaps = np.where(found[:, 5:6] == truth[None, :, 0], overlaps, 0)
    near = np.flatnonzero((overlaps >= iou).any(axis=1))  # the others cannot be right
    for row in near[np.argsort(-found[near, 4], kind="stable")]:
        best = overlaps[row].argmax()
        if overlaps[row, best] >= iou:
            right[row] = True
            overlaps[:, best] = -1  # taken
    return right


def pairwise_overlaps(first: Boxes, second: Boxes) -> Array:
    """Intersection over union of every pair of xyxy boxes in float64, [n, 4] x [m, 4] -> [n, m]."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    inter = sides.clip(min=0).prod(axis=2)  # [n, m]
    area, other = (a[:, 2:] - a[:, :2]).prod(axis=1), (b[:, 2:] - b[:, :2]).prod(axis=1)
    union = area[:, None] + other[None] - inter  # [n, m]
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union > 0))


def confusion(
    truth: Sequence[Boxes],
    found: Sequence[Boxes],
    classes: int,
    *,
    confidence: float = 0.25,
    iou: float = 0.5,
) -> NDArray[np.int64]:
    """Count which class was taken for which.

    Boxes pair up regardless of class, the largest overlap first.

    Returns:
        [classes + 1, classes + 1]: rows are predicted, columns true, the last of each background.
    """
    counts = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for real, boxes in zip(truth, found, strict=True):
        sure = boxes[boxes[:, 4] >= confidence]
        true, predicted = real[:, 0].astype(int), sure[:, 5].astype(int)
        rows, columns = _pairs(pairwise_overlaps(sure[:, :4], real[:, 1:5]), iou)
        np.add.at(counts, (predicted[rows], true[columns]), 1)
        counts[:, classes] += np.bincount(np.delete(predicted, rows), minlength=classes + 1)
        counts[classes] += np.bincount(np.delete(true, columns), minlength=classes + 1)
    return counts


def _pairs(overlaps: Array, iou: float) -> tuple[list[int], list[int]]:
    """Pair rows with columns one to one, the largest overlap first, down to `iou`."""
    rows: list[int] = []
    columns: list[int] = []
    order = np.argsort(-overlaps, axis=None, kind="stable")
    for row, column in zip(*np.unravel_index(order, overlaps.shape), strict=True):
        if overlaps[row, column] < iou:
            break
        if row not in rows and column not in columns:
            rows.append(int(row))
            columns.append(int(column))
    return rows, columns
