"""Restating BatchNorms: the same function, with statistics of what they see."""

import copy

import nets
import pytest
import torch
from torch import Tensor, nn

from prune.core.recover.recalibrate import recalibrate
from prune.core.recover.restate import restate


def _shaken(name: str) -> tuple[nn.Module, list[Tensor]]:
    """A network whose running statistics fit nothing it sees."""
    torch.manual_seed(0)
    net = nets.net(name).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features)
            module.running_var = torch.rand(module.num_features) + 0.5
    return net.double(), list(torch.rand(4, 2, 3, 8, 8).double())


@pytest.mark.parametrize("name", ["residual", "grouped", "chunk"])
def test_what_the_network_computes_stays(name: str) -> None:
    net, images = _shaken(name)
    before = net(images[0])
    restate(net, images)
    torch.testing.assert_close(net(images[0]), before, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["residual", "grouped", "chunk"])
def test_training_on_the_whole_set_begins_where_eval_is(name: str) -> None:
    net, images = _shaken(name)
    whole = [torch.cat(images)]
    restate(net, whole)
    expected, trained = net(whole[0]), copy.deepcopy(net).train()(whole[0])
    torch.testing.assert_close(trained, expected, rtol=1e-4, atol=1e-4)


def test_a_recalibration_behind_it_changes_nothing() -> None:
    net, images = _shaken("residual")
    whole = [torch.cat(images)]
    restate(net, whole)
    other = copy.deepcopy(net)
    recalibrate(other, whole)
    torch.testing.assert_close(other(whole[0]), net(whole[0]), rtol=1e-2, atol=1e-2)
