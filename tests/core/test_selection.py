"""Selection: how many go and which, once a group and one after another."""

from functools import cache
from pathlib import Path

import nets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, nn

from prune.core.cut import apply_plan
from prune.core.importance import group_importance
from prune.core.importance.criteria import CRITERIA
from prune.core.importance.group_importance import filters
from prune.core.plan import Plan, removed
from prune.core.select import selection
from prune.core.select.constraints import Constraints, Limit, limits, multiple, rounded
from prune.core.trace.groups import Group, trace
from prune.errors import PlanError
from prune.models.darknet import Darknet
from prune.models.sections import parse, with_classes

SHAPE = (1, 3, 8, 8)


def _layers(net: nn.Module) -> list[str]:
    return [
        name for name, m in net.named_modules() if isinstance(m, (nn.Linear, *nets.CONVOLUTIONS))
    ]


def _by_amount(
    net: nn.Module,
    groups: tuple[Group, ...],
    layers: list[str],
    *,
    criterion: str = "l1",
    seed: int = 0,
    amount: float,
    round_to: int = 1,
) -> Plan:
    scores = group_importance.channel_importance(net, groups, criterion=criterion, seed=seed)
    allowed = limits(groups, Constraints(round_to=round_to))
    return selection.by_amount(
        groups, scores, layers, amount=amount, criterion=criterion, allowed=allowed
    )


def _producers(groups: tuple[Group, ...]) -> list[str]:
    return sorted({name for group in groups for name in group.producers})


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize("amount", [0.2, 0.5, 0.9])
def test_the_lowest_scores_of_the_root_go(criterion: str, amount: float) -> None:
    net = nets.net("residual")
    groups = trace(net, SHAPE)
    plan = _by_amount(net, groups, ["out2.0"], amount=amount, criterion=criterion)
    scores = CRITERIA[criterion].importance(filters(net.get_submodule("stem.0")), Generator())
    (only,) = plan.cuts
    assert only.layer == "stem.0"
    assert only.members == ("stem.0", "out1.0", "out2.0")
    assert len(only.remove) == int(amount * 6)
    left = [i for i in range(6) if i not in only.remove]
    assert scores[list(only.remove)].max() <= scores[left].min()


def test_a_group_named_by_several_members_is_cut_once() -> None:
    net = nets.net("residual")
    groups = trace(net, SHAPE)
    members = ["stem.0", "out1.0", "out2.0"]
    together = _by_amount(net, groups, members, amount=0.5)
    assert together == _by_amount(net, groups, members[:1], amount=0.5)


def test_tied_filters_are_ranked_together() -> None:
    net = nets.net("grouped")
    plan = _by_amount(net, trace(net, SHAPE), ["stem.0"], amount=0.4)
    scores = CRITERIA["l1"].importance(filters(net.get_submodule("stem.0")), Generator())
    pairs = [float(scores[i] + scores[i + 3]) for i in range(3)]
    lowest = pairs.index(min(pairs))
    assert plan.cuts[0].remove == (lowest, lowest + 3)


@given(st.integers(1, 300), st.floats(0, 0.999), st.integers(1, 64), st.sampled_from([1, 2, 3]))
@settings(deadline=None)
def test_rounding_keeps_the_nearest_multiple(
    present: int, amount: float, round_to: int, tied: int
) -> None:
    wanted = present - int(amount * present)
    limit = Limit(present - 1, multiple(round_to, tied=tied))
    kept = present - rounded(present, int(amount * present), limit)
    assert 1 <= kept <= present
    multiples = [k for k in range(1, present + 1) if k * tied % round_to == 0]
    if not multiples:
        assert kept == present
    else:
        assert kept in multiples
        assert abs(kept - wanted) == min(abs(k - wanted) for k in multiples)


def test_without_rounding_int_amount_times_channels_go() -> None:
    for present in range(1, 200):
        assert rounded(present, int(0.29 * present), Limit(present - 1)) == int(0.29 * present)


def test_random_choices_depend_on_the_seed() -> None:
    net = nets.net("csp")
    groups = trace(net, SHAPE)
    plans = [
        _by_amount(net, groups, ["stem.0"], amount=0.5, criterion="random", seed=seed)
        for seed in (0, 0, *range(1, 9))
    ]
    assert plans[0] == plans[1]
    assert len({plan.cuts[0].remove for plan in plans}) > 1


def test_named_channels_of_any_member_are_cut() -> None:
    groups = trace(nets.net("residual"), SHAPE)
    assert selection.by_channels(groups, "out2.0", [3, 1]).cuts[0].remove == (1, 3)


def test_named_channels_may_lie_in_two_groups() -> None:
    groups = trace(nets.net("concat_plus"), SHAPE)
    plan = selection.by_channels(groups, "wide.0", [0, 6])
    assert [(c.channels, c.remove) for c in plan.cuts] == [(3, (0,)), (4, (6,))]


def _chosen(net: nn.Module, **wish: object) -> Plan:
    return _by_amount(net, trace(net, SHAPE), ["b.0"], **{"amount": 0.5, **wish})  # type: ignore[arg-type]  # wrong values are the point


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"amount": 1.0}, r"amount is 1.0; it must lie in \[0, 1\), e.g. 0.4"),
        ({"amount": -0.1}, "amount is -0.1"),
        ({"amount": float("nan")}, "amount is nan"),
        ({"criterion": "l3"}, "criterion is 'l3'; it must be one of l1, l2, bn"),
        ({"round_to": 0}, "round-to is 0"),
        ({"amount": 0.0}, "nothing to remove: b.0: amount 0.0 of its 8 channels is less than one"),
        ({"amount": 0.01}, "nothing to remove"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_met_is_refused(wish: dict[str, object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        _chosen(nets.net("chain"), **wish)


def test_weights_that_are_not_numbers_are_refused() -> None:
    net = nets.net("chain")
    nn.init.constant_(net.get_submodule("b.0").get_parameter("weight"), torch.nan)
    with pytest.raises(PlanError, match=r"weights of b\.0 contain NaN"):
        _chosen(net)


def test_a_kept_group_is_said_with_its_reason() -> None:
    net = nets.net("chain")
    groups = trace(net, SHAPE)
    with pytest.raises(PlanError, match="nothing to remove: c: it reaches the network's output"):
        _by_amount(net, groups, ["c"], amount=0.5)
    with pytest.raises(
        PlanError, match="channel 1 of c is protected: it reaches the network's output"
    ):
        selection.by_channels(groups, "c", [1])


@pytest.mark.parametrize(
    ("layer", "channels", "message"),
    [
        ("b.0", [8], r"b\.0 has channels 0 to 7, not 8"),
        ("b.0", list(range(8)), r"all 8 channels of b\.0 would be removed; leave at least one"),
        ("b.0", [], "nothing to remove"),
        ("z", [1], "z cannot be cut: the trace never reached it"),
    ],
    ids=["no such channel", "all", "none", "no such layer"],
)
def test_named_channels_that_cannot_go_are_refused(
    layer: str, channels: list[int], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        selection.by_channels(trace(nets.net("chain"), SHAPE), layer, channels)


@pytest.mark.parametrize("criterion", ["l1", "l2"])
@pytest.mark.parametrize("name", ["chain", "residual", "csp", "depthwise", "gate", "concat"])
def test_one_after_another_is_cutting_and_tracing_again_after_each_layer(
    name: str, criterion: str
) -> None:
    """Two ways: on positions alone, and on a network that is really cut in between."""
    net, shape, amount = nets.net(name), nets.CASES[name].shape, 0.4
    groups = trace(net, shape)
    layers = [n for n in _layers(net) if n not in nets.CASES[name].kept]
    plan, _ = selection.one_after_another(net, groups, layers, amount=amount, criterion=criterion)
    step = net
    for layer in layers:
        scores = CRITERIA[criterion].importance(filters(step.get_submodule(layer)), Generator())
        lowest = torch.argsort(scores, stable=True)[: int(amount * len(scores))].tolist()
        if lowest:
            present = trace(step, shape)
            step = apply_plan(step, present, selection.by_channels(present, layer, lowest))
    at_once = apply_plan(net, groups, plan)
    assert at_once.state_dict().keys() == step.state_dict().keys()
    for key, tensor in at_once.state_dict().items():
        assert torch.equal(tensor, step.state_dict()[key]), key


def test_groups_cut_several_times_are_told() -> None:
    net = nets.net("residual")
    layers = ["stem.0", "in1.0", "out1.0", "in2.0", "out2.0"]
    plan, repeated = selection.one_after_another(net, trace(net, SHAPE), layers, amount=0.5)
    assert repeated == (selection.Repeated("stem.0", times=3, before=6, after=1),)  # 6, 3, 2, 1
    assert next(c for c in plan.cuts if c.layer == "stem.0").channels == 6


@pytest.mark.parametrize("name", nets.CASES)
def test_one_after_another_leaves_something_of_every_layer(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    plan, _ = selection.one_after_another(net, groups, _producers(groups), amount=0.9)
    assert removed(groups, plan)


# The public YOLOR-CSP with one class, pruned by the scripts that this replaces.


@cache
def _yolor_csp() -> tuple[Darknet, tuple[Group, ...]]:
    sections = parse(Path("cfg/yolor_csp.cfg").read_text(encoding="utf-8"))
    net = Darknet(with_classes(sections, 1)).eval()
    return net, trace(net, (1, 3, 64, 64), protected=net.head_convolutions())


def _params(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def _range(first: int, last: int) -> list[str]:
    names = [f"module_list.{i}.Conv2d" for i in range(first, last + 1)]
    modules = dict(_yolor_csp()[0].named_modules())
    return [name for name in names if name in modules]


@pytest.mark.parametrize(
    ("first", "last", "amount", "sequential", "params"),
    [
        pytest.param(22, 22, 0.4, False, 52_432_486, id="layer 22, 0.4"),
        pytest.param(0, 0, 0.5, False, 52_488_188, id="layer 0, 0.5"),
        pytest.param(48, 48, 0.5, False, 51_858_636, id="layer 48, 0.5"),
        pytest.param(113, 113, 0.4, False, 52_131_892, id="layer 113, 0.4"),
        pytest.param(0, 60, 0.9, True, 43_633_847, id="0..60, 0.9, one after another"),
        pytest.param(0, 30, 0.5, True, 50_734_684, id="0..30, 0.5, one after another"),
        pytest.param(0, 60, 0.9, False, 43_996_839, id="0..60, 0.9, once a group"),
    ],
)
def test_yolor_csp_has_the_parameters_that_were_counted_elsewhere(
    first: int, last: int, amount: float, sequential: bool, params: int
) -> None:
    net, groups = _yolor_csp()
    assert _params(net) == 52_497_868
    if sequential:
        plan, _ = selection.one_after_another(net, groups, _range(first, last), amount=amount)
    else:
        plan = _by_amount(net, groups, _range(first, last), amount=amount)
    assert _params(apply_plan(net, groups, plan)) == params


def test_in_the_old_way_the_residual_trunks_shrink_to_a_channel() -> None:
    net, groups = _yolor_csp()
    _, repeated = selection.one_after_another(net, groups, _range(0, 60), amount=0.9)
    trunk = next(r for r in repeated if r.root == "module_list.21.Conv2d")
    assert (trunk.before, trunk.after) == (128, 1)
