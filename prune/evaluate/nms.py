"""Decoded boxes -> detections: thresholds, then class-aware non-maximum suppression."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from prune.common.boxes import pairwise_iou, xywh_to_xyxy
from prune.errors import InputError

MAX_CANDIDATES = 30_000  # an untrained network passes tens of thousands; the rest cannot matter
MAX_DETECTIONS = 300  # boxes per image, unless the caller chooses another number
_AT_ONCE = 600  # boxes that join in one call of OpenCV; fewer and more take longer
_BLOCK = 1024  # rows whose overlaps are held at once: 4 MB a matrix


def detections(
    decoded: Tensor,
    *,
    confidence: float,
    iou: float,
    max_detections: int = MAX_DETECTIONS,
    multi_label: bool = True,
) -> list[Tensor]:
    """Pick the boxes of each image.

    A box's confidence is its objectness times the class's probability.

    Args:
        decoded: [N, boxes, 5 + classes]: xywh in pixels, objectness, class probabilities.
        confidence: lowest objectness and lowest confidence of a box, in [0, 1).
        iou: overlap above which the less confident of two boxes of a class goes, in [0, 1].
        max_detections: maximum number of boxes per image, the most confident ones.
        multi_label: give a box every class above the threshold (as evaluation does), not the best.

    Returns:
        For each image float32 [n, 6]: x1, y1, x2, y2 in pixels, confidence, class; the most
        confident first.

    Raises:
        InputError: a threshold is outside its range.
    """
    if not 0 <= confidence < 1:
        raise InputError(f"confidence threshold is {confidence}; it must lie in [0, 1), e.g. 0.25")
    if not 0 <= iou <= 1:
        raise InputError(f"IoU threshold is {iou}; it must lie in [0, 1], e.g. 0.65")
    suppress = SUPPRESS.get(decoded.device.type, suppress_in_torch)
    picked = []
    for rows in decoded.float():
        boxes = _candidates(rows, confidence, multi_label=multi_label)
        picked.append(boxes[suppress(boxes, iou, max_detections)])
    return picked


def _candidates(rows: Tensor, confidence: float, *, multi_label: bool) -> Tensor:
    """Boxes above the threshold, [boxes, 5 + classes] -> [n, 6], the most confident first."""
    rows = rows[rows[:, 4] > confidence]
    # exp() decoding can overflow, and a side can underflow to 0; neither is a box
    rows = rows[rows.isfinite().all(dim=1) & (rows[:, 2:4] > 0).all(dim=1)]
    scores = rows[:, 5:] * rows[:, 4:5]  # [boxes, classes]
    above = scores > confidence
    if not multi_label:
        above &= torch.zeros_like(above).scatter(1, scores.argmax(dim=1, keepdim=True), True)
    box, label = above.nonzero(as_tuple=True)
    score, order = scores[box, label].sort(descending=True, stable=True)
    order, score = order[:MAX_CANDIDATES], score[:MAX_CANDIDATES]
    corners = xywh_to_xyxy(rows[box[order], :4])  # [n, 4]
    return torch.cat((corners, score[:, None], label[order, None].float()), dim=1)


def suppress_in_opencv(boxes: Tensor, iou: float, limit: int) -> Tensor:
    """Greedy suppression by OpenCV; see `SUPPRESS`.

    OpenCV keeps classes apart by moving each by more than the largest coordinate, which lets
    classes meet where coordinates are negative; so the smallest is moved to zero first. Its time
    grows with the square of the boxes, but which of the first k boxes remain never depends on
    those after them: so block after block joins those that remain, until that is enough.
    """
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long)
    rects = boxes[:, :4].double()
    rects = torch.cat((rects[:, :2], rects[:, 2:] - rects[:, :2]), dim=1)
    rects[:, :2] -= rects[:, :2].min()
    corner_size, scores, labels = rects.numpy(), boxes[:, 4].numpy(), boxes[:, 5].int().numpy()
    remaining = np.zeros(0, dtype=np.int64)
    for start in range(0, len(boxes), _AT_ONCE):
        block = np.arange(start, min(start + _AT_ONCE, len(boxes)))
        rows = np.concatenate((remaining, block))
        left = cv2.dnn.NMSBoxesBatched(
            corner_size[rows],  # type: ignore[arg-type]  # the stub knows sequences only
            scores[rows],  # type: ignore[arg-type]
            labels[rows],  # type: ignore[arg-type]
            0.0,
            iou,
        )
        remaining = rows[np.asarray(left, dtype=np.int64)]
        if len(remaining) >= limit:
            break
    return torch.from_numpy(remaining[:limit])


def suppress_in_torch(boxes: Tensor, iou: float, limit: int) -> Tensor:
    """Greedy suppression, block by block, on the boxes' own device; see `SUPPRESS`."""
    remaining = torch.zeros(0, dtype=torch.long, device=boxes.device)
    for block in torch.split(torch.arange(len(boxes), device=boxes.device), _BLOCK):
        free = block[~_overlaps(boxes[remaining], boxes[block], iou).any(dim=0)]
        remaining = torch.cat((remaining, free[_greedy(_overlaps(boxes[free], boxes[free], iou))]))
        if len(remaining) >= limit:
            break
    return remaining[:limit]


Suppress = Callable[[Tensor, float, int], Tensor]
"""(boxes [n, 6] the most confident first, IoU threshold, limit) -> positions left, [<= limit]."""

SUPPRESS: dict[str, Suppress] = {"cpu": suppress_in_opencv, "cuda": suppress_in_torch}


def _overlaps(first: Tensor, second: Tensor, iou: float) -> Tensor:
    """Which boxes of one class overlap too much, [n, 6] x [m, 6] -> bool [n, m]."""
    same = first[:, None, 5] == second[None, :, 5]
    return same & (pairwise_iou(first, second) > iou)


def _greedy(overlaps: Tensor) -> Tensor:
    """Resolve one block, bool [n, n] -> bool [n].

    A box stays if no earlier box that stays overlaps it. Each round settles at least one more box
    of every chain of overlaps, so it ends at the one answer after a few rounds.
    """
    earlier = overlaps.triu(diagonal=1)
    stays = torch.ones(len(overlaps), dtype=torch.bool, device=overlaps.device)
    while True:
        again = ~(earlier & stays[:, None]).any(dim=0)
        if torch.equal(again, stays):
            return stays
        stays = again
