"""Cliffs: named where the end of a budget costs much more than its beginning, and only there."""

from __future__ import annotations

from dataclasses import replace

import nets
import numpy as np
import pytest
import torch

from prune.core.cost.cost_model import cost_model
from prune.core.select.allocation import ALLOCATIONS, Budget, Evaluation, meet
from prune.core.select.cliffs import EASED, Cliff, cliffs, drop_at
from prune.core.select.constraints import Constraints, limits
from prune.core.trace.groups import trace

Curve = tuple[tuple[float, float], ...]

SHAPE = (1, 3, 8, 8)
GENTLE = ((0.5, 0.01), (1.0, 0.02))
STEEP = ((0.25, 0.0), (0.3, 0.01), (0.6, 0.5))


@pytest.mark.parametrize(
    ("share", "drop"),
    [(0.0, 0.0), (0.25, 0.05), (0.5, 0.1), (0.6, 0.3), (0.8, 0.7)],
    ids=["nothing", "before", "at", "between", "beyond"],
)
def test_a_drop_is_read_off_its_curve(share: float, drop: float) -> None:
    assert drop_at([(0.5, 0.1), (0.7, 0.5)], share) == pytest.approx(drop)


def test_a_dip_of_the_curve_is_noise() -> None:
    assert drop_at([(0.25, 0.1), (0.5, -0.2), (0.75, 0.3)], 0.5) == pytest.approx(0.1)
    assert drop_at([(0.25, -0.1)], 0.25) == 0


def test_a_group_of_which_no_channel_was_measured_is_no_cliff() -> None:
    assert not _found(0.5, steep=0, curve=((0.0, 0.3),))


def _found(
    share: float, *, steep: int, baseline: float = 0.5, curve: Curve = STEEP
) -> tuple[Cliff, ...]:
    """Cut a net uniformly to a share of its MACs; the curve of one group is steep."""
    net = nets.net("chain")
    groups = trace(net, SHAPE)
    free = [number for number, group in enumerate(groups) if not group.protected]
    curves = [
        curve if n == free[steep] else GENTLE if n in free else () for n in range(len(groups))
    ]
    found = Evaluation(
        importance=[None if g.protected else torch.arange(float(g.channels)) for g in groups],
        costs=cost_model(net, groups, SHAPE),
        metric="macs",
        alike=["x"] * len(groups),
        curves=curves,
        baseline=baseline,
    )
    whole = found.costs.of(found.costs.full).macs
    budget = Budget("macs", int(share * whole))
    prices, allowed = ALLOCATIONS["uniform"](found), limits(groups, Constraints())
    counts = meet(prices, found.costs, budget, allowed)
    named = cliffs(groups, found, prices, allowed, budget=budget, counts=counts)
    easier = replace(budget, limit=budget.limit + int(EASED * whole))
    if named:
        eased = meet(prices, found.costs, easier, allowed) if easier.limit < whole else 0 * counts
        kept = np.array([group.channels for group in groups]) - counts
        before = np.array([group.channels for group in groups]) - eased
        number = free[steep]
        assert (named[0].root, named[0].kept, named[0].eased) == (
            groups[number].root,
            kept[number],
            before[number],
        )
    return named


def test_the_steep_group_alone_is_named_and_only_at_its_cliff() -> None:
    shares = np.arange(0.14, 0.97, 0.02)
    named = {round(float(share), 2): _found(float(share), steep=0) for share in shares}
    assert all(len(each) <= 1 for each in named.values()), "the gentle group is none"
    at = [share for share, each in named.items() if each]
    assert at, "somewhere on the way down"
    assert max(at) < 0.9, "a light cut meets no cliff"
    assert min(at) > 0.1, "far below it the harm is done already"


def test_what_is_small_beside_the_metric_is_no_cliff() -> None:
    shares = np.arange(0.14, 0.97, 0.02)
    assert not any(_found(float(share), steep=0, baseline=100.0) for share in shares)


# By channel of six: a step at least doubles the drop, or does not.
STEPS = (0.0, 0.04, 0.1, 0.17, 0.3, 0.7)


def test_a_cliff_at_least_doubles_the_drop() -> None:
    curve = tuple((count / 6, drop) for count, drop in enumerate(STEPS) if count)
    found: dict[int, bool] = {}
    for share in np.arange(0.14, 0.97, 0.01):
        for cliff in _found(float(share), steep=0, curve=curve):
            assert cliff.drop >= 2 * cliff.drop_eased
        gone, before = _removed(float(share), curve)
        if gone == before + 1 and before:
            found[gone] = bool(_found(float(share), steep=0, curve=curve))
    assert found == {2: True, 3: False, 4: False, 5: True}, "2.5, 1.7, 1.8 and 2.3 times"


def _removed(share: float, curve: Curve) -> tuple[int, int]:
    """Return how many of the six channels go, under the budget and under the milder one."""
    net = nets.net("chain")
    groups = trace(net, SHAPE)
    found = Evaluation(
        importance=[None if g.protected else torch.arange(float(g.channels)) for g in groups],
        costs=cost_model(net, groups, SHAPE),
        metric="macs",
        alike=["x"] * len(groups),
        curves=[curve] * len(groups),
    )
    whole = found.costs.total("macs")
    prices, allowed = ALLOCATIONS["uniform"](found), limits(groups, Constraints())
    number = next(place for place, group in enumerate(groups) if not group.protected)
    budgets = (int(share * whole), int(share * whole) + int(EASED * whole))
    removed = [
        int(meet(prices, found.costs, Budget("macs", limit), allowed)[number])
        if limit < whole
        else 0
        for limit in budgets
    ]
    return removed[0], removed[1]
