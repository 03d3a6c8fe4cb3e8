"""Box arithmetic against plain Python on single boxes."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from prune.common.boxes import ciou, pairwise_iou, xywh_to_xyxy, xyxy_to_xywh

_side = st.floats(0.5, 50, width=32)
_place = st.floats(-50, 50, width=32)
_box = st.tuples(_place, _place, _side, _side)


def _plain_iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[0] + a[2] / 2, b[0] + b[2] / 2) - max(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = min(a[1] + a[3] / 2, b[1] + b[3] / 2) - max(a[1] - a[3] / 2, b[1] - b[3] / 2)
    inter = max(width, 0) * max(height, 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


def _plain_ciou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    iou = _plain_iou(a, b)
    width = max(a[0] + a[2] / 2, b[0] + b[2] / 2) - min(a[0] - a[2] / 2, b[0] - b[2] / 2)
    height = max(a[1] + a[3] / 2, b[1] + b[3] / 2) - min(a[1] - a[3] / 2, b[1] - b[3] / 2)
    distance = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (width**2 + height**2)
    aspect = 4 / math.pi**2 * (math.atan(b[2] / b[3]) - math.atan(a[2] / a[3])) ** 2
    return iou - distance - (aspect**2 / (1 - iou + aspect) if aspect else 0)


@given(_box, _box)
def test_overlaps_agree_with_plain_python(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    first, second = torch.tensor([a]).double(), torch.tensor([b]).double()
    iou = pairwise_iou(xywh_to_xyxy(first), xywh_to_xyxy(second))
    assert abs(iou.item() - _plain_iou(a, b)) < 1e-6
    assert abs(ciou(first, second).item() - _plain_ciou(a, b)) < 1e-5


@given(_box)
def test_corners_and_centres_are_inverse(box: tuple[float, ...]) -> None:
    boxes = torch.tensor([box]).double()
    assert torch.allclose(xyxy_to_xywh(xywh_to_xyxy(boxes)), boxes)


def test_pairwise_iou_has_a_row_a_box() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 3], [5, 5, 6, 6]])
    table = pairwise_iou(boxes, boxes[:2])
    assert table.shape == (3, 2)
    assert torch.allclose(table, torch.tensor([[1, 1 / 7], [1 / 7, 1], [0, 0]]))
