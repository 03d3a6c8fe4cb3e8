"""Scores of coupled groups: against torch-pruning's where it means the same, else by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import nets
import numpy as np
import pytest
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn
from torch_pruning.pruner import importance

from prune.core.importance.criteria import CRITERIA
from prune.core.importance.group_importance import (
    NORMALIZERS,
    READABLE,
    SCOPES,
    channel_importance,
    filters,
)
from prune.core.importance.statistics import Statistics, gather
from prune.core.trace.groups import Group, Slot, trace
from prune.core.trace.meta import tensors_in
from prune.errors import PlanError

Numbers = NDArray[np.float64]

# Not here are bare parameters and a layer at two places, which torch-pruning follows otherwise, and
# a image in a concatenation and a chunk of a concatenation, on which it fails.
NAMES = [
    "chain",
    "residual",
    "self_concat",
    "csp",
    "depthwise",
    "grouped",
    "gate",
    "pool_up",
    "flat",
]
WEIGHTED = [nn.modules.conv._ConvNd, nn.Linear]  # ours ask normalisations only by "bn"


@cache
def _case(name: str, *, positive: bool = False) -> tuple[nn.Module, tuple[Group, ...], Statistics]:
    """Build a net with gradients on its weights; its groups, and the same as statistics."""
    net, shape = nets.net(name), nets.CASES[name].shape
    if positive:
        for module in net.modules():
            if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
                nn.init.uniform_(module.weight, 0.1, 1.0)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1)).double()

    def loss(output: object, _: object) -> Tensor:
        assert isinstance(output, Tensor)
        return output.tanh().pow(2).sum()

    statistics = gather(net, [(images, None)], loss, what="change")
    torch.autograd.backward(loss(net(images), None))
    return net, trace(net, shape), statistics


Ours = tuple[Group, Tensor, Numbers]


def _pairs(
    name: str,
    found: tuple[Tensor | None, ...],
    importance_of: Callable[[tp.Group], Tensor],
    *,
    positive: bool = False,
) -> Iterator[Ours]:
    """Give each scored group with our scores and torch-pruning's of its first layer's outputs."""
    net, groups, _ = _case(name, positive=positive)
    for group, own in zip(groups, found, strict=True):
        if own is not None:
            layer = net.get_submodule(group.root)
            linear = isinstance(layer, nn.Linear)
            cutter = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
            every = list(range(nets.outputs(layer)))
            theirs = importance_of(
                _graph(name, positive=positive).get_pruning_group(layer, cutter, every)
            )
            yield group, own, np.asarray(theirs.numpy(), dtype=np.float64)


@cache
def _graph(name: str, *, positive: bool) -> tp.DependencyGraph:
    net, _, _ = _case(name, positive=positive)
    return tp.DependencyGraph().build_dependency(net, torch.rand(nets.CASES[name].shape).double())


def _by_channel(group: Group, values: Numbers) -> Numbers:
    """Add up the outputs of a group's first layer that are one channel, [channels]."""
    return np.array([values[list(place)].sum() for place in group.slot(group.root).index])


ROOT = {
    "l1": (importance.GroupMagnitudeImportance(1, "first", None), 1.0),
    "l2": (importance.GroupMagnitudeImportance(2, "first", None), 0.5),  # theirs is not rooted
    "lamp": (importance.LAMPImportance(2, "first"), 1.0),
    "taylor": (importance.GroupTaylorImportance("first", None, multivariable=True), 1.0),
}


@pytest.mark.parametrize("criterion", ROOT)
@pytest.mark.parametrize("name", NAMES)
def test_the_first_layer_scores_as_torch_pruning_says(name: str, criterion: str) -> None:
    net, groups, statistics = _case(name)
    importance_of, power = ROOT[criterion]
    found = channel_importance(net, groups, criterion=criterion, statistics=statistics)
    for group, own, theirs in _pairs(name, found, importance_of):
        expected = _by_channel(group, theirs**power)
        np.testing.assert_allclose(own.numpy(), expected, rtol=1e-4, err_msg=group.root)


# Theirs takes the size of every weight before distances: where all are positive it is FPGM. It
# cannot score what a layer in shares reads.
@pytest.mark.parametrize("name", [name for name in NAMES if name != "grouped"])
def test_fpgm_is_torch_prunings_where_weights_are_positive(name: str) -> None:
    net, groups, _ = _case(name, positive=True)
    found = channel_importance(net, groups, criterion="fpgm")
    importance_of = importance.FPGMImportance(1, "first", None)
    for group, own, theirs in _pairs(name, found, importance_of, positive=True):
        np.testing.assert_allclose(own.numpy(), _by_channel(group, theirs), rtol=1e-4)


GROUP = {
    "l1": importance.GroupMagnitudeImportance(1, "sum", None, target_types=WEIGHTED),
    "taylor": importance.GroupTaylorImportance(
        "sum", None, multivariable=True, target_types=WEIGHTED
    ),
}


# Compared are sums over members. Not compared are depthwise members, which theirs never asks, and
# readers in shares, of which theirs counts the weights once a share.
@pytest.mark.parametrize("criterion", GROUP)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("depthwise", "grouped")])
def test_all_members_score_as_torch_pruning_says(name: str, criterion: str) -> None:
    net, groups, statistics = _case(name)
    found = channel_importance(
        net, groups, criterion=criterion, scope="group", statistics=statistics
    )
    for group, own, theirs in _pairs(name, found, GROUP[criterion]):
        members = [slot for slot in group.slots if slot.kind in READABLE["weight"]]
        expected = _by_channel(group, theirs)
        np.testing.assert_allclose(own.numpy() * len(members), expected, rtol=1e-4)


@pytest.mark.parametrize(("scope", "reduction"), [("root", "first"), ("group", "mean")])
@pytest.mark.parametrize("name", NAMES)
def test_bn_is_torch_prunings(name: str, scope: str, reduction: str) -> None:
    net, groups, _ = _case(name)
    found = channel_importance(net, groups, criterion="bn", scope=scope)
    for group, own in zip(groups, found, strict=True):
        norms = any(slot.kind == "norm" for slot in group.slots)
        assert (own is not None) == (norms and not group.protected)
    for group, own, theirs in _pairs(name, found, importance.BNScaleImportance(reduction, None)):
        np.testing.assert_allclose(own.numpy(), _by_channel(group, theirs), rtol=1e-4)


# By hand, for what torch-pruning does not have or means otherwise.


def _rows(net: nn.Module, slot: Slot, statistics: dict[str, Numbers] | None = None) -> Numbers:
    """Take a place's weights, or what has their shape, one position a row by plain slicing."""
    layer = net.get_submodule(slot.name)
    weight = layer.get_parameter("weight").detach().numpy()
    weight = weight if statistics is None else statistics[slot.name]
    shares = getattr(layer, "groups", 1)
    transposed = getattr(layer, "transposed", False)
    if slot.side == "out":
        rows = [weight[:, p] if transposed else weight[p] for p in range(nets.outputs(layer))]
    elif isinstance(layer, nn.Linear):
        rows = [weight[:, p] for p in range(layer.in_features)]
    else:
        assert isinstance(layer, nn.modules.conv._ConvNd)
        inside, outside = layer.in_channels // shares, layer.out_channels // shares
        rows = [
            weight[p] if transposed else weight[p // inside * outside :][:outside, p % inside]
            for p in range(layer.in_channels)
        ]
    return np.stack([row.ravel() for row in rows])


BY_HAND: dict[str, Callable[[Numbers], Numbers]] = {
    "l1": lambda rows: np.abs(rows).sum(axis=1),
    "l2": lambda rows: np.linalg.norm(rows, axis=1),
    "fpgm": lambda rows: np.linalg.norm(rows[:, None] - rows[None], axis=2).sum(axis=1),
    "lamp": lambda rows: np.array(
        [s / sum(t for t in (rows**2).sum(axis=1) if t >= s) for s in (rows**2).sum(axis=1)]
    ),
    "taylor": lambda rows: np.abs(rows.sum(axis=1)),
}


@pytest.mark.parametrize("criterion", BY_HAND)
@pytest.mark.parametrize("name", ["depthwise", "grouped", "concat_plus", "pool_up", "flat"])
def test_a_group_scores_by_the_mean_of_its_members(name: str, criterion: str) -> None:
    net, groups, statistics = _case(name)
    changes = {layer: change.numpy() for layer, change in statistics.change.items()}
    found = channel_importance(
        net, groups, criterion=criterion, scope="group", statistics=statistics
    )
    for group, own in zip(groups, found, strict=True):
        if own is None:
            assert group.protected
            continue
        told = []
        for slot in group.slots:
            if slot.kind in READABLE["weight"]:
                rows = _rows(net, slot, changes if criterion == "taylor" else None)
                each = BY_HAND[criterion](rows)
                told.append([each[list(place)].sum() for place in slot.index])
        np.testing.assert_allclose(own.numpy(), np.mean(told, axis=0), rtol=2e-4)


@pytest.mark.parametrize("scope", SCOPES)
def test_fisher_adds_the_readers_before_it_squares(scope: str) -> None:
    net, shape = nets.net("residual"), nets.CASES["residual"].shape
    groups = trace(net, shape)
    generator = torch.Generator().manual_seed(2)
    gates = {n: torch.randn(6, 5, generator=generator) for n in ("in1.0", "in2.0", "end")}
    gates |= {n: torch.randn(5, 5, generator=generator) for n in ("out1.0", "out2.0")}
    found = channel_importance(
        net, groups, criterion="fisher", scope=scope, statistics=Statistics(gate=gates)
    )
    (number,) = (i for i, g in enumerate(groups) if g.root == "stem.0")
    readers = ["in1.0"] if scope == "root" else ["in1.0", "in2.0", "end"]
    expected = torch.stack([gates[n] for n in readers]).sum(dim=0).pow(2).sum(dim=1)
    own = found[number]
    assert own is not None
    np.testing.assert_allclose(own.numpy(), expected.numpy(), rtol=1e-5)


def test_activity_is_of_the_readers_and_flattened_inputs_add_up() -> None:
    net = nets.net("flat")
    groups = trace(net, nets.CASES["flat"].shape)
    activity = {"b.0": torch.rand(5), "hidden": torch.rand(16), "end": torch.rand(7)}
    for scope in SCOPES:  # each has one reader
        statistics = Statistics(activity=activity)
        a, b, hidden, end = channel_importance(
            net, groups, criterion="activation", scope=scope, statistics=statistics
        )
        assert end is None
        for own, expected in (
            (a, activity["b.0"]),
            (b, activity["hidden"].reshape(4, 4).sum(dim=1)),
            (hidden, activity["end"]),
        ):
            assert own is not None
            np.testing.assert_allclose(own.numpy(), expected.numpy(), rtol=1e-6)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", nets.CASES)
def test_every_free_group_has_one_score_a_channel(name: str, scope: str, criterion: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    reads = CRITERIA[criterion].reads
    found = channel_importance(
        net, groups, criterion=criterion, scope=scope, statistics=_evidence(net, shape, reads)
    )
    for group, own in zip(groups, found, strict=True):
        if group.protected:
            assert own is None
        elif own is None:
            sides = ("in",) if reads in ("gate", "activity") else ("in", "out")
            places = [s for s in group.slots if s.kind in READABLE[reads] and s.side in sides]
            assert not places
        else:
            assert own.shape == (group.channels,)
            assert own.dtype == torch.float32
            assert not own.requires_grad


def _evidence(net: nn.Module, shape: tuple[int, ...], reads: str) -> Statistics | None:
    if reads in ("weight", "scale"):
        return None

    def loss(output: object, _: object) -> Tensor:
        return torch.stack([part.pow(2).sum() for part in tensors_in(output)]).sum()

    return gather(net, [(torch.rand(shape).double(), None)], loss, what=reads)


@pytest.mark.parametrize("normalize", NORMALIZERS)
def test_normalised_scores_keep_their_order_and_their_measure_is_one(normalize: str) -> None:
    net = nets.net("csp")
    groups = trace(net, (1, 3, 8, 8))
    measures: dict[str, Callable[[Tensor], Tensor]] = {
        "mean": torch.mean,
        "max": torch.max,
        "sum": torch.sum,
    }
    plain = channel_importance(net, groups)
    for before, after in zip(
        plain, channel_importance(net, groups, normalize=normalize), strict=True
    ):
        assert (before is None) == (after is None)
        if before is None or after is None:
            continue
        assert torch.equal(torch.argsort(before), torch.argsort(after))
        if normalize in measures:
            assert float(measures[normalize](after)) == pytest.approx(1, rel=1e-5)
        else:
            assert torch.equal(before, after)


def test_scores_of_nothing_but_zeros_stay_zeros() -> None:
    for normalize in NORMALIZERS.values():
        assert torch.equal(normalize(torch.zeros(3)), torch.zeros(3))


def test_random_scores_depend_on_the_seed() -> None:
    net = nets.net("chain")
    groups = trace(net, (1, 3, 8, 8))
    first, again, other = (
        channel_importance(net, groups, criterion="random", seed=seed)[0] for seed in (1, 1, 2)
    )
    assert first is not None
    assert again is not None
    assert other is not None
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_group_without_normalisation_has_no_score_by_bn() -> None:
    net = nets.net("gate")
    groups = trace(net, (1, 3, 8, 8))
    found = channel_importance(net, groups, criterion="bn")
    unscored = {group.root for group, own in zip(groups, found, strict=True) if own is None}
    assert unscored == {"down", "down2", "end"}


def test_a_normalisation_without_scale_is_asked_nothing() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 2, 1)
    ).eval()
    groups = trace(net, (1, 3, 8, 8))
    assert channel_importance(net, groups, criterion="bn") == (None, None)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"criterion": "l3"}, "criterion is 'l3'; it must be one of l1, l2, bn"),
        ({"scope": "all"}, "scope is 'all'; it must be one of root, group"),
        ({"normalize": "median"}, "normalize is 'median'; it must be one of none, mean"),
        ({"criterion": "taylor"}, "criterion taylor needs images; give it data"),
        ({"criterion": "activation"}, "criterion activation needs images"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_met_is_refused(wish: dict[str, str], message: str) -> None:
    net = nets.net("chain")
    with pytest.raises(PlanError, match=message):
        channel_importance(net, trace(net, (1, 3, 8, 8)), **wish)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    net = nets.net("residual")
    nn.init.constant_(net.get_submodule("out2.0").get_parameter("weight")[2:3], value)
    groups = trace(net, (1, 3, 8, 8))
    assert channel_importance(net, groups)[0] is not None, "the first layer alone is whole"
    with pytest.raises(PlanError, match=r"the weights of stem\.0 contain NaN or infinity"):
        channel_importance(net, groups, scope="group")


def test_filters_of_inputs_and_outputs_hold_every_weight_once() -> None:
    layers: list[nn.Module] = [
        nn.Conv2d(6, 4, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.Linear(6, 4),
    ]
    for layer in layers:
        every = layer.get_parameter("weight").detach().flatten().sort().values
        for side, count in (("in", 6), ("out", 4)):
            rows = filters(layer, side)
            assert len(rows) == count
            assert torch.equal(rows.flatten().sort().values, every)
