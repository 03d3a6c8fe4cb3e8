"""Statistics from images: against gradients taken by hand, and with the network left alone."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import nets
import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from prune.core.importance.statistics import Statistics, gather
from prune.errors import PlanError

Batch = tuple[Tensor, Tensor]

# Two outputs, a dictionary and a weight of two layers: a loss that reads them all is more than
# these tests need.
NAMES = tuple(name for name in nets.CASES if name not in ("refused", "two_outputs", "shared"))
KINDS = ("change", "gate", "activity")


def _batches(name: str, *, pictures: int = 4, size: int = 2) -> list[Batch]:
    generator = Generator().manual_seed(5)
    shape = (pictures, *nets.CASES[name].shape[1:])
    images = torch.rand(shape, generator=generator).double()
    targets = torch.rand(pictures, generator=generator).double()
    return [(images[i : i + size], targets[i : i + size]) for i in range(0, pictures, size)]


def _loss(output: object, targets: object) -> Tensor:
    """Sum over images of something that bends, so that gradients differ."""
    assert isinstance(output, Tensor)
    assert isinstance(targets, Tensor)
    return (output.flatten(1).tanh().mean(dim=1) - targets).pow(2).sum()


def _layers(net: nn.Module) -> dict[str, nn.Module]:
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    return {name: module for name, module in net.named_modules() if isinstance(module, kinds)}


@pytest.mark.parametrize("name", NAMES)
def test_change_is_weight_times_gradient(name: str) -> None:
    net, batches = nets.net(name), _batches(name)
    found = gather(net, batches, _loss, what="change")
    total = sum((_loss(net(images), targets) for images, targets in batches), torch.zeros(()))
    weights = {layer: module.get_parameter("weight") for layer, module in _layers(net).items()}
    gradients = torch.autograd.grad(total, list(weights.values()))
    for (layer, weight), gradient in zip(weights.items(), gradients, strict=True):
        np.testing.assert_allclose(
            found.change[layer], (weight * gradient).detach(), rtol=1e-9, atol=1e-12
        )
    assert found.images == 4


@pytest.mark.parametrize("name", NAMES)
def test_gates_and_changes_tell_the_same_of_an_input(name: str) -> None:
    """A factor on an input is one on all weights that read it: their derivatives agree."""
    net, batches = nets.net(name), _batches(name)
    gate = gather(net, batches, _loss, what="gate").gate
    change = gather(net, batches, _loss, what="change").change
    for layer, module in _layers(net).items():
        assert gate[layer].shape[1] == 4
        np.testing.assert_allclose(
            gate[layer].sum(dim=1), _by_input(module, change[layer]), rtol=1e-9, atol=1e-12
        )


def _by_input(layer: nn.Module, change: Tensor) -> Tensor:
    """Sum what has a weight's shape by input, one input after another."""
    if isinstance(layer, nn.Linear):
        return change.sum(dim=0)
    assert isinstance(layer, nn.modules.conv._ConvNd)
    if layer.transposed:
        return change.flatten(1).sum(dim=1)
    inputs = layer.in_channels // layer.groups
    outputs = layer.out_channels // layer.groups
    share = [divmod(i, inputs) for i in range(layer.in_channels)]
    return torch.stack([change[g * outputs : (g + 1) * outputs, i].sum() for g, i in share])


@pytest.mark.parametrize("name", ["chain", "flat", "grouped", "chunk"])
def test_a_gate_is_the_loss_moved_by_a_factor_on_an_input(name: str) -> None:
    net, batches = nets.net(name), _batches(name)
    gate = gather(net, batches, _loss, what="gate").gate
    images, targets = batches[0]
    step = 1e-5
    for layer, module in list(_layers(net).items())[1:]:

        def at(factor: float, module: nn.Module = module) -> Tensor:
            handle = module.register_forward_pre_hook(_scaling(1, factor))
            value = _loss(net(images[:1]), targets[:1])
            handle.remove()
            return value.detach()

        slope = (at(1 + step) - at(1 - step)) / (2 * step)
        assert float(gate[layer][1, 0]) == pytest.approx(float(slope), rel=1e-4, abs=1e-9)


def _scaling(channel: int, factor: float) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    def scale(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        scaled = inputs[0].clone()
        scaled[:, channel] *= factor
        return (scaled,)

    return scale


def test_a_images_gate_does_not_depend_on_its_batch() -> None:
    net = nets.net("residual")
    found = [
        gather(net, _batches("residual", size=size), _loss, what="gate").gate for size in (1, 4)
    ]
    assert found[0].keys() == found[1].keys()
    for layer, gates in found[0].items():
        np.testing.assert_allclose(gates, found[1][layer], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_activity_is_the_mean_size_of_what_a_layer_reads(name: str) -> None:
    net, batches = nets.net(name), _batches(name)
    seen: dict[str, list[Tensor]] = {layer: [] for layer in _layers(net)}

    def note(layer: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, inputs: seen[layer].append(inputs[0])

    hooks = [m.register_forward_pre_hook(note(layer)) for layer, m in _layers(net).items()]
    for images, _ in batches:
        net(images)
    for hook in hooks:
        hook.remove()
    found = gather(net, batches, _loss, what="activity")
    for layer, inputs in seen.items():
        values = torch.cat(inputs).abs().transpose(0, 1).flatten(1)
        np.testing.assert_allclose(
            found.activity[layer], values.mean(dim=1).detach(), rtol=1e-9, atol=1e-12
        )
    assert found.images == 4


def test_a_layer_at_two_places_adds_its_places() -> None:
    net = nets.net("shared")

    def loss(output: object, targets: object) -> Tensor:
        assert isinstance(output, tuple)
        return _loss(output[0], targets) + 2 * _loss(output[1], targets)

    gate = gather(net, _batches("shared"), loss, what="gate").gate
    change = gather(net, _batches("shared"), loss, what="change").change
    for layer in ("tower", "end"):
        np.testing.assert_allclose(
            gate[layer].sum(dim=1), change[layer].sum(dim=(0, 2, 3)), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("what", KINDS)
def test_the_network_is_left_as_it_was(what: str) -> None:
    net = nets.net("csp").train()
    net.get_submodule("stem").eval()  # as where some of the normalisations are frozen
    frozen = net.get_submodule("left.0").get_parameter("weight").requires_grad_(False)
    net.get_submodule("end").get_parameter("weight").grad = torch.ones(4, 6, 1, 1).double()
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}
    gather(net, _batches("csp"), _loss, what=what)
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert [p is frozen for p in net.parameters() if not p.requires_grad] == [True]
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, weights[name]), name
    for name, parameter in net.named_parameters():
        if name == "end.weight":
            assert parameter.grad is not None
            assert (parameter.grad == 1).all()
        else:
            assert parameter.grad is None
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("what", KINDS)
def test_a_network_is_left_as_it_was_by_a_failure(what: str) -> None:
    net = nets.net("chain").train()

    def failing() -> Iterator[Batch]:
        yield from _batches("chain")
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        gather(net, failing(), _loss, what=what)
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("what", KINDS)
def test_no_images_are_an_error(what: str) -> None:
    with pytest.raises(PlanError, match="there are no images"):
        gather(nets.net("chain"), [], _loss, what=what)


@pytest.mark.parametrize("what", ["change", "gate"])
def test_a_loss_that_is_no_number_is_an_error(what: str) -> None:
    def broken(output: object, targets: object) -> Tensor:
        return _loss(output, targets) * torch.nan

    with pytest.raises(PlanError, match="the loss is nan; the network or its images are broken"):
        gather(nets.net("chain"), _batches("chain"), broken, what=what)


def test_every_layer_that_makes_channels_is_looked_at() -> None:
    net = nets.net("flat")
    found = gather(net, _batches("flat"), _loss, what="change")
    assert set(found.change) == {"a.0", "b.0", "hidden", "end"}
    assert found == Statistics(change=found.change, images=4)


@pytest.mark.parametrize("what", KINDS)
def test_nothing_a_batch_made_outlives_it(what: str) -> None:
    """What waits for the collector can wait long: 23 GB of activations were seen to."""
    seen: list[weakref.ref[Tensor]] = []

    class Noting(nn.Conv2d):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(weakref.ref(inputs))
            return super().forward(inputs)

    net = nn.Sequential(Noting(3, 4, 1), nn.ReLU(), Noting(4, 2, 1))
    batches = [(torch.rand(2, 3, 4, 4), torch.rand(2)) for _ in range(3)]
    gc.disable()
    try:
        gather(net, batches, _loss, what=what)
        assert len(seen) == 6
        ours = {id(images) for images, _ in batches}
        left = [each() for each in seen]
        assert not [one for one in left if one is not None and id(one) not in ours]
    finally:
        gc.enable()
