"""A checkpoint cut to a budget, at once and in steps, with and without blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import stacks
import tiny
import torch
from torch import Tensor

from prune.core.cost.macs import count
from prune.core.cut import apply_plan
from prune.core.select.allocation import Budget
from prune.core.select.constraints import Constraints
from prune.core.select.selection import Selected
from prune.core.trace.groups import trace
from prune.errors import PlanError
from prune.pruner import budget as budgeted
from prune.pruner import depth, session, width_and_depth
from prune.pruner.budget import BudgetOptions
from prune.pruner.importance import importance_of
from prune.pruner.session import Session


@cache
def _subject(kind: str = "tiny") -> Session:
    with TemporaryDirectory() as folder:
        write = tiny.weights if kind == "tiny" else stacks.weights
        return session.open_session(write(Path(folder)))


def _macs(subject: Session, chosen: Selected | None = None) -> int:
    side = subject.checkpoint.imgsz
    net = subject.net
    if chosen:
        return session.cut_session(subject, chosen.plan, made_by="test").after.macs
    return count(net, side.batch()).macs


def _cut(subject: Session, share: float, wishes: BudgetOptions | None = None) -> Selected:
    budget = Budget("macs", int(share * _macs(subject)))
    side = subject.checkpoint.imgsz
    return budgeted.to_budget(subject, importance_of, budget, wishes or BudgetOptions(), imgsz=side)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_the_budget_is_met_in_any_number_of_steps(steps: int, share: float) -> None:
    subject = _subject()
    left = _macs(subject, _cut(subject, share, BudgetOptions(steps=steps)))
    assert (share - 0.1) * _macs(subject) < left <= share * _macs(subject)


def test_steps_that_overshoot_are_enough_for_the_next() -> None:
    subject = _subject()
    wishes = BudgetOptions(steps=10, everywhere=Constraints(round_to=8))
    assert _macs(subject, _cut(subject, 0.5, wishes)) <= 0.5 * _macs(subject)


def test_every_step_scores_what_the_one_before_left() -> None:
    subject, seen = _subject(), []

    def score(now: Session) -> tuple[Tensor | None, ...]:
        seen.append(now)
        return importance_of(now)

    budget = Budget("macs", _macs(subject) // 2)
    chosen = budgeted.to_budget(subject, score, budget, BudgetOptions(steps=3), imgsz=64)
    sizes = [_macs(now) for now in seen]
    assert len(seen) == 3
    assert sizes[0] == _macs(subject) > sizes[1] > sizes[2] > budget.limit
    cut = apply_plan(subject.net, subject.groups, chosen.plan)
    last = seen[-1].net.state_dict()
    widths = {name: len(tensor) for name, tensor in cut.state_dict().items() if tensor.dim()}
    assert all(len(last[name]) >= width for name, width in widths.items())


def test_caps_hold_over_all_steps_together() -> None:
    subject = _subject()
    wishes = BudgetOptions(steps=4, everywhere=Constraints(max_ratio=0.5, round_to=2))
    least = _cut(subject, 0.5, wishes)
    assert all(2 * len(cut.remove) <= cut.channels for cut in least.plan.cuts)
    with pytest.raises(PlanError, match="cannot be met"):
        _cut(subject, 0.1, wishes)


def test_a_group_that_stays_whole_is_listed_with_its_reason() -> None:
    subject = _subject()
    layers: dict[str, dict[str, object]] = {
        "module_list.3.*": {"exclude": True},
        "module_list.0.*": {"min_channels": 8},
    }
    for steps in (1, 3):
        chosen = _cut(subject, 0.8, BudgetOptions(layers=layers, steps=steps))
        whole = dict(chosen.untouched)
        assert whole["module_list.2.Conv2d"] == "it is excluded", "2 and 3 are coupled"
        assert "limits" in whole["module_list.0.Conv2d"]
        assert not whole.keys() & {cut.layer for cut in chosen.plan.cuts}
        assert whole.keys() | {cut.layer for cut in chosen.plan.cuts} == {
            group.root for group in subject.groups
        }


CURVE = ((0.5, 0.1), (0.75, 0.3))
WRONG = {
    "steps is 0": (0.5, BudgetOptions(steps=0)),
    "it cannot be cut in steps": (0.5, BudgetOptions(steps=2, curves=(CURVE,) * 6)),
    "nothing to remove": (1.0, BudgetOptions()),
    "nothing to remove: the network has": (1.0, BudgetOptions(steps=3)),
    "cannot be met": (0.001, BudgetOptions()),
    "names no layer": (0.5, BudgetOptions(layers={"nothing": {"exclude": True}})),
    "cannot be met: within the limits": (0.5, BudgetOptions(everywhere=Constraints(exclude=True))),
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wish_that_cannot_be_met_is_refused(message: str) -> None:
    share, wishes = WRONG[message]
    with pytest.raises(PlanError, match=message):
        _cut(_subject(), share, wishes)


def test_what_the_curves_price_dear_stays() -> None:
    subject = _subject()
    dear = [group.root == "module_list.1.Conv2d" for group in subject.groups]
    curves = [((0.5, 9.0), (0.75, 20.0)) if is_dear else CURVE for is_dear in dear]
    chosen = _cut(subject, 0.6, BudgetOptions(allocation="sensitivity", curves=curves))
    assert "module_list.1.Conv2d" in dict(chosen.untouched)


PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
COMPARISON = width_and_depth.DepthChoice(PICTURES)


def _narrow(share: float, wishes: BudgetOptions | None = None) -> width_and_depth.Narrow:
    budget = Budget("macs", int(share * _macs(_subject("stack"))))
    return lambda now: budgeted.to_budget(
        now, importance_of, budget, wishes or BudgetOptions(), imgsz=stacks.SIZE
    )


def _deep(number: int, wishes: BudgetOptions | None = None) -> width_and_depth.DepthTrial:
    subject = _subject("stack")
    found = depth.blocks(subject.net, imgsz=stacks.SIZE)
    return width_and_depth.with_blocks(
        subject, found, _narrow(0.5, wishes), comparison=COMPARISON, number=number
    )


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_blocks_and_widths_together_meet_the_budget(number: int) -> None:
    subject, trial = _subject("stack"), _deep(number)
    assert len(depth.places_of(subject.net, trial.chosen.plan.blocks)) == trial.blocks == number
    assert _macs(subject, trial.chosen) <= 0.5 * _macs(subject)
    assert trial.change > 0


def test_blocks_go_by_the_criterion_that_judges_them() -> None:
    subject = _subject("stack")
    found = depth.blocks(subject.net, imgsz=stacks.SIZE)
    for criterion in ("output", "l1"):
        comparison = replace(COMPARISON, criterion=criterion)
        trial = width_and_depth.with_blocks(
            subject, found, _narrow(0.5), comparison=comparison, number=1
        )
        scores = depth.importance_of(subject.net, found, criterion=criterion, images=PICTURES)
        least = found[scores.index(min(scores))]
        assert set(trial.chosen.plan.blocks) == set(least.layers)


def test_blocks_first_and_widths_then_give_the_same_network() -> None:
    subject, trial = _subject("stack"), _deep(1)
    plan = trial.chosen.plan
    once = session.cut_session(subject, plan, made_by="test").net
    shallow = depth.without(subject.net, depth.places_of(subject.net, plan.blocks))
    groups = trace(shallow, shallow.small_image, protected=shallow.head_convolutions())
    chosen = _narrow(0.5)(replace(subject, net=shallow, groups=groups))
    twice = apply_plan(shallow, groups, chosen.plan).state_dict()
    assert twice.keys() == once.state_dict().keys()
    assert all(torch.equal(twice[name], tensor) for name, tensor in once.state_dict().items())


def test_limits_name_layers_as_the_checkpoint_does_though_blocks_left() -> None:
    for number in (0, 1, 2):
        wishes = BudgetOptions(layers={"module_list.17.*": {"exclude": True}})
        chosen = _deep(number, wishes).chosen
        assert dict(chosen.untouched).get("module_list.17.Conv2d") == "it is excluded"
        roots = [cut.layer for cut in chosen.plan.cuts]
        members = [name for cut in chosen.plan.cuts for name in cut.members]
        assert "module_list.17.Conv2d" not in members
        assert len(roots) == len(set(roots))


def test_a_limit_of_a_layer_that_left_is_no_error() -> None:
    gone = _deep(1).chosen.plan.blocks
    layers = {f"module_list.{layer}.*": {"exclude": True} for layer in gone[:1]}
    assert _deep(1, BudgetOptions(layers=layers)).chosen.plan.blocks == gone


def test_numbers_of_blocks_are_tried_and_the_nearest_output_comes_first() -> None:
    subject = _subject("stack")
    found = depth.blocks(subject.net, imgsz=stacks.SIZE)
    trials = width_and_depth.automatic(subject, found, _narrow(0.5), comparison=COMPARISON)
    changes = [trial.change for trial in trials]
    assert changes == sorted(changes)
    assert {trial.blocks for trial in trials} == set(range(len(found) + 1))
    with pytest.raises(PlanError, match="cannot be met"):
        width_and_depth.automatic(subject, found, _narrow(0.0001), comparison=COMPARISON)


def test_curves_are_of_a_network_with_all_its_blocks() -> None:
    curves: Sequence[budgeted.Curve] = [CURVE] * len(_subject("stack").groups)
    with pytest.raises(PlanError, match="cannot lose blocks first"):
        _deep(1, BudgetOptions(allocation="sensitivity", curves=curves))
