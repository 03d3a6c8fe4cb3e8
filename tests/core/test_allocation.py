"""Budgets: what goes is within every limit, and no more goes than must."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import nets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prune.core.cost.cost_model import CostModel, cost_model
from prune.core.cost.macs import count
from prune.core.cut import apply_plan
from prune.core.importance.group_importance import channel_importance
from prune.core.select.allocation import ALLOCATIONS, Budget, Evaluation, Numbers, meet
from prune.core.select.constraints import Constraints, Counts, Limit, limits, rounded
from prune.core.select.selection import by_budget
from prune.core.trace.groups import Group, structures, trace
from prune.errors import PlanError
from prune.models.darknet import Darknet, build

SHAPE = (1, 3, 8, 8)
NAMES = ("chain", "residual", "concat", "self_concat", "csp", "grouped", "chunk", "depthwise")


@cache
def _small(name: str) -> tuple[tuple[Group, ...], CostModel]:
    net = nets.net(name)
    groups = trace(net, SHAPE)
    return groups, cost_model(net, groups, SHAPE)


@st.composite
def _prices(draw: st.DrawFn, groups: Sequence[Group]) -> list[Numbers | None]:
    """Draw rising prices, ties included; None for kept groups and some others."""
    numbers = st.integers(0, 12)
    found: list[Numbers | None] = []
    for group in groups:
        known = not group.protected and draw(st.integers(0, 5)) > 0
        own = draw(st.lists(numbers, min_size=group.channels, max_size=group.channels))
        found.append(np.array(sorted(own), dtype=float) if known else None)
    return found


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_a_budget_is_met_within_all_limits(name: str, kind: str, data: st.DataObject) -> None:
    groups, of = _small(name)
    prices = data.draw(_prices(groups))
    wish = Constraints(
        max_ratio=data.draw(st.sampled_from([0.3, 0.5, 0.8, 1.0])),
        min_channels=data.draw(st.integers(1, 3)),
        round_to=data.draw(st.sampled_from([1, 1, 2, 3, 4])),
    )
    allowed = limits(groups, wish)
    whole = getattr(of.of(of.full), kind)
    budget = Budget(kind, int(whole * data.draw(st.floats(0.2, 1.0))))

    def cost(removed: Counts) -> int:
        return int(getattr(of.of(of.full - removed), kind))

    most = np.array(
        [
            0 if price is None else rounded(len(price), len(price), limit)
            for price, limit in zip(prices, allowed, strict=True)
        ]
    )
    if cost(most) > budget.limit or whole <= budget.limit:
        with pytest.raises(PlanError):
            meet(prices, of, budget, allowed)
        return
    removed = meet(prices, of, budget, allowed)
    assert cost(removed) <= budget.limit
    for number, (group, limit) in enumerate(zip(groups, allowed, strict=True)):
        gone = removed[number]
        assert 0 <= gone <= limit.most
        assert gone == 0 or (group.channels - gone) % limit.multiple == 0
        assert gone == 0 or prices[number] is not None
        if gone:
            fewer = removed.copy()
            fewer[number] = max(gone - limit.multiple, 0)
            assert cost(fewer) > budget.limit, f"{group.root} could keep more"


def test_what_is_cheapest_goes_first() -> None:
    groups, of = _small("chain")
    prices: list[Numbers | None] = [np.array([5.0] * 6), np.arange(8.0), None]
    whole = of.of(of.full).macs
    free = [Limit(5), Limit(7), Limit(0)]
    saved = of.saved(of.full, metric="macs")
    removed = meet(prices, of, Budget("macs", whole - 1), free)
    assert list(removed) == [0, 1, 0]
    removed = meet(prices, of, Budget("macs", int(whole - 2.5 * saved[1])), free)
    assert list(removed) == [0, 3, 0]
    assert groups[1].channels == 8


def test_a_budget_that_is_met_already_or_never_is_an_error() -> None:
    _, of = _small("chain")
    prices: list[Numbers | None] = [np.arange(6.0), np.arange(8.0), None]
    free = [Limit(5), Limit(7), Limit(0)]
    whole = of.of(of.full).macs
    with pytest.raises(PlanError, match=f"nothing to remove: the network has {whole:,} macs"):
        meet(prices, of, Budget("macs", whole), free)
    least = of.of((1, 1, 4)).macs
    with pytest.raises(PlanError, match=f"cannot be met: within the limits {least:,} is the least"):
        meet(prices, of, Budget("macs", least - 1), free)
    assert list(meet(prices, of, Budget("macs", least), free)) == [5, 7, 0]
    with pytest.raises(PlanError, match=f"{whole:,} is the least"):
        meet([None, None, None], of, Budget("macs", least), free)


def _evaluation(
    *found: Sequence[float] | None,
    alike: Sequence[str] = ("x", "x", "y"),
    curves: Sequence[Sequence[tuple[float, float]]] = (),
) -> Evaluation:
    """Score the groups of the chain, of 6, 8 and 4 channels, by hand."""
    given: list[Tensor | None] = [None if f is None else torch.tensor(f) for f in found]
    return Evaluation(given, _small("chain")[1], "macs", alike, curves)


def _close(found: Numbers | None, expected: Sequence[float] | Numbers | float) -> None:
    assert found is not None
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-12)


SIX, EIGHT = (3.0, 1, 2, 6, 5, 4), (10.0, 20, 30, 40, 50, 60, 70, 80)


def test_uniform_prices_are_shares() -> None:
    first, second, third = ALLOCATIONS["uniform"](_evaluation(SIX, EIGHT, None))
    assert third is None
    _close(first, np.arange(1, 7) / 6)
    _close(second, np.arange(1, 9) / 8)


def test_global_prices_are_sorted_scores() -> None:
    first, second, third = ALLOCATIONS["global"](_evaluation(SIX, EIGHT, None))
    assert third is None
    _close(first, [1, 2, 3, 4, 5, 6])
    _close(second, EIGHT)


def test_per_cost_divides_by_what_a_channel_saves() -> None:
    first, second, _ = ALLOCATIONS["per-cost"](_evaluation(SIX, EIGHT, None))
    _close(first, np.arange(1.0, 7) / (3 * 9 * 64 + 8 * 9 * 16))
    _close(second, np.array(EIGHT) / (6 * 9 * 16 + 4 * 16))


def test_isomorphic_prices_are_places_within_a_class() -> None:
    apart = ALLOCATIONS["isomorphic"](_evaluation(SIX, EIGHT, None, alike=("x", "y", "z")))
    _close(apart[0], np.arange(1, 7) / 6)
    _close(apart[1], np.arange(1, 9) / 8)
    assert apart[2] is None
    one = ALLOCATIONS["isomorphic"](_evaluation(SIX, EIGHT, None))
    _close(one[0], np.arange(1, 7) / 14)
    _close(one[1], np.arange(7, 15) / 14)


def test_sensitivity_prices_add_up_to_the_measured_drop() -> None:
    straight, bent = [(0.5, 0.1), (1.0, 0.2)], [(0.5, 0.0), (1.0, 0.4)]
    found = _evaluation(SIX, EIGHT, None, curves=(straight, bent, ()))
    first, second, third = ALLOCATIONS["sensitivity"](found)
    saved = found.costs.saved(found.costs.full, metric="macs")
    assert third is None
    assert first is not None
    assert second is not None
    _close(first, 0.2 / 6 / saved[0])
    assert float(first.sum() * saved[0]) == pytest.approx(0.2)
    assert (np.diff(second) >= 0).all()
    assert float(second[0]) == pytest.approx(0)
    assert float(second.sum() * saved[1]) == pytest.approx(0.4, rel=0.15), (
        "the last slope goes on rising"
    )


def test_sensitivity_prices_what_was_not_measured_dearest() -> None:
    curve = [(0.5, 0.1), (0.75, 0.3)]
    found = _evaluation(SIX, EIGHT, None, curves=((), curve, ()))
    first, second, _ = ALLOCATIONS["sensitivity"](found)
    assert first is not None
    assert second is not None
    assert first.min() == first.max() == second.max()


def test_shares_measured_twice_or_not_at_all_are_no_error() -> None:
    """Of a narrow group several ratios take the same channels, or none."""
    twice, nothing = [(0.5, 0.1), (0.5, 0.2), (0.0, 0.3)], [(0.0, 0.1)]
    found = _evaluation(SIX, EIGHT, None, curves=(twice, nothing, ()))
    plain = _evaluation(SIX, EIGHT, None, curves=([(0.5, 0.2)], (), ()))
    pairs = zip(*(ALLOCATIONS["sensitivity"](each)[:2] for each in (found, plain)), strict=True)
    for first, second in pairs:
        assert first is not None
        assert second is not None
        np.testing.assert_array_equal(first, second)


def test_a_curve_that_dips_never_prices_below_zero() -> None:
    found = _evaluation(SIX, EIGHT, None, curves=([(0.2, -0.1), (0.5, 0.2), (0.8, 0.1)],) * 3)
    for prices in ALLOCATIONS["sensitivity"](found)[:2]:
        assert prices is not None
        assert (np.diff(prices) >= 0).all()
        assert prices[0] >= 0


def test_sensitivity_without_curves_is_an_error() -> None:
    with pytest.raises(PlanError, match="needs measured drops"):
        ALLOCATIONS["sensitivity"](_evaluation(SIX, EIGHT, None))


@cache
def _yolor() -> tuple[Darknet, tuple[Group, ...], Evaluation, Evaluation]:
    torch.manual_seed(0)
    net = build((Path(__file__).parents[2] / "cfg" / "yolor_csp_n.cfg").read_text())
    groups = trace(net, net.small_image, protected=net.head_convolutions())
    own = channel_importance(net, groups, scope="group")
    of = cost_model(net, groups, (1, 3, 320, 320))
    alike = structures(net, groups)
    by_macs, by_params = (Evaluation(own, of, kind, alike) for kind in ("macs", "params"))
    return net, groups, by_macs, by_params


WISHES = {"macs 0.3": ("macs", 0.3), "macs 0.5": ("macs", 0.5), "macs 0.7": ("macs", 0.7)}
WISHES["params 0.5"] = ("params", 0.5)


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("allocation", [name for name in ALLOCATIONS if name != "sensitivity"])
def test_a_detector_comes_down_to_its_budget_and_hardly_below(allocation: str, wish: str) -> None:
    net, groups, by_macs, by_params = _yolor()
    kind, share = WISHES[wish]
    found = by_macs if kind == "macs" else by_params
    whole = getattr(found.costs.of(found.costs.full), kind)
    budget = Budget(kind, int(share * whole))
    chosen = by_budget(
        groups, found, limits(groups, Constraints()), budget=budget, allocation=allocation
    )
    cut = apply_plan(net, groups, chosen.plan, share=True)
    left = getattr(count(cut, (1, 3, 320, 320)), kind)
    assert budget.limit - 0.01 * whole <= left <= budget.limit


@cache
def _full_size() -> tuple[tuple[Group, ...], CostModel, tuple[str, ...]]:
    with torch.device("meta"):  # its weights are not needed, and large
        net = build((Path(__file__).parents[2] / "cfg" / "yolor_csp.cfg").read_text())
    groups = trace(net, net.small_image, protected=net.head_convolutions())
    return groups, cost_model(net, groups, (1, 3, 640, 640)), structures(net, groups)


@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_made_up_scores_of_any_size_meet_the_budget_too(allocation: str, wish: str) -> None:
    groups, of, alike = _full_size()
    random = torch.Generator().manual_seed(4)
    sizes = torch.randn(len(groups), 2, generator=random).exp().tolist()
    own = [
        None if group.protected else size * torch.rand(group.channels, generator=random)
        for group, (size, _) in zip(groups, sizes, strict=True)
    ]
    curves = [[(share, drop * share**2) for share in (0.25, 0.5, 0.75)] for _, drop in sizes]
    kind, share = WISHES[wish]
    whole = getattr(of.of(of.full), kind)
    budget = Budget(kind, int(share * whole))
    prices = ALLOCATIONS[allocation](Evaluation(own, of, kind, alike, curves))
    assert all(p is None or (np.diff(p) >= 0).all() for p in prices)
    removed = meet(prices, of, budget, limits(groups, Constraints()))
    left = getattr(of.of(of.full - removed), kind)
    assert budget.limit - 0.01 * whole <= left <= budget.limit


def test_uniform_takes_the_same_share_off_every_group() -> None:
    _, groups, found, _ = _yolor()
    budget = Budget("macs", found.costs.of(found.costs.full).macs // 2)
    chosen = by_budget(groups, found, limits(groups, Constraints()), budget=budget)
    shares = [len(cut.remove) / cut.channels for cut in chosen.plan.cuts]
    wide = [s for s, c in zip(shares, chosen.plan.cuts, strict=True) if c.channels >= 32]
    assert max(wide) - min(wide) <= 2 / 32


def test_the_channels_that_go_are_the_lowest() -> None:
    groups, of = _small("chain")
    found = _evaluation(SIX, EIGHT, None)
    budget = Budget("macs", of.of((3, 8, 4)).macs)
    chosen = by_budget(
        groups, found, limits(groups, Constraints()), budget=budget, allocation="global"
    )
    assert [(cut.layer, cut.remove) for cut in chosen.plan.cuts] == [("a.0", (0, 1, 2))]
    assert dict(chosen.untouched)["b.0"] == "the budget did not require it"
    assert "output" in dict(chosen.untouched)["c"]


def test_an_unknown_allocation_is_an_error() -> None:
    groups, _ = _small("chain")
    found = _evaluation(SIX, EIGHT, None)
    with pytest.raises(PlanError, match="allocation is 'fair'; it can be uniform, global"):
        by_budget(groups, found, [Limit(0)] * 3, budget=Budget("macs", 1), allocation="fair")


def test_a_network_of_which_nothing_may_go_is_an_error_with_the_reasons() -> None:
    unscored, budget, free = _evaluation(None, None, None), Budget("macs", 1), [Limit(1)] * 3
    groups, _ = _small("chain")
    with pytest.raises(
        PlanError, match="nothing to remove: bn cannot compare its channels; it reaches"
    ):
        by_budget(groups, unscored, free, budget=budget, criterion="bn")
    frozen = [replace(group, protected="it is frozen") for group in groups]
    with pytest.raises(PlanError, match=r"^nothing to remove: it is frozen$"):
        by_budget(frozen, unscored, free, budget=budget)


def test_what_cannot_be_scored_stays_whole_with_the_reason() -> None:
    net = nets.net("gate")  # two of its layers have no normalisation
    groups = trace(net, SHAPE)
    of = cost_model(net, groups, SHAPE)
    found = Evaluation(
        channel_importance(net, groups, criterion="bn"), of, "macs", structures(net, groups)
    )
    budget = Budget("macs", int(0.6 * of.of(of.full).macs))
    chosen = by_budget(groups, found, limits(groups, Constraints()), budget=budget, criterion="bn")
    whole = dict(chosen.untouched)
    assert [whole[root] for root in ("down", "down2")] == ["bn cannot compare its channels"] * 2
    assert "output" in whole["end"]
    assert {cut.layer for cut in chosen.plan.cuts} == {"stem.0", "next.0"}
