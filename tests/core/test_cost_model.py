"""CostModel from coefficients against costs counted on the cut network."""

from functools import cache
from pathlib import Path

import nets
import numpy as np
import plans
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prune.core.cost.cost_model import CostModel, cost_model
from prune.core.cost.macs import Cost, count, per_layer
from prune.core.cut import apply_plan
from prune.core.plan import Plan
from prune.core.trace.groups import Group, trace
from prune.errors import PlanError
from prune.models.darknet import Darknet, build

KINDS = ("macs", "params")


def _kept(groups: tuple[Group, ...], plan: Plan) -> list[int]:
    """Count the channels that a plan leaves each group."""
    gone = {(cut.layer, position) for cut in plan.cuts for position in cut.remove}

    def left(group: Group) -> int:
        places = group.slot(group.root).index
        return sum(not any((group.root, p) in gone for p in place) for place in places)

    return [left(group) for group in groups]


def _same(found: Cost, counted: Cost) -> bool:
    return (found.macs, found.params) == (counted.macs, counted.params)


@pytest.mark.parametrize("name", nets.CASES)
@given(data=st.data())
@settings(max_examples=5, deadline=None)
def test_costs_are_what_the_cut_network_counts(name: str, data: st.DataObject) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    plan = data.draw(plans.plans(groups))
    of = cost_model(net, groups, shape)
    kept = _kept(groups, plan)
    cut = apply_plan(net, groups, plan)
    assert _same(of.of(kept), count(cut, shape))
    assert of.layers(kept) == {
        layer: cost.macs for layer, cost in per_layer(cut, shape).items() if layer in of.names
    }
    assert _same(of.of(of.full), count(net, shape))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", nets.CASES)
def test_saved_is_the_difference_one_channel_makes(name: str, kind: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    of = cost_model(net, groups, shape)
    for kept in (of.full, np.maximum(of.full // 2, 1)):
        assert list(of.saved(kept, metric=kind)) == pytest.approx(_differences(of, kept, kind))


def _differences(of: CostModel, kept: NDArray[np.int64], kind: str) -> list[int]:
    now = getattr(of.of(kept), kind)
    return [int(now - getattr(of.of(kept - one), kind)) for one in np.eye(len(kept), dtype=int)]


@cache
def _yolor() -> tuple[Darknet, tuple[Group, ...]]:
    net = build((Path(__file__).parents[2] / "cfg" / "yolor_csp_n.cfg").read_text())
    return net, trace(net, net.small_image, protected=net.head_convolutions())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_costs_of_a_detector_cut_anyhow(share: float) -> None:
    net, groups = _yolor()
    generator = torch.Generator().manual_seed(3)
    chosen = {}
    for number, group in enumerate(groups):
        if not group.protected:
            count_gone = int(share * torch.rand((), generator=generator) * group.channels)
            chosen[number] = torch.randperm(group.channels, generator=generator)[:count_gone]
    plan = plans.plan_of(groups, {n: gone.tolist() for n, gone in chosen.items()})
    of = cost_model(net, groups, (1, 3, 640, 640))
    cut = apply_plan(net, groups, plan, share=True)
    assert _same(of.of(_kept(groups, plan)), count(cut, (1, 3, 640, 640)))


CFG = Path(__file__).parents[2] / "cfg"


@pytest.mark.parametrize("name", sorted(path.stem for path in CFG.glob("*.cfg")))
def test_costs_of_every_cfg_with_half_of_every_group(name: str) -> None:
    with torch.device("meta"):  # costs are of shapes alone
        net = build((CFG / f"{name}.cfg").read_text())
    groups = trace(net, net.small_image, protected=net.head_convolutions())
    free = {n: group for n, group in enumerate(groups) if not group.protected}
    plan = plans.plan_of(groups, {n: range(g.channels // 2) for n, g in free.items()})
    of = cost_model(net, groups, net.small_image)
    cut = apply_plan(net, groups, plan, share=True)
    assert _same(of.of(_kept(groups, plan)), count(cut, net.small_image))


def test_savings_on_a_detector_are_differences() -> None:
    net, groups = _yolor()
    of = cost_model(net, groups, (1, 3, 320, 320))
    kept = np.maximum(of.full * 2 // 3, 1)
    for kind in KINDS:
        assert list(of.saved(kept, metric=kind)) == pytest.approx(_differences(of, kept, kind))


def test_a_chain_by_hand() -> None:
    net = nets.net("chain")
    groups = trace(net, (1, 3, 8, 8))
    of = cost_model(net, groups, (1, 3, 8, 8))
    assert of.names == ("a.0", "b.0", "c")
    assert list(of.full) == [6, 8, 4]
    # 3x3 at 8 x 8 and, with stride 2, at 4 x 4; then 1x1 at 4 x 4, with a bias.
    kept = (5, 6, 4)
    assert of.layers(kept) == {"a.0": 3 * 5 * 9 * 64, "b.0": 5 * 6 * 9 * 16, "c": 6 * 4 * 16}
    learned = 3 * 5 * 9 + 2 * 5 + 5 * 6 * 9 + 2 * 6 + 6 * 4 + 4
    assert of.of(kept) == Cost(params=learned, macs=sum(of.layers(kept).values()))
    assert of.saved(kept, metric="macs")[0] == 3 * 9 * 64 + 6 * 9 * 16
    assert of.saved(kept, metric="params")[1] == 5 * 9 + 2 + 4


def test_a_network_that_cannot_be_run_is_refused() -> None:
    net = nets.net("chain")
    groups = trace(net, (1, 3, 8, 8))
    with pytest.raises(PlanError, match="cannot be run"):
        cost_model(net, groups, (1, 5, 8, 8))
