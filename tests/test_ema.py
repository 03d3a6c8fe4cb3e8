"""The running average, against the plain recurrence."""

import math
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from prune.train.ema import average


class Net(nn.Module):
    """A kernel, and statistics beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 2, 1)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.conv(x))
        return y


def averaged(ema: AveragedModel) -> Net:
    return cast(Net, ema.module)


def test_average_follows_the_recurrence() -> None:
    net = Net()
    ema = average(net, updates=200)  # spans 20 updates
    expected = net.conv.weight.detach().clone()
    for update in range(30):
        with torch.no_grad():
            net.conv.weight.add_(torch.randn(2, 1, 1, 1))
        ema.update_parameters(net)
        decay = (1 - 1 / 20) * (1 - math.exp(-update / 20))
        expected = decay * expected + (1 - decay) * net.conv.weight.detach()
    torch.testing.assert_close(averaged(ema).conv.weight, expected)


def test_statistics_are_averaged_and_counters_copied() -> None:
    net = Net()
    ema = average(net, updates=200)
    for _ in range(5):
        net(torch.randn(4, 1, 3, 3))
        ema.update_parameters(net)
    assert averaged(ema).norm.num_batches_tracked == 5
    assert not averaged(ema).norm.running_var.equal(net.norm.running_var)


@pytest.mark.parametrize("updates", [1, 10_000_000], ids=["one", "published"])
def test_average_of_one_constant_is_the_constant(updates: int) -> None:
    net = Net()
    ema = average(net, updates=updates)
    for _ in range(3):
        ema.update_parameters(net)
    assert averaged(ema).conv.weight.equal(net.conv.weight)


def test_average_does_not_train() -> None:
    ema = average(Net(), updates=10)
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.parameters())
