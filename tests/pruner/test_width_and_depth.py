"""global --depth: blocks and widths in one plan, as typed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import stacks
import torch

from prune import checkpoint
from prune.cli import main
from prune.core.plan import from_json
from prune.pruner import session
from prune.pruner.session import convolutions

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    return stacks.weights(tmp_path)


def _run(words: Sequence[object], capsys: Capture) -> tuple[dict[str, object], str]:
    """Run a command that succeeds; return the JSON document on stdout, and stderr."""
    assert main([*map(str, words), "--json"]) == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert isinstance(document, dict)
    return document, printed.err


def test_a_saved_plan_with_blocks_gives_the_same_file(
    stack: Path, tmp_path: Path, capsys: Capture
) -> None:
    first, again, path = tmp_path / "first.pt", tmp_path / "again.pt", tmp_path / "plan.json"
    words = ["global", "--weights", stack, "--macs", 0.5, "--depth", 1, "--plan-out", path]
    _run([*words, "--out", first], capsys)
    _run(["apply", "--weights", stack, "--plan", path, "--out", again], capsys)
    one, two = checkpoint.load(first), checkpoint.load(again)
    plan = from_json(path.read_text())
    assert plan.cuts
    assert plan.blocks
    assert one.cfg == two.cfg
    assert one.model.keys() == two.model.keys()
    assert all(torch.equal(one.model[name], two.model[name]) for name in one.model)


@pytest.mark.parametrize("recovery", [[], ["--compensate"]], ids=["bare", "recovered"])
def test_the_number_of_blocks_is_the_one_that_moves_least(
    stack: Path, capsys: Capture, recovery: list[str]
) -> None:
    words = ["global", "--weights", stack, "--macs", 0.5, "--dry-run", "--depth", "auto"]
    told, err = _run([*words, *recovery], capsys)
    lines = [line for line in err.splitlines() if "blocks removed" in line]
    assert all(("then recovery" in line) == bool(recovery) for line in lines)
    moved = [float(line.rsplit(" ", 1)[1]) for line in lines]
    assert len(moved) == 4, "none to three"
    blocks = told["blocks"]
    assert isinstance(blocks, list)
    assert moved[len(blocks)] == min(moved)
    assert "without --data the number of blocks is chosen by noise" in err


@pytest.mark.parametrize("number", ["3", "auto"])
def test_blocks_that_meet_the_budget_alone_leave_widths_whole(
    stack: Path, capsys: Capture, number: str
) -> None:
    words = ["global", "--weights", stack, "--macs", 0.9, "--dry-run", "--depth", number]
    told, err = _run(words, capsys)
    if number == "3":
        assert told["blocks"]
        assert told["groups"] == []
    else:
        assert len([line for line in err.splitlines() if "blocks removed" in line]) == 4


def test_a_block_with_an_excluded_layer_is_left_whole(stack: Path, capsys: Capture) -> None:
    words = ["global", "--weights", stack, "--macs", 0.6, "--dry-run", "--depth", 1]
    told, _ = _run(words, capsys)
    first = _only_block(told)
    layer = next(i for i in first if i in convolutions(session.open_session(stack).net))
    told, _ = _run([*words, "--exclude", layer], capsys)
    assert layer not in _only_block(told)


def _only_block(told: dict[str, object]) -> list[int]:
    blocks = told["blocks"]
    assert isinstance(blocks, list)
    (block,) = blocks
    layers: list[int] = block["layers"]
    return layers


REFUSED = {
    "blocks is 9; the network has 1 to 3 to remove": ["--depth", "9"],
    "'module_list.*.none' names no layer": ["--depth", "1", "--exclude", "module_list.*.none"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_wish_that_cannot_be_met_is_one_line(message: str, stack: Path, capsys: Capture) -> None:
    words = ["global", "--weights", str(stack), "--macs", "0.5", "--dry-run", *REFUSED[message]]
    assert main(words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""
