"""Gradients before the step: limited, pulled, and left alone where nobody asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prune.common.hyperparameters import SCRATCH
from prune.train.optim import build_optimizer, prepare_gradients


def gradients(*, clip: float = 0.0, l1: float = 0.0, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return those of a linear layer with weights (-2, 1, 0) and input (3, 4, 0), and of its bias.

    Before anything is done to them, they are (3, 4, 0) and 12.
    """
    layer = nn.Linear(3, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-2.0, 1.0, 0.0]]))
    optimizer = build_optimizer(layer, {**SCRATCH, "l1": l1}, decay_factor=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
    output = layer(torch.tensor([3.0, 4.0, 0.0])) + 11 * layer.bias
    scaler.scale(output.sum()).backward()
    prepare_gradients(optimizer, scaler, clip=clip)
    assert layer.weight.grad is not None and layer.bias.grad is not None
    return layer.weight.grad[0], layer.bias.grad


def test_nothing_is_done_unasked() -> None:
    weight, bias = gradients(scale=8)
    assert (weight.tolist(), bias.tolist()) == ([24, 32, 0], [96])  # the scaler's own step divides


@pytest.mark.parametrize("scale", [1.0, 1024.0], ids=["as it is", "scaled for float16"])
@pytest.mark.parametrize(("clip", "share"), [(6.5, 0.5), (13, 1), (99, 1)])
def test_all_gradients_together_are_clipped(clip: float, share: float, scale: float) -> None:
    weight, bias = gradients(clip=clip, scale=scale)  # the norm is 13
    assert weight.tolist() == pytest.approx([3 * share, 4 * share, 0])
    assert bias.tolist() == pytest.approx([12 * share])


@pytest.mark.parametrize("scale", [1.0, 1024.0], ids=["as it is", "scaled for float16"])
def test_l1_pulls_kernels_alone_by_the_batch_share(scale: float) -> None:
    weight, bias = gradients(l1=0.2, scale=scale)
    assert weight.tolist() == pytest.approx([3 - 0.1, 4 + 0.1, 0])
    assert bias.tolist() == pytest.approx([12])


def test_penalty_is_not_clipped() -> None:
    weight, _ = gradients(clip=6.5, l1=2.0)
    assert weight.tolist() == pytest.approx([1.5 - 1, 2 + 1, 0])
