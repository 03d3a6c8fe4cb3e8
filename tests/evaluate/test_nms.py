"""NMS: each library's answer against a plain greedy one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prune.common.boxes import pairwise_iou
from prune.errors import InputError
from prune.evaluate.nms import Suppress, detections, suppress_in_opencv, suppress_in_torch

IOU = 0.6


def greedy(boxes: Tensor, iou: float) -> list[int]:
    """Take boxes in order unless one taken before, of the same class, overlaps more than `iou`."""
    kept: list[int] = []
    for i in range(len(boxes)):
        rivals = boxes[[k for k in kept if boxes[k, 5] == boxes[i, 5]]]
        if not len(rivals) or pairwise_iou(boxes[i : i + 1], rivals).max() <= iou:
            kept.append(i)
    return kept


def random_boxes(seed: int, count: int, *, classes: int = 3, low: float = 0.0) -> Tensor:
    """Sorted by confidence, float64 so that no overlap lies on the threshold by rounding."""
    generator = torch.Generator().manual_seed(seed)
    corner = low + torch.rand(count, 2, generator=generator) * 100
    size = 5 + torch.rand(count, 2, generator=generator) * 60
    scores = torch.rand(count, 1, generator=generator).sort(dim=0, descending=True).values
    labels = torch.randint(classes, (count, 1), generator=generator).float()
    return torch.cat((corner, corner + size, scores, labels), dim=1)


@pytest.mark.parametrize("suppress", [suppress_in_opencv, suppress_in_torch])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 120), low=st.sampled_from((0.0, -300.0)))
def test_library_nms_equals_plain_greedy(
    suppress: Suppress, seed: int, count: int, low: float
) -> None:
    boxes = random_boxes(seed, count, low=low)
    assert suppress(boxes, IOU, count).tolist() == greedy(boxes, IOU)


def test_both_libraries_agree_beyond_one_block_and_one_prefix() -> None:
    boxes = random_boxes(0, 6000, classes=2)
    opencv, torch_ = (f(boxes, 0.3, 300) for f in (suppress_in_opencv, suppress_in_torch))
    assert opencv.tolist() == torch_.tolist()
    assert opencv.max() > 1024  # else neither had to go on


def test_classes_do_not_meet_where_coordinates_are_negative() -> None:
    boxes = torch.tensor(
        [
            [21.0, 21, 121, 121, 0.9, 0],
            [-300, -300, -200, -200, 0.8, 1],
            [300, 300, 320, 320, 0.1, 0],
        ]
    )
    assert suppress_in_opencv(boxes, 0.5, 10).tolist() == [0, 1, 2]


@pytest.fixture
def decoded() -> Tensor:
    """One image: two overlapping boxes, one apart, one with low objectness; two classes."""
    return torch.tensor(
        [
            [50.0, 50, 20, 40, 0.9, 0.8, 0.5],
            [51, 50, 20, 40, 0.8, 0.7, 0.1],
            [150, 50, 20, 40, 0.5, 0.1, 0.9],
            [250, 50, 20, 40, 0.05, 1.0, 1.0],
        ]
    )[None]


def test_confidence_is_objectness_times_class_and_overlaps_go(decoded: Tensor) -> None:
    (found,) = detections(decoded, confidence=0.1, iou=0.5)
    expected = [
        [40, 30, 60, 70, 0.72, 0],
        [40, 30, 60, 70, 0.45, 1],
        [140, 30, 160, 70, 0.45, 1],
    ]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected))


def test_single_label_keeps_the_best_class_only(decoded: Tensor) -> None:
    (found,) = detections(decoded, confidence=0.1, iou=0.5, multi_label=False)
    assert found[:, 5].tolist() == [0, 1]


def test_limit_keeps_the_most_confident(decoded: Tensor) -> None:
    (found,) = detections(decoded, confidence=0.01, iou=0.5, max_detections=1)
    assert found[:, 4].tolist() == pytest.approx([0.72])


def test_boxes_that_are_no_boxes_are_dropped(decoded: Tensor) -> None:
    broken = decoded.repeat(3, 1, 1)
    broken[0, 0, 2] = float("inf")
    broken[1, 0, 5] = float("nan")
    broken[2, 0, 3] = 0
    for found in detections(broken, confidence=0.1, iou=0.5):
        assert found[:, 4].tolist() == pytest.approx([0.56, 0.45])


@pytest.mark.parametrize("shape", [(2, 0, 6), (2, 5, 6)], ids=["no boxes", "none above"])
def test_nothing_found_is_empty(shape: tuple[int, ...]) -> None:
    found = detections(torch.zeros(shape), confidence=0.1, iou=0.5)
    assert [tuple(boxes.shape) for boxes in found] == [(0, 6), (0, 6)]


@pytest.mark.parametrize(("confidence", "iou"), [(-0.1, 0.5), (1, 0.5), (0.1, -1), (0.1, 1.5)])
def test_threshold_outside_its_range_is_an_error(
    decoded: Tensor, confidence: float, iou: float
) -> None:
    with pytest.raises(InputError, match="threshold is"):
        detections(decoded, confidence=confidence, iou=iou)
