"""Plans: the file form, and what a plan spells out to."""

import json
from typing import Any

import nets
import plans as drawn
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.core.cut import apply_plan
from prune.core.plan import Cut, Plan, from_json, joined, removed, to_dict, to_json
from prune.core.trace.groups import Group, Slot, trace
from prune.errors import PlanError

cuts = st.builds(
    Cut,
    layer=st.text(),
    channels=st.integers(1, 99),
    remove=st.sets(st.integers(0, 98)).map(lambda s: tuple(sorted(s))),
    members=st.lists(st.text()).map(tuple),
)
plans = st.builds(
    Plan,
    network=st.text(),
    criterion=st.text(),
    cuts=st.lists(cuts).map(tuple),
    blocks=st.lists(st.integers(0, 99)).map(tuple),
    made_by=st.text(),
)


@given(plans)
@settings(max_examples=50, deadline=None)
def test_a_plan_read_back_is_the_plan(plan: Plan) -> None:
    assert from_json(to_json(plan)) == plan
    assert from_json(json.dumps(to_dict(plan))) == plan


def test_the_file_has_one_line_a_cut() -> None:
    plan = Plan("id", "l1", (Cut("a", 4, (1,), ("a",)), Cut("b", 4, (0, 2), ("b", "c"))))
    lines = to_json(plan).splitlines()
    assert [json.loads(line.strip().rstrip(","))["layer"] for line in lines[1:3]] == ["a", "b"]


GOOD: dict[str, Any] = to_dict(Plan("id", "l1", (Cut("a", 4, (1,), ("a",)),)))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        pytest.param("{", "not JSON", id="broken"),
        pytest.param("[]", r"f.json holds \[\]; it must be a mapping", id="no object"),
        pytest.param(json.dumps(GOOD | {"format": "x"}), "prune-plan/1", id="other format"),
        pytest.param(
            json.dumps(GOOD | {"network": 3}), "f.json: network is 3; it must be text", id="network"
        ),
        pytest.param(json.dumps(GOOD | {"cuts": {}}), "f.json: cuts is {}", id="cuts"),
        pytest.param(
            json.dumps(GOOD | {"cuts": [3]}),
            r"cuts\[0\] is 3; it must",
            id="cut",
        ),
        pytest.param(
            json.dumps(GOOD | {"cuts": [GOOD["cuts"][0] | {"channels": "4"}]}), "4", id="channels"
        ),
        pytest.param(
            json.dumps(GOOD | {"cuts": [GOOD["cuts"][0] | {"remove": [1.5]}]}), "whole", id="remove"
        ),
        pytest.param(json.dumps(GOOD | {"blocks": [True]}), "whole", id="blocks"),
        pytest.param("[" * 100_000, "nested more than 100 levels deep", id="deep"),
        pytest.param('{"format": 1, "format": 2}', "'format' is given twice", id="twice"),
        pytest.param(
            json.dumps(GOOD | {"network": ["x" * 10**6] * 9}), r"network is \['x.*\.\.\.", id="long"
        ),
        pytest.param(json.dumps(GOOD | {"blocks": [10**400]}), "digits .* too large", id="digits"),
        pytest.param(json.dumps(GOOD | {"blocks": [10**299]}), "about 300 digits", id="huge"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(text: str, word: str) -> None:
    with pytest.raises(PlanError, match=word):
        from_json(text, where="f.json")


def test_a_channel_takes_its_coupled_positions_along() -> None:
    groups = trace(nets.net("concat"), (1, 3, 8, 8))
    plan = Plan("", "given", (Cut("a.0", 4, (0, 2), ("a.0",)),))
    assert removed(groups, plan) == {
        ("a.0", "out"): (0, 2),
        ("a.1", "out"): (0, 2),
        ("norm", "out"): (8, 10),
        ("end", "in"): (8, 10),
    }


def test_a_tied_channel_leaves_whole_whichever_part_is_named() -> None:
    groups = trace(nets.net("grouped"), (1, 3, 8, 8))
    parts = [removed(groups, Plan("", "", (Cut("stem.0", 6, (p,), ()),))) for p in (1, 4)]
    assert parts[0] == parts[1]
    assert parts[0]["stem.0", "out"] == (1, 4)


def test_cuts_of_several_groups_in_one_layer_are_united() -> None:
    groups = trace(nets.net("concat_plus"), (1, 3, 8, 8))
    plan = Plan("", "", (Cut("wide.0", 3, (1,), ()), Cut("wide.0", 4, (5,), ())))
    gone = removed(groups, plan)
    assert gone["wide.0", "out"] == gone["end", "in"] == (1, 5)
    assert (gone["a.0", "out"], gone["b.0", "out"]) == ((1,), (2,))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (Cut("b.1", 8, (1,), ()), "b.1 is the first layer of no coupled group"),
        (Cut("b.0", 8, (8,), ()), "b.0 has outputs 0 to 7, not 8"),
        (Cut("b.0", 9, (1,), ()), "b.0 has 8 channels here, but 9 in the plan"),
        (Cut("c", 4, (1,), ()), "the channels of c are protected: it reaches the network's output"),
        (Cut("b.0", 8, tuple(range(8)), ()), "b.0 would be left without channels"),
    ],
    ids=["no root", "no such output", "other width", "kept", "emptied"],
)
def test_a_plan_that_does_not_fit_is_refused(cut: Cut, message: str) -> None:
    groups = trace(nets.net("chain"), (1, 3, 8, 8))
    with pytest.raises(PlanError, match=message):
        removed(groups, Plan("", "", (cut,)))


def test_a_layer_emptied_by_two_cuts_together_is_refused() -> None:
    groups = trace(nets.net("concat_plus"), (1, 3, 8, 8))
    plan = Plan("", "", (Cut("wide.0", 3, (0, 1, 2), ()), Cut("wide.0", 4, (3, 4, 5), ())))
    with pytest.raises(PlanError, match=r"a\.0 would be left without channels"):
        removed(groups, plan)


def test_a_group_knows_its_root_width_and_producers() -> None:
    index = ((0, 2), (1, 3))
    slots = (Slot("a", "out", index), Slot("n", "out", index, "norm"), Slot("b", "in", index))
    group = Group("a", 2, slots)
    assert (group.width, group.producers, group.slot("b", "in")) == (4, ("a",), slots[2])


@pytest.mark.parametrize("name", nets.CASES)
@given(data=st.data())
@settings(max_examples=4, deadline=None)
def test_one_plan_of_two_cuts_as_both_one_after_the_other(name: str, data: st.DataObject) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    groups = trace(net, shape)
    first = data.draw(drawn.plans(groups))
    between = apply_plan(net, groups, first)
    left = trace(between, shape)
    second = data.draw(drawn.plans(left))
    twice = apply_plan(between, left, second).state_dict()
    once = apply_plan(net, groups, joined(groups, first, second)).state_dict()
    assert twice.keys() == once.keys()
    assert all(torch.equal(twice[key], once[key]) for key in once)


def test_a_joined_plan_is_of_the_first_network_and_says_the_second_wish() -> None:
    groups = trace(nets.net("chain"), (1, 3, 8, 8))
    first = Plan("id", "l1", (Cut("b.0", 8, (1, 2), ("b.0",)),), blocks=(4,))
    second = Plan("other", "l2", (Cut("b.0", 6, (0, 1), ("b.0",)), Cut("a.0", 6, (5,), ("a.0",))))
    both = joined(groups, first, second)
    assert (both.network, both.criterion, both.blocks) == ("id", "l2", (4,))
    assert both.cuts == (Cut("a.0", 6, (5,), ("a.0",)), Cut("b.0", 8, (0, 1, 2, 3), ("b.0",)))


def test_plans_that_do_not_fit_are_not_joined() -> None:
    groups = trace(nets.net("chain"), (1, 3, 8, 8))
    good = Plan("", "l1", (Cut("b.0", 8, (1, 2), ("b.0",)),))
    with pytest.raises(PlanError, match="has outputs 0 to 7, not 9"):
        joined(groups, Plan("", "", (Cut("b.0", 8, (9,), ()),)), good)
    with pytest.raises(PlanError, match="the second plan"):
        joined(groups, good, Plan("", "", (Cut("b.0", 6, (6,), ()),)))
