"""Criteria of the user's own: a function, one in a file, one that a package offers."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import nets
import pytest
import tiny
import torch
from torch import Generator, Tensor, nn

import prune
from prune.cli import main, ranked
from prune.core.importance import own_criteria
from prune.core.importance.criteria import CRITERIA, Criterion, l1_norm
from prune.core.importance.group_importance import channel_importance
from prune.core.importance.own_criteria import find
from prune.core.plan import from_json
from prune.core.trace.groups import trace
from prune.errors import PlanError

SHAPE = (2, 3, 8, 8)
FILE = """
from prune import Criterion

def last_first(rows, generator):
    return -rows.abs().sum(dim=1)

by_scale = Criterion(last_first, reads="scale")
number = 3
"""


def last_first(rows: Tensor, _: Generator) -> Tensor:
    """Prune what L1 would prune last."""
    return -rows.abs().sum(dim=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_function_is_a_criterion_of_weights() -> None:
    net = nets.net("chain")
    groups = trace(net, SHAPE)
    own = channel_importance(net, groups, criterion=last_first)
    l1 = channel_importance(net, groups, criterion="l1")
    for mine, theirs in zip(own, l1, strict=True):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert torch.equal(mine, -theirs)


def test_every_way_to_name_a_criterion(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("of-a-package", "prune.core.importance.criteria:l1_norm", own_criteria.GROUP)
    monkeypatch.setattr(
        own_criteria,
        "entry_points",
        lambda *, group, name: [point] if (group, name) == (point.group, point.name) else [],
    )
    assert find("l2") == ("l2", CRITERIA["l2"])
    assert find(last_first) == ("last_first", Criterion(last_first))
    assert find(Criterion(last_first, "scale"))[1].reads == "scale"
    assert find("of-a-package") == ("of-a-package", Criterion(l1_norm))
    name, found = find(f"{file}:last_first")
    assert (name, found.reads, found.needs_images) == (f"{file}:last_first", "weight", False)
    assert find(f"{file}:by_scale")[1].reads == "scale"


def test_criteria_say_whether_they_need_images() -> None:
    needing = {name for name, criterion in CRITERIA.items() if criterion.needs_images}
    assert needing == {"taylor", "fisher", "activation"}
    with pytest.raises(PlanError, match="reads is 'pixels'; it must be one of weight, scale"):
        Criterion(last_first, reads="pixels")


WRONG: dict[str, str] = {
    "criterion is 'l3'; it must be one of l1": "l3",
    r"cannot read .*none\.py: No such file": "none.py:last_first",
    r"mine\.py has no 'first_last'": "mine.py:first_last",
    r"mine\.py:number is a int; it must be a function": "mine.py:number",
    r"broken\.py cannot be run: ": "broken.py:x",
}


@pytest.mark.parametrize("message", WRONG)
def test_a_criterion_that_cannot_be_used_is_refused(
    message: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    Path("broken.py").write_text("import a_module_that_nobody_has")
    with pytest.raises(PlanError, match=message):
        find(WRONG[message])


@pytest.mark.parametrize(
    "function",
    [lambda rows, _: rows, lambda rows, _: rows.sum(), lambda rows, _: 3.0],
    ids=["rows", "a single number", "no tensor"],
)
def test_a_criterion_must_return_one_number_per_row(
    function: Callable[[Tensor, Generator], Tensor],
) -> None:
    net = nets.net("chain")
    with pytest.raises(PlanError, match=r"one number per row, a tensor of shape \[6\]"):
        channel_importance(net, trace(net, SHAPE), criterion=function)


def test_select_takes_a_function_and_the_plan_names_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    graph = prune.trace(model, (torch.rand(1, 3, 8, 8),))
    own, l1 = (prune.select(graph, amount=0.5, criterion=c) for c in (last_first, "l1"))
    assert own.criterion == "last_first"
    assert sorted(own.cuts[0].remove + l1.cuts[0].remove) == list(range(8))


def test_the_commands_take_a_function_in_a_file(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dense, plan = tiny.weights(tmp_path), tmp_path / "plan.json"
    removed = []
    for criterion in (f"{file}:last_first", "l1"):
        words = ["--criterion", criterion, "--dry-run", "--plan-out", str(plan), "--json"]
        assert main(["layers", "--weights", str(dense), *words]) == 0
        assert json.loads(capsys.readouterr().out)["groups"]
        made = from_json(plan.read_text())
        assert made.criterion == criterion
        removed.append({cut.layer: set(cut.remove) for cut in made.cuts})
    assert all(removed[0][layer].isdisjoint(own) for layer, own in removed[1].items())
    words = ["global", "--weights", str(dense), "--macs", "0.5", "--dry-run"]
    assert main([*words, "--criterion", f"{file}:by_scale"]) == 0
    assert main([*words, "--criterion", f"{file}:none"]) == 2
    assert "has no 'none'" in capsys.readouterr().err


def test_an_unknown_name_is_refused_by_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "l1" in ranked.CRITERIA and "mine.py:f" in ranked.CRITERIA
    assert "l3" not in ranked.CRITERIA
    with pytest.raises(SystemExit):
        main(["layers", "--criterion", "l3"])
    assert "invalid choice: 'l3'" in capsys.readouterr().err
