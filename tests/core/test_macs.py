"""Costs: against numbers counted by hand and torch's own counter."""

import nets
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from prune.core.cost.macs import Cost, count, per_layer
from prune.errors import PlanError


@pytest.mark.parametrize("name", nets.CASES)
def test_macs_are_half_of_torchs_floating_point_operations(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.rand(shape).double())
    assert 2 * count(net, shape).macs == counter.get_total_flops()


@pytest.mark.parametrize("name", nets.CASES)
def test_the_parts_add_up_to_the_whole(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    parts, whole = per_layer(net, shape), count(net, shape)
    assert sum(cost.macs for cost in parts.values()) == whole.macs
    if name != "refused":  # two layers of it own one weight
        assert sum(cost.params for cost in parts.values()) == whole.params
    assert whole.params == sum(p.numel() for p in net.parameters())


def test_costs_counted_by_hand() -> None:
    costs = per_layer(nets.net("chain"), (1, 3, 10, 8))
    assert costs["a.0"] == Cost(6 * 3 * 9, 6 * 3 * 9 * 10 * 8, (1, 6, 10, 8))
    assert costs["a.1"] == Cost(12, 0, (1, 6, 10, 8))
    assert costs["b.0"] == Cost(8 * 6 * 9, 8 * 6 * 9 * 5 * 4, (1, 8, 5, 4))
    assert costs["c"] == Cost(4 * 8 + 4, 4 * 8 * 5 * 4, (1, 4, 5, 4))
    assert costs[""] == Cost(0, 0, (1, 4, 5, 4))


def test_a_grouped_and_a_transposed_convolution_counted_by_hand() -> None:
    assert count(nn.Conv2d(6, 4, 3, padding=1, groups=2), (1, 6, 5, 7)).macs == 4 * 3 * 9 * 35
    assert count(nn.ConvTranspose2d(6, 4, 2, stride=2), (1, 6, 5, 7)).macs == 6 * 4 * 4 * 35


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.ConvTranspose2d(6, 4, (2, 3), groups=2), (1, 6, 5, 7), 6 * 35 * 2 * 6),
        (nn.ConvTranspose2d(6, 9, 3, stride=2, groups=3), (2, 6, 5, 7), 2 * 6 * 35 * 3 * 9),
        (nn.ConvTranspose1d(4, 10, 5), (1, 4, 8), 4 * 8 * 10 * 5),
    ],
    ids=["overlapping, two groups", "apart, three groups", "one axis"],
)
def test_every_input_of_a_transposed_convolution_reaches_the_outputs_of_its_group(
    layer: nn.Module, shape: tuple[int, ...], macs: int
) -> None:
    """Inputs x outputs of a group x cells of the kernel, whatever the size of the output."""
    assert count(layer, shape).macs == macs


def test_a_layer_that_runs_twice_counts_its_macs_twice() -> None:
    costs = per_layer(nets.net("shared"), (1, 3, 8, 8))
    assert costs["tower"] == Cost(6 * 5 * 9 + 6, 2 * 6 * 5 * 9 * 64, (1, 6, 8, 8))


def test_a_training_network_is_counted_and_left_training() -> None:
    net = nets.net("chain").train()
    assert count(net, (1, 3, 2, 2)).macs > 0
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())


def test_a_shape_the_network_cannot_take_is_refused() -> None:
    with pytest.raises(PlanError, match=r"cannot be run with \[1, 4, 8, 8\]"):
        count(nets.net("chain"), (1, 4, 8, 8))
