"""Feature imitation: an adapter found in closed form, and a loss in shares of variance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prune.train.features import feature_loss, solved


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_an_adapter_finds_the_linear_map_that_is_there() -> None:
    features, map_, constant = _random(0, 4, 5, 8, 8), _random(1, 7, 5), _random(2, 7)
    taught = torch.einsum("tc,nchw->nthw", map_, features) + constant[:, None, None]
    adapter = solved(features, taught)
    assert torch.allclose(adapter[:, :-1], map_, atol=0.02)
    assert torch.allclose(adapter[:, -1], constant, atol=0.02)
    assert float(feature_loss([features], [taught], [adapter])) < 1e-4


def test_features_that_say_nothing_explain_the_mean_alone() -> None:
    taught = _random(3, 64, 3, 8, 8) + 5
    features = torch.zeros(64, 4, 8, 8)
    assert float(feature_loss([features], [taught], [solved(features, taught)])) == pytest.approx(
        1, abs=1e-3
    )


def test_dead_and_equal_channels_leave_the_adapter_finite() -> None:
    one = _random(4, 2, 1, 4, 4)
    features = torch.cat((one, one, torch.zeros_like(one)), dim=1)
    adapter = solved(features, one)
    assert adapter.isfinite().all()
    assert float(feature_loss([features], [one], [adapter])) < 1e-3


def test_the_loss_is_the_mean_over_levels_whatever_their_units() -> None:
    features, taught = _random(5, 2, 3, 8, 8), _random(6, 2, 4, 8, 8)
    alone = feature_loss([features], [taught], [solved(features, taught)])
    larger = 100 * taught
    both = feature_loss(
        [features, features], [taught, larger], [solved(features, t) for t in (taught, larger)]
    )
    assert float(both) == pytest.approx(float(alone), rel=1e-3)


def test_gradients_reach_the_network_and_not_the_teacher() -> None:
    features = _random(7, 2, 3, 4, 4).requires_grad_()
    taught = _random(8, 2, 3, 4, 4)
    loss = feature_loss([features], [taught], [solved(features, taught)])
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient.abs().sum() > 0
