"""Cutting: on every tiny network and any plan, pruned equals masked, and the original stays."""

import nets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import cut_of, plan_of, plans
from torch import nn

from prune.core.cut import apply_plan
from prune.core.masking import masked
from prune.core.plan import Plan, removed
from prune.core.trace.groups import trace
from prune.core.verify import verify
from prune.errors import PlanError


@pytest.mark.parametrize("name", nets.CASES)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_the_pruned_network_is_the_masked_one(name: str, data: st.DataObject) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    plan = data.draw(plans(groups))
    pruned = apply_plan(net, groups, plan)
    assert verify(net, pruned, groups, plan, shape=shape, tolerance=1e-9) <= 1e-9


@pytest.mark.parametrize("name", nets.CASES)
def test_every_channel_but_one_of_every_group_may_go(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    chosen = {i: range(1, g.channels) for i, g in enumerate(groups) if not g.protected}
    plan = plan_of(groups, chosen)
    pruned = apply_plan(net, groups, plan)
    assert verify(net, pruned, groups, plan, shape=shape, tolerance=1e-9) <= 1e-9


@pytest.mark.parametrize("name", nets.CASES)
def test_attributes_say_what_the_weights_are(name: str) -> None:
    """Two ways to the shapes: cut, and built anew from the attributes after the cut."""
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    plan = plan_of(
        groups, {i: [0] for i, g in enumerate(groups) if not g.protected and g.channels > 1}
    )
    for module in apply_plan(net, groups, plan).modules():
        if isinstance(module, nets.CONVOLUTIONS):
            twin: nn.Module = type(module)(
                module.in_channels,
                module.out_channels,
                (module.kernel_size[0], module.kernel_size[1]),
                groups=module.groups,
                bias=module.bias is not None,
            )
        elif isinstance(module, nn.Linear):
            twin = nn.Linear(module.in_features, module.out_features)
        elif isinstance(module, nn.BatchNorm2d):
            twin = nn.BatchNorm2d(module.num_features)
        elif isinstance(module, nn.PReLU):
            twin = nn.PReLU(module.num_parameters)
        else:
            continue
        state = {key: tensor.shape for key, tensor in module.state_dict().items()}
        assert state == {key: tensor.shape for key, tensor in twin.state_dict().items()}


def test_what_stays_is_bit_for_bit_what_it_was() -> None:
    net = nets.net("concat")
    groups = trace(net, (1, 3, 8, 8))
    plan = Plan("", "given", (cut_of(next(g for g in groups if g.root == "a.0"), [0, 2]),))
    before, after = net.state_dict(), apply_plan(net, groups, plan).state_dict()
    left = {"a.0.weight": [1, 3], "a.1.weight": [1, 3]}
    for name, rows in left.items():
        assert torch.equal(after[name], before[name][rows])
    columns = [i for i in range(15) if i not in (8, 10)]
    assert torch.equal(after["norm.running_mean"], before["norm.running_mean"][columns])
    assert torch.equal(after["end.weight"], before["end.weight"][:, columns])
    assert torch.equal(after["b.0.weight"], before["b.0.weight"])


@pytest.mark.parametrize("name", ["implicit", "grouped", "flat", "weighted_sum"])
def test_the_original_stays_and_shares_nothing(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    plan = plan_of(groups, {0: [0]})
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    pruned = apply_plan(net, groups, plan)
    with torch.no_grad():
        for tensor in (*pruned.parameters(), *pruned.buffers()):
            tensor.zero_()
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_a_copy_that_may_share_copies_only_what_loses_channels() -> None:
    net = nets.net("csp")
    groups = trace(net, (1, 3, 8, 8))
    plan = plan_of(groups, {0: [1]})
    shared, own = apply_plan(net, groups, plan, share=True), apply_plan(net, groups, plan)
    for name, tensor in shared.state_dict().items():
        assert torch.equal(tensor, own.state_dict()[name])
        whole = net.state_dict()[name]
        assert (tensor.data_ptr() == whole.data_ptr()) == (tensor.shape == whole.shape)


def test_frozen_parameters_stay_frozen_and_weights_that_were_one_stay_one() -> None:
    net = nets.net("refused")
    net.get_submodule("free.0").requires_grad_(False)
    groups = trace(net, (2, 3, 8, 8))
    number = next(i for i, group in enumerate(groups) if group.root == "free.0")
    pruned = apply_plan(net, groups, plan_of(groups, {number: [1]}))
    trained = {name: p.requires_grad for name, p in net.named_parameters()}
    assert {name: p.requires_grad for name, p in pruned.named_parameters()} == trained
    assert not trained["free.0.weight"]
    assert pruned.get_parameter("tied.weight") is pruned.get_submodule("twin").weight
    assert pruned.get_parameter("tied.weight") is not net.get_parameter("tied.weight")


def test_a_pruned_network_can_be_pruned_again() -> None:
    net, shape = nets.net("csp"), (2, 3, 8, 8)
    for _ in range(3):
        groups = trace(net, shape)
        plan = plan_of(groups, {i: [0] for i, g in enumerate(groups) if not g.protected})
        pruned = apply_plan(net, groups, plan)
        verify(net, pruned, groups, plan, shape=shape, tolerance=1e-9)
        net = pruned
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == [
        5,
        1,
        1,
        1,
        1,
        1,
        3,
        4,
    ]


def test_an_empty_plan_is_a_copy() -> None:
    net = nets.net("csp")
    groups = trace(net, (1, 3, 8, 8))
    copy = apply_plan(net, groups, Plan("", "given", ()))
    assert all(torch.equal(t, net.state_dict()[key]) for key, t in copy.state_dict().items())


def test_a_plan_that_fits_no_group_changes_nothing() -> None:
    net = nets.net("chain")
    groups = trace(net, (1, 3, 8, 8))
    with pytest.raises(PlanError):
        apply_plan(net, groups, plan_of(groups, {2: [0]}))


def test_masks_are_zero_where_a_removed_channel_is_read_and_go_again() -> None:
    net, shape = nets.net("concat"), (2, 3, 8, 8)
    groups = trace(net, shape)
    number = next(i for i, group in enumerate(groups) if group.root == "b.0")
    gone = removed(groups, plan_of(groups, {number: [1]}))
    seen: dict[str, torch.Tensor] = {}
    for name in ("c.0", "end"):
        net.get_submodule(name).register_forward_hook(
            lambda _, inputs, __, name=name: seen.update({name: inputs[0]})
        )
    image = torch.rand(shape).double()
    with torch.no_grad():
        whole = net(image)
        with masked(net, gone):
            net(image)
        assert all((seen[name][:, 1] == 0).all() for name in seen)
        assert all((seen[name][:, 2] != 0).all() for name in seen)
        assert torch.equal(net(image), whole)
