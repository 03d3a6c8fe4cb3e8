"""The running average, against the plain recurrence."""

import math

import pytest
import torch
from torch import nn

from prune.train.optim import Average


def make_net() -> nn.Sequential:
    """A kernel, and statistics beside it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))


def test_average_follows_the_recurrence() -> None:
    net = make_net()
    ema = Average(net, updates=200)  # spans 20 updates
    expected = net.state_dict()["0.weight"].clone()
    for update in range(30):
        current = net.state_dict()["0.weight"]
        current.add_(torch.randn(current.shape))
        ema.update()
        decay = (1 - 1 / 20) * (1 - math.exp(-update / 20))
        expected = decay * expected + (1 - decay) * current
    torch.testing.assert_close(ema.module.state_dict()["0.weight"], expected)


def test_statistics_are_averaged_and_counters_copied() -> None:
    net = make_net()
    ema = Average(net, updates=200)
    for _ in range(5):
        net(torch.randn(4, 1, 3, 3))
        ema.update()
    averaged, own = ema.module.state_dict(), net.state_dict()
    assert averaged["1.num_batches_tracked"] == 5
    assert not averaged["1.running_var"].equal(own["1.running_var"])


@pytest.mark.parametrize("updates", [1, 10_000_000], ids=["one", "published"])
def test_average_of_one_constant_is_the_constant(updates: int) -> None:
    net = make_net()
    ema = Average(net, updates=updates)
    for _ in range(3):
        ema.update()
    assert ema.module.state_dict()["0.weight"].equal(net.state_dict()["0.weight"])


def test_average_does_not_train() -> None:
    ema = Average(make_net(), updates=10)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.parameters())
