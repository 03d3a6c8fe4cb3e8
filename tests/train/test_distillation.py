"""Distillation: nothing to lose where maps agree, and worked out again a cell at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from prune.common.boxes import ciou
from prune.common.hyperparameters import SCRATCH
from prune.models.head import Yolo
from prune.models.loss import gains, level_balance
from prune.train import distillation
from prune.train.distillation import SURE, output_loss

ANCHORS = ((8.0, 12.0), (20.0, 10.0), (30.0, 30.0))
HEADS = tuple(
    Yolo(torch.tensor(ANCHORS) * stride / 8, stride=stride, classes=2, scale_x_y=2, new_coords=True)
    for stride in (8, 16)
)


def _maps(seed: int, *, shift: float = 0.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, 3 * 7, 32 // head.stride, 32 // head.stride) for head in HEADS]
    return [torch.randn(shape, generator=generator) + shift for shape in shapes]


def test_a_network_that_agrees_loses_nothing() -> None:
    taught = _maps(0)
    maps = [t.clone().requires_grad_() for t in taught]
    loss = output_loss(maps, taught, HEADS, hyp=SCRATCH)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    for head, gradient in zip(HEADS, torch.autograd.grad(loss, maps), strict=True):
        # Overlap has a kink where boxes agree; objectness and classes have none.
        assert head.split(gradient)[..., 4:].abs().max() < 1e-6


def _bernoulli(found: float, wanted: float) -> float:
    p, q = (1 / (1 + math.exp(-x)) for x in (wanted, found))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_the_loss_is_what_it_is_cell_by_cell() -> None:
    maps, taught = _maps(1), _maps(2)
    parts = [0.0, 0.0, 0.0]
    for raw, wish, head, weight in zip(maps, taught, HEADS, level_balance(HEADS), strict=True):
        values, wishes = head.split(raw).flatten(0, 3), head.split(wish).flatten(0, 3)
        anchors = (
            head.anchors[:, None, None].expand(2, *head.split(raw).shape[1:4], 2).flatten(0, 3)
        )
        objectness, seen, box, label = 0.0, 0.0, 0.0, 0.0
        for found, wanted, anchor in zip(values, wishes, anchors, strict=True):
            objectness += _bernoulli(float(found[4]), float(wanted[4])) / len(values)
            sure = float(wanted[4].sigmoid())
            if sure <= SURE:
                continue
            offset, size = head.box(torch.stack((found[:4], wanted[:4])), anchor)
            boxes = torch.cat((offset * head.stride, size), dim=1)
            seen += sure
            box += sure * (1 - float(ciou(boxes[:1], boxes[1:])))
            pairs = zip(found[5:].tolist(), wanted[5:].tolist(), strict=True)
            label += sure * sum(_bernoulli(a, b) for a, b in pairs) / 2
        for part, value in enumerate((box / seen, weight * objectness, label / seen)):
            parts[part] += value
    gained = sum(g * part for g, part in zip(gains(2, SCRATCH), parts, strict=True))
    loss = output_loss(maps, taught, HEADS, hyp={**SCRATCH, "distill": 3.0})
    assert float(loss) == pytest.approx(3 * gained * 2, rel=1e-4)


def test_a_teacher_that_sees_nothing_teaches_objectness_alone() -> None:
    taught = _maps(3, shift=-20.0)
    maps = [m.requires_grad_() for m in _maps(4)]
    gradients = torch.autograd.grad(output_loss(maps, taught, HEADS, hyp=SCRATCH), maps)
    for head, gradient in zip(HEADS, gradients, strict=True):
        by_value = head.split(gradient).abs().amax(dim=(0, 1, 2, 3))
        assert by_value[4] > 0
        assert by_value.sum() == by_value[4]


def test_all_cells_give_the_loss_of_the_sure_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    taught = _maps(7)

    def loss_and_gradients() -> list[Tensor]:
        maps = [m.requires_grad_() for m in _maps(8)]
        loss = output_loss(maps, taught, HEADS, hyp=SCRATCH)
        return [loss.detach(), *torch.autograd.grad(loss, maps)]

    few = loss_and_gradients()
    monkeypatch.setattr(distillation, "_pick_sure", distillation._pick_all)  # as on a GPU
    for one, other in zip(few, loss_and_gradients(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_box_without_bound_that_the_teacher_is_not_sure_of_does_no_harm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distillation, "_pick_sure", distillation._pick_all)  # as on a GPU
    head = Yolo(torch.tensor(ANCHORS), stride=8, classes=2, scale_x_y=1, new_coords=False)
    values = _maps(9)[0]
    head.split(values)[0, 0, 0, 0, 2] = 100.0  # a view: exp() of it has no finite square
    taught = _maps(10)[0]
    head.split(taught)[0, 0, 0, 0, 4] = -20.0
    values.requires_grad_()
    loss = output_loss([values], [taught], [head], hyp=SCRATCH)
    (gradient,) = torch.autograd.grad(loss, values)
    assert loss.isfinite() and gradient.isfinite().all()


def test_descending_the_loss_alone_leads_to_the_teacher() -> None:
    taught, maps = _maps(5), [m.requires_grad_() for m in _maps(6)]
    optimiser = torch.optim.Adam(maps, lr=0.05)
    start = float(output_loss(maps, taught, HEADS, hyp=SCRATCH).detach())
    for _ in range(200):
        optimiser.zero_grad()
        loss = output_loss(maps, taught, HEADS, hyp=SCRATCH)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert float(loss.detach()) < 0.05 * start
