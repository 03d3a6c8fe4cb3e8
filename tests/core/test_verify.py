"""Verification: it passes what is right (see test_cut) and finds what is not."""

from dataclasses import replace

import nets
import pytest
import torch
from plans import plan_of
from torch import Tensor, nn

from prune.core.cut import apply_plan
from prune.core.plan import Plan
from prune.core.trace.groups import Group, trace
from prune.core.verify import verify
from prune.errors import VerificationError

SHAPE = (2, 3, 8, 8)


def _shifted(group: Group, number: int) -> Group:
    """Let one slot be off by one: each channel has the positions of the next."""
    slot = group.slots[number]
    wrong = replace(slot, index=slot.index[1:] + slot.index[:1])
    return replace(group, slots=(*group.slots[:number], wrong, *group.slots[number + 1 :]))


WRONG = [
    pytest.param(name, i, number, id=f"{name}, {group.root}: {slot.name} {slot.side}")
    for name in ("chain", "residual", "concat", "depthwise", "grouped", "gate", "implicit", "flat")
    for i, group in enumerate(trace(nets.net(name), nets.CASES[name].shape))
    if not group.protected
    for number, slot in enumerate(group.slots)
    if slot.name != group.root and slot.kind != "prelu"  # a slope shows where signs change
]


@pytest.mark.parametrize(("name", "place", "number"), WRONG)
def test_a_coupling_that_is_off_by_one_is_found(name: str, place: int, number: int) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    right = trace(net, shape)
    wrong = tuple(_shifted(g, number) if i == place else g for i, g in enumerate(right))
    plan = plan_of(right, {place: [0]})
    pruned = apply_plan(net, wrong, plan)
    with pytest.raises(VerificationError, match="differs"):
        verify(net, pruned, wrong, plan, shape=shape)


def test_the_layer_that_differs_first_is_named() -> None:
    net = nets.net("residual")
    groups = trace(net, SHAPE)
    plan = plan_of(groups, {0: [1]})
    pruned = apply_plan(net, groups, plan)
    with torch.no_grad():
        pruned.get_parameter("in2.0.weight").add_(0.1)
    with pytest.raises(VerificationError, match=r"in2\.0"):
        verify(net, pruned, groups, plan, shape=SHAPE)


def test_a_difference_is_seen_where_the_outputs_hardly_depend_on_it() -> None:
    """Weights that let signals die away must not make any cut look right."""
    net = nets.net("chain")
    groups = trace(net, SHAPE)
    with torch.no_grad():
        net.get_parameter("c.weight").mul_(1e-12)
    plan = plan_of(groups, {0: [1]})
    wrong = tuple(_shifted(g, 2) if g.root == "a.0" else g for g in groups)
    with pytest.raises(VerificationError, match=r"b\.0"):
        verify(net, apply_plan(net, wrong, plan), wrong, plan, shape=SHAPE)


class _Mean(nn.Module):
    """A sum over channels that no trace need be asked about: groups are made by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        out: Tensor = self.b(a) + a.sum(dim=1, keepdim=True)
        return out


def test_a_channel_used_behind_the_groups_back_is_found() -> None:
    net = _Mean()
    free = tuple(replace(group, protected=None) for group in trace(net, SHAPE))
    plan = plan_of(free, {0: [2]})
    with pytest.raises(VerificationError, match="differs"):
        verify(net, apply_plan(net, free, plan), free, plan, shape=SHAPE)


def test_an_output_that_shrinks_is_found() -> None:
    net = nets.net("chain")
    free = tuple(replace(group, protected=None) for group in trace(net, SHAPE))
    plan = plan_of(free, {2: [0]})
    with pytest.raises(
        VerificationError, match=r"shapes \[\[2, 4, 4, 4\]\], after the cut \[\[2, 3, 4, 4\]\]"
    ):
        verify(net, apply_plan(net, free, plan), free, plan, shape=SHAPE)


def test_a_pruned_network_that_does_not_run_is_found() -> None:
    net = nets.net("refused")
    free = tuple(replace(group, protected=None) for group in trace(net, SHAPE))
    number = next(i for i, group in enumerate(free) if group.root == "constant.0")
    plan = plan_of(free, {number: [0]})
    with pytest.raises(VerificationError, match="does not run"):
        verify(net, apply_plan(net, free, plan), free, plan, shape=SHAPE)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_prove_nothing(value: float) -> None:
    net = nets.net("chain")
    groups = trace(net, SHAPE)
    nn.init.constant_(net.get_submodule("c").get_parameter("bias"), value)
    plan = plan_of(groups, {0: [1]})
    with pytest.raises(
        VerificationError, match="masked original returns values that are NaN or infinite"
    ):
        verify(net, apply_plan(net, groups, plan), groups, plan, shape=SHAPE)


def test_rounding_of_large_outputs_is_told_from_a_wrong_cut() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 200, 1), nn.ReLU(), nn.Conv2d(200, 4, 1))
    with torch.no_grad():
        net.get_parameter("2.weight").mul_(1e4)
    groups = trace(net, SHAPE)
    plan = plan_of(groups, {0: range(0, 200, 3)})
    pruned = apply_plan(net, groups, plan)
    assert verify(net, pruned, groups, plan, shape=SHAPE) > 1e-4  # above the tolerance, yet right
    with torch.no_grad():
        pruned.get_parameter("2.bias").add_(0.01)
    with pytest.raises(VerificationError):
        verify(net, pruned, groups, plan, shape=SHAPE)


class _TwoBranches(nn.Module):
    """A branch of large outputs, which float32 rounds by more than the tolerance, and a small one.

    The outputs of the small one do not show what differs inside it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.a, self.large = nn.Conv2d(3, 200, 1), nn.Conv2d(200, 4, 1)
        self.b, self.small = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)
        with torch.no_grad():
            self.large.weight.mul_(1e4)
            self.small.weight.mul_(1e-12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.large(self.a(x).relu()), self.small(self.b(x).relu())


def _pruned_branches(removed: dict[str, range]) -> tuple[nn.Module, nn.Module, Plan]:
    torch.manual_seed(0)
    net = _TwoBranches()
    groups = trace(net, SHAPE)
    number = {group.root: place for place, group in enumerate(groups)}
    plan = plan_of(groups, {number[root]: channels for root, channels in removed.items()})
    return net, apply_plan(net, groups, plan), plan


def _scale(net: nn.Module, name: str, by: float) -> None:
    with torch.no_grad():
        net.get_parameter(name).mul_(by)


@pytest.mark.parametrize(("by", "found"), [(1.0005, False), (1.002, True)])
def test_a_layer_may_differ_by_what_rounding_can_do_and_no_more(by: float, found: bool) -> None:
    """Where the outputs show nothing and are small, one pass in float32 decides."""
    net, pruned, plan = _pruned_branches({"b": range(1)})
    for each in (net, pruned):
        _scale(each, "large.weight", 0.0)  # no rounding there
    _scale(pruned, "b.weight", by)
    _scale(pruned, "b.bias", by)
    groups = trace(net, SHAPE)
    if not found:
        assert verify(net, pruned, groups, plan, shape=SHAPE) <= 1e-4
        return
    with pytest.raises(VerificationError, match="the first layer to differ is b"):
        verify(net, pruned, groups, plan, shape=SHAPE)


@pytest.mark.parametrize(
    ("name", "add"),
    [("large.bias", 3e-7), ("b.bias", 1e-4)],
    ids=["an output, by far less than the tolerance", "a layer, by less than float32 can tell"],
)
def test_the_second_pass_allows_a_thousandth(name: str, add: float) -> None:
    net, pruned, plan = _pruned_branches({"a": range(0, 200, 3)})
    groups = trace(net, SHAPE)
    assert verify(net, pruned, groups, plan, shape=SHAPE) > 1e-4, "it takes a second pass"
    with torch.no_grad():
        pruned.get_parameter(name).add_(add)
    with pytest.raises(VerificationError, match="differs from the masked original"):
        verify(net, pruned, groups, plan, shape=SHAPE)


def test_both_networks_are_left_without_hooks() -> None:
    net = nets.net("csp")
    groups = trace(net, SHAPE)
    plan = plan_of(groups, {0: [1]})
    pruned = apply_plan(net, groups, plan)
    verify(net, pruned, groups, plan, shape=SHAPE)
    for module in (*net.modules(), *pruned.modules()):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_an_empty_plan_proves_that_a_copy_is_a_copy() -> None:
    net = nets.net("two_outputs")
    groups = trace(net, SHAPE)
    assert verify(net, net, groups, Plan("", "given", ()), shape=SHAPE) == 0
