"""The loss: measured elsewhere, worked out again one box at a time, and at its edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from prune.common.hyperparameters import SCRATCH
from prune.errors import TrainError
from prune.models.assignment import assign, last_claims
from prune.models.darknet import Darknet
from prune.models.head import Yolo
from prune.models.loss import detection_loss
from prune.models.sections import parse, with_classes

ANCHORS = ((8.0, 12.0), (20.0, 10.0), (30.0, 30.0))
SIZE = 64  # pixels of the images in these tests


def make_head(stride: int, *, classes: int = 3, scale: float = 2.0, exp: bool = False) -> Yolo:
    anchors = torch.tensor(ANCHORS) * stride / 8
    return Yolo(anchors, stride=stride, classes=classes, scale_x_y=scale, new_coords=not exp)


def make_maps(heads: Sequence[Yolo], *, images: int, seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [
        torch.randn(
            (images, 3 * (5 + head.classes), SIZE // head.stride, SIZE // head.stride),
            requires_grad=True,
        )
        for head in heads
    ]


def make_targets(count: int, *, images: int, classes: int, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    size = random.uniform(0.05, 0.7, (count, 2))
    centre = size / 2 + random.random((count, 2)) * (1 - size)
    image, label = random.integers(images, size=count), random.integers(classes, size=count)
    return torch.tensor(np.column_stack([image, label, centre, size]), dtype=torch.float32)


@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6", "yolov4_csp"])
def test_loss_agrees_with_the_public_code(name: str) -> None:
    measured = np.load(reference.GOLDEN / f"{name}.npz")
    text = (reference.CFG / f"{name}.cfg").read_text()
    with torch.device("meta"):
        heads = Darknet(with_classes(parse(text), 3)).heads
    heads = [
        Yolo(anchors, stride=head.stride, classes=3, scale_x_y=2.0, new_coords=True)
        for head, anchors in zip(heads, _anchors(text, len(heads)), strict=True)
    ]
    raw = [torch.from_numpy(measured[f"raw{i}"]) for i in range(len(heads))]
    maps = [x.permute(0, 1, 4, 2, 3).flatten(1, 2) for x in raw]  # [N, A * no, ny, nx]
    total, items = detection_loss(maps, heads, reference.targets(), hyp=SCRATCH)
    np.testing.assert_allclose(items.numpy(), measured["loss_items"], rtol=1e-4)
    np.testing.assert_allclose([total.item()], measured["loss_total"], rtol=1e-4)


def _anchors(text: str, levels: int) -> Tensor:
    yolo = next(section for section in parse(text) if section.kind == "yolo")
    values = [float(value) for value in yolo.options["anchors"].split(",")]
    return torch.tensor(values).view(levels, -1, 2)


CASES: dict[str, tuple[list[Yolo], dict[str, float]]] = {
    "three levels": ([make_head(8), make_head(16), make_head(32)], {}),
    "coarse level first": ([make_head(32), make_head(8)], {}),
    "exp decoding": ([make_head(8, scale=1.05, exp=True), make_head(16, exp=True)], {}),
    "one class": ([make_head(8, classes=1), make_head(16, classes=1)], {}),
    "smoothed, weighted": (
        [make_head(8), make_head(16)],
        {"label_smoothing": 0.1, "cls_pw": 2.0, "obj_pw": 0.5, "anchor_t": 2.5},
    ),
    "five levels": ([make_head(4), *(make_head(8) for _ in range(3)), make_head(16)], {}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(3))
def test_loss_equals_the_sum_worked_out_box_by_box(case: str, seed: int) -> None:
    heads, changes = CASES[case]
    hyp = {**SCRATCH, **changes}
    maps = make_maps(heads, images=2, seed=seed)
    targets = make_targets(12, images=2, classes=heads[0].classes, seed=seed)
    total, items = detection_loss(maps, heads, targets, hyp=hyp)
    expected = slow_loss(maps, heads, targets, hyp)
    assert items[:3].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert total.item() == pytest.approx(2 * sum(expected), rel=1e-4)


def test_batch_without_boxes_gives_a_finite_loss_and_gradient() -> None:
    heads = [make_head(8), make_head(16)]
    maps = make_maps(heads, images=2, seed=0)
    total, items = detection_loss(maps, heads, torch.zeros(0, 6), hyp=SCRATCH)
    total.backward()  # type: ignore[no-untyped-call]
    assert items[[0, 2]].tolist() == [0, 0]
    assert items[1] > 0
    for raw in maps:
        assert raw.grad is not None
        assert raw.grad.isfinite().all()


def test_gradient_reaches_every_objectness_and_the_boxes_of_positives_alone() -> None:
    heads = [make_head(8)]
    (raw,) = maps = make_maps(heads, images=1, seed=0)
    targets = torch.tensor([[0, 1, 0.4, 0.6, 0.2, 0.25]])
    total, _ = detection_loss(maps, heads, targets, hyp=SCRATCH)
    total.backward()  # type: ignore[no-untyped-call]
    assert raw.grad is not None
    gradient = heads[0].split(raw.grad)  # [1, A, ny, nx, 8]
    found = assign(heads[0], targets, grid=(8, 8), anchor_t=4.0)
    positive = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    positive[found.image, found.anchor, found.row, found.column] = True
    assert (gradient[..., 4] != 0).all()
    assert (gradient[..., :4][positive] != 0).all()
    assert (gradient[..., 5:][positive] != 0).all()
    assert (gradient[..., :4][~positive] == 0).all()


def test_half_precision_maps_give_the_loss_of_their_float_values() -> None:
    heads = [make_head(8)]
    maps = [raw.detach().bfloat16() for raw in make_maps(heads, images=1, seed=0)]
    targets = make_targets(5, images=1, classes=3, seed=0)
    _, items = detection_loss(maps, heads, targets, hyp=SCRATCH)
    _, wide = detection_loss([raw.float() for raw in maps], heads, targets, hyp=SCRATCH)
    assert items.equal(wide)


def test_one_class_has_no_class_loss() -> None:
    heads = [make_head(8, classes=1)]
    maps = make_maps(heads, images=1, seed=0)
    targets = make_targets(5, images=1, classes=1, seed=0)
    assert detection_loss(maps, heads, targets, hyp=SCRATCH)[1][2] == 0


def test_more_heads_than_the_recipe_knows_are_refused() -> None:
    heads = [make_head(8)] * 6
    with pytest.raises(TrainError, match="6 heads"):
        detection_loss(make_maps(heads, images=1, seed=0), heads, torch.zeros(0, 6), hyp=SCRATCH)


@pytest.mark.parametrize(
    ("centre", "cells"),
    [
        ((2.3, 4.4), {(2, 4), (1, 4), (2, 3)}),
        ((2.7, 4.6), {(2, 4), (3, 4), (2, 5)}),
        ((2.5, 4.5), {(2, 4)}),
        ((0.2, 0.2), {(0, 0)}),
        ((7.9, 7.9), {(7, 7)}),
        ((8.0, 8.0), {(7, 7)}),
        ((1.0, 3.8), {(1, 3), (0, 3), (1, 4)}),
    ],
    ids=["left, above", "right, below", "middle", "corner", "far corner", "far edge", "border"],
)
def test_cells_that_answer_for_a_box(
    centre: tuple[float, float], cells: set[tuple[int, int]]
) -> None:
    box = torch.tensor([[0, 0, centre[0] / 8, centre[1] / 8, 8 / 64, 12 / 64]])
    found = assign(make_head(8), box, grid=(8, 8), anchor_t=4.0)
    columns, rows = found.column.tolist(), found.row.tolist()
    assert set(zip(columns, rows, strict=True)) == cells


def test_head_that_stays_in_its_cell_answers_from_there_alone() -> None:
    box = torch.tensor([[0, 0, 2.3 / 8, 4.4 / 8, 8 / 64, 12 / 64]])
    found = assign(make_head(8, scale=1.05, exp=True), box, grid=(8, 8), anchor_t=4.0)
    assert {(2, 4)} == set(zip(found.column.tolist(), found.row.tolist(), strict=True))


def test_last_claim_of_each_cell_stands() -> None:
    cells = torch.tensor([3, 1, 3, 0, 1, 3])
    assert last_claims(cells, 5).tolist() == [False, False, False, True, True, True]


# The same loss, one box at a time, in plain Python numbers.

STEPS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))
WEIGHTS: dict[int, list[float]] = {
    1: [1],
    2: [4, 1],
    3: [4, 1, 0.4],
    4: [4, 1, 0.4, 0.1],
    5: [4, 1, 0.5, 0.4, 0.1],
}


def slow_loss(
    maps: Sequence[Tensor], heads: Sequence[Yolo], targets: Tensor, hyp: Mapping[str, float]
) -> list[float]:
    strides = sorted(head.stride for head in heads)
    weights, used = WEIGHTS[len(heads)], [0] * len(heads)
    sums = [0.0, 0.0, 0.0]
    for raw, head in zip(maps, heads, strict=True):
        rank = strides.index(head.stride)
        used[rank] += 1
        parts = slow_level(head.split(raw).tolist(), head, targets.tolist(), hyp)
        weight = weights[rank + used[rank] - 1]
        sums = [a + b for a, b in zip(sums, (parts[0], weight * parts[1], parts[2]), strict=True)]
    share = 3 / len(heads)
    gains = (hyp["box"], hyp["obj"] * (1.4 if len(heads) >= 4 else 1), hyp["cls"])
    return [value * gain * share for value, gain in zip(sums, gains, strict=True)]


def slow_level(
    values: list[list[list[list[list[float]]]]],
    head: Yolo,
    targets: list[list[float]],
    hyp: Mapping[str, float],
) -> tuple[float, float, float]:
    rows, columns = len(values[0][0]), len(values[0][0][0])
    wanted: dict[tuple[int, int, int, int], float] = {}
    misses, entropies = [], []
    for step in STEPS if head.scale_x_y >= 2 else STEPS[:1]:
        for a, anchor in enumerate(head.anchors.tolist()):
            for image, label, *box in targets:
                x, y = box[0] * columns, box[1] * rows
                size = box[2] * columns * head.stride, box[3] * rows * head.stride
                ratios = [side / own for side, own in zip(size, anchor, strict=True)]
                column, row = int(x) + step[0], int(y) + step[1]
                near = abs(x - column - 0.5) < 1 and abs(y - row - 0.5) < 1
                inside = 0 <= column < columns and 0 <= row < rows
                fits = max(max(ratio, 1 / ratio) for ratio in ratios) < hyp["anchor_t"]
                if not (near and inside and fits):
                    continue
                cell = values[int(image)][a][row][column]
                overlap = slow_overlap(cell, head, anchor, (x - column, y - row, *size))
                wanted[int(image), a, row, column] = max(overlap, 0)
                misses.append(1 - overlap)
                entropies += slow_classes(cell[5:], int(label), hyp)
    objectness = [
        slow_entropy(cell[4], wanted.get((n, a, row, column), 0.0), hyp["obj_pw"])
        for n, anchors in enumerate(values)
        for a, grid in enumerate(anchors)
        for row, line in enumerate(grid)
        for column, cell in enumerate(line)
    ]
    label_loss = mean(entropies) if head.classes > 1 else 0.0
    return mean(misses), mean(objectness), label_loss


def slow_classes(logits: list[float], label: int, hyp: Mapping[str, float]) -> list[float]:
    low = hyp["label_smoothing"] / 2
    return [
        slow_entropy(logit, 1 - low if i == label else low, hyp["cls_pw"])
        for i, logit in enumerate(logits)
    ]


def slow_entropy(logit: float, target: float, weight: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -(weight * target * math.log(p) + (1 - target) * math.log(1 - p))


def slow_overlap(
    cell: list[float], head: Yolo, anchor: list[float], box: tuple[float, float, float, float]
) -> float:
    """CIoU in pixels of one decoded cell with a box (centre in cells from its corner, size)."""
    p = [1 / (1 + math.exp(-value)) for value in cell[:4]]
    x, y = (head.stride * (head.scale_x_y * v - (head.scale_x_y - 1) / 2) for v in p[:2])
    if head.new_coords:
        w, h = ((2 * v) ** 2 * side for v, side in zip(p[2:], anchor, strict=True))
    else:
        w, h = (math.exp(v) * side for v, side in zip(cell[2:4], anchor, strict=True))
    tx, ty, tw, th = box[0] * head.stride, box[1] * head.stride, box[2], box[3]
    across = min(x + w / 2, tx + tw / 2) - max(x - w / 2, tx - tw / 2)
    down = min(y + h / 2, ty + th / 2) - max(y - h / 2, ty - th / 2)
    shared = max(across, 0) * max(down, 0)
    iou = shared / (w * h + tw * th - shared)
    hull_w = max(x + w / 2, tx + tw / 2) - min(x - w / 2, tx - tw / 2)
    hull_h = max(y + h / 2, ty + th / 2) - min(y - h / 2, ty - th / 2)
    apart = ((x - tx) ** 2 + (y - ty) ** 2) / (hull_w**2 + hull_h**2)
    shape = 4 / math.pi**2 * (math.atan(tw / th) - math.atan(w / h)) ** 2
    return iou - apart - shape**2 / (1 - iou + shape)


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
