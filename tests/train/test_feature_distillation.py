"""Feature distillation: an adapter in closed form, and a loss in fractions of variance."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor

from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.data.loader import Batch
from prune.models.darknet import build
from prune.train import loop
from prune.train.distillation import feature_loss, fit_adapter
from prune.train.run import start
from prune.train.settings import Settings


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_an_adapter_finds_the_linear_map_that_is_there() -> None:
    features, map_, constant = _random(0, 4, 5, 8, 8), _random(1, 7, 5), _random(2, 7)
    taught = torch.einsum("tc,nchw->nthw", map_, features) + constant[:, None, None]
    adapter = fit_adapter(features, taught)
    assert torch.allclose(adapter[:, :-1], map_, atol=0.02)
    assert torch.allclose(adapter[:, -1], constant, atol=0.02)
    assert float(feature_loss([features], [taught], [adapter])) < 1e-4


def test_features_that_say_nothing_explain_the_mean_alone() -> None:
    taught = _random(3, 64, 3, 8, 8) + 500  # so far off that a constant shrunk would show
    features = torch.zeros(64, 4, 8, 8)
    assert float(
        feature_loss([features], [taught], [fit_adapter(features, taught)])
    ) == pytest.approx(1, abs=1e-3)


def test_dead_and_equal_channels_leave_the_adapter_finite() -> None:
    one = _random(4, 2, 1, 4, 4)
    features = torch.cat((one, one, torch.zeros_like(one)), dim=1)
    adapter = fit_adapter(features, one)
    assert adapter.isfinite().all()
    assert float(feature_loss([features], [one], [adapter])) < 1e-3


def test_the_loss_is_the_mean_over_levels_whatever_their_units() -> None:
    features, taught = _random(5, 2, 3, 8, 8), _random(6, 2, 4, 8, 8)
    alone = feature_loss([features], [taught], [fit_adapter(features, taught)])
    larger = 100 * taught
    both = feature_loss(
        [features, features], [taught, larger], [fit_adapter(features, t) for t in (taught, larger)]
    )
    assert float(both) == pytest.approx(float(alone), rel=1e-3)


def test_gradients_reach_the_network_and_not_the_teacher() -> None:
    features = _random(7, 2, 3, 4, 4).requires_grad_()
    taught = _random(8, 2, 3, 4, 4)
    loss = feature_loss([features], [taught], [fit_adapter(features, taught)])
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("distill", ["output", "feature", "both"])
def test_imitation_counts_every_image_alike(distill: str) -> None:
    torch.manual_seed(0)
    net, teacher = (build(tiny.CFG.format(width=width)) for width in (12, 16))
    settings = Settings(epochs=1, imgsz=Size.of(tiny.SIZE), distill=distill)
    cpu = torch.device("cpu")
    run = start(net, 1, settings=settings, hyp=SCRATCH, device=cpu, teacher=teacher)
    run.net.train()
    image = torch.randint(0, 255, (1, 3, tiny.SIZE, tiny.SIZE), dtype=torch.uint8)
    found = []
    for number in (1, 3):  # a batch of equals has the same statistics
        batch = Batch(image.repeat(number, 1, 1, 1), torch.zeros(0, 6), paths=[], frames=[])
        items = loop.descend(run, batch, position=0, adapt=True)
        gradients = [p.grad / number for p in run.net.parameters() if p.grad is not None]
        run.passes.clear(run.net.parameters())
        found.append((items, *gradients))
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-5)
