"""Heads: maps -> boxes, against formulas written cell by cell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prune.models.head import Yolo

ANCHORS = torch.tensor([[10.0, 13.0], [33.0, 23.0]])
CLASSES, STRIDE, SCALE = 2, 16, 1.2


def head(*, new_coords: bool, scale_x_y: float = SCALE) -> Yolo:
    return Yolo(
        ANCHORS,
        stride=STRIDE,
        classes=CLASSES,
        scale_x_y=scale_x_y,
        new_coords=new_coords,
    )


def raw_map(rows: int = 2, columns: int = 3) -> Tensor:
    shape = (2, len(ANCHORS) * (5 + CLASSES), rows, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def size_of(value: float, anchor: float, *, new_coords: bool) -> float:
    return (2 * sigmoid(value)) ** 2 * anchor if new_coords else math.exp(value) * anchor


def boxes_by_hand(x: Tensor, *, new_coords: bool) -> list[list[float]]:
    """Decode the first image of a map with plain numbers."""
    _, _, rows, columns = x.shape
    found = []
    for a, (width, height) in enumerate(ANCHORS.tolist()):
        for row in range(rows):
            for column in range(columns):
                start = a * (5 + CLASSES)
                t = x[0, start : start + 5 + CLASSES, row, column].tolist()
                centre = [sigmoid(v) * SCALE - (SCALE - 1) / 2 for v in t[:2]]
                box = [(centre[0] + column) * STRIDE, (centre[1] + row) * STRIDE]
                box += [size_of(t[2], width, new_coords=new_coords)]
                box += [size_of(t[3], height, new_coords=new_coords)]
                found.append(box + [sigmoid(v) for v in t[4:]])
    return found


@pytest.mark.parametrize("new_coords", [True, False], ids=["squares", "exp"])
def test_decoding_is_the_formula_cell_by_cell(new_coords: bool) -> None:
    x = raw_map()
    decoded = head(new_coords=new_coords).decode(x)
    wanted = torch.tensor(boxes_by_hand(x, new_coords=new_coords))
    torch.testing.assert_close(decoded[0], wanted)
    assert decoded.shape == (2, 2 * 2 * 3, 5 + CLASSES)


def test_split_keeps_every_number() -> None:
    x = raw_map()
    split = head(new_coords=True).split(x)
    assert split.shape == (2, 2, 2, 3, 7)
    assert split[1, 1, 0, 2, 6] == x[1, 7 + 6, 0, 2]
    torch.testing.assert_close(split.permute(0, 1, 4, 2, 3).reshape(x.shape), x)


def test_box_of_zero_logits_sits_in_the_middle_with_the_anchors_size() -> None:
    for new_coords in (True, False):
        offset, size = head(new_coords=new_coords).box(torch.zeros(2, 4), ANCHORS)
        torch.testing.assert_close(offset, torch.full((2, 2), 0.5))
        torch.testing.assert_close(size, ANCHORS)


def test_scale_of_two_reaches_half_a_cell_beyond() -> None:
    far = torch.full((1, 4), 50.0)
    net = head(new_coords=True, scale_x_y=2.0)
    assert net.box(far, ANCHORS[:1])[0].tolist() == [[1.5, 1.5]]
    assert net.box(-far, ANCHORS[:1])[0].tolist() == [[-0.5, -0.5]]
    torch.testing.assert_close(net.box(far, ANCHORS[:1])[1], 4 * ANCHORS[:1])


def test_forward_passes_logits_on() -> None:
    x = raw_map()
    assert head(new_coords=True)(x) is x


def test_anchors_move_along_but_are_not_saved() -> None:
    moved = head(new_coords=True).to("meta")
    assert moved.anchors.device.type == "meta"
    assert moved.decode(raw_map().to("meta")).device.type == "meta"
    assert not moved.state_dict()


def test_half_precision_maps_get_full_precision_pixels() -> None:
    net, x = head(new_coords=True), raw_map(rows=3, columns=200)
    decoded = net.decode(x.half())
    assert decoded.dtype == torch.float32
    assert (decoded - net.decode(x)).abs().max() < 0.1
