"""Blocks leave a network: what is computed without them, what they are worth, which ones go."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import stacks
import tiny
import torch
from torch import nn

from prune import checkpoint
from prune.cli import main
from prune.common.choices import BLOCK_CRITERIA
from prune.core import verify
from prune.core.cost.macs import count
from prune.core.masking import Skip
from prune.core.plan import Plan, from_json
from prune.core.select import selection
from prune.errors import PlanError, VerificationError
from prune.models.blocks import Residual, residuals
from prune.models.darknet import Darknet
from prune.models.sections import Section, head_path, heads, parse, with_classes, with_options
from prune.pruner import block_importance, depth, session
from prune.pruner.depth import Block

CFGS = sorted((Path(__file__).parents[2] / "cfg").glob("*.cfg"))
Capture = pytest.CaptureFixture[str]
EMPTY = Plan("", "given", ())


@cache
def _narrow(path: Path) -> Darknet:
    """Build a shipped network with a class and a sixteenth of its widths: the same layers."""
    sections = list(with_classes(parse(path.read_text()), 1))
    fixed = {layer for head in heads(sections) for layer in head_path(sections, head)}
    for layer, section in enumerate(sections[1:]):
        if "filters" in section.options and layer not in fixed:
            filters = max(int(section.options["filters"]) // 16, 2)
            sections[layer + 1] = with_options(section, filters=filters)
    torch.manual_seed(0)
    return Darknet(sections).eval()


def _prove(net: Darknet, places: Sequence[Residual]) -> float:
    left = depth.without(net, places)
    skip = depth.skip(net, places)
    return verify.verify(net, left, (), EMPTY, shape=(1, 3, net.stride, net.stride), skip=skip)


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_all_blocks_of_a_shipped_network_leave_at_once(path: Path) -> None:
    net = _narrow(path)
    found = residuals(net.sections)
    assert len(found) == path.read_text().count("[shortcut]")
    assert _prove(net, found) <= 1e-4


SMALL = {
    f"{name} {place.shortcut}": (CFGS[0].parent / f"{name}.cfg", place)
    for name in ("yolor_csp_n", "yolor_csp_s")
    for place in residuals(parse((CFGS[0].parent / f"{name}.cfg").read_text()))
}


@pytest.mark.parametrize(("path", "place"), SMALL.values(), ids=SMALL)
def test_every_block_leaves_alone(path: Path, place: Residual) -> None:
    assert _prove(_narrow(path), [place]) <= 1e-4


@pytest.mark.parametrize("pair", stacks.BLOCKS)
def test_a_block_leaves_that_is_short_or_holds_another(pair: tuple[int, int]) -> None:
    assert _prove(stacks.net(), [Residual(*pair)]) <= 1e-6
    assert _prove(stacks.net(), [Residual(*p) for p in stacks.BLOCKS]) <= 1e-6


def test_the_weights_are_taken_over_and_shared() -> None:
    net = stacks.net()
    left = depth.without(net, [Residual(0, 3)])
    before, after = net.state_dict(), left.state_dict()
    for name, tensor in after.items():
        _, layer, rest = name.split(".", 2)
        old = int(layer) + (3 if int(layer) > 0 else 0)
        assert tensor.data_ptr() == before[f"module_list.{old}.{rest}"].data_ptr()
    assert not left.training


def _mistakes() -> dict[str, tuple[Darknet, Skip]]:
    net, place = stacks.net(), Residual(0, 3)
    right, skip = depth.without(net, [place]), depth.skip(net, [place])
    changed = depth.without(stacks.net(), [place])
    with torch.no_grad():
        changed.get_parameter("module_list.3.Conv2d.weight").add_(0.1)
    return {
        r"module_list\.6\.Conv2d": (changed, skip),
        "first layer to differ": (right, replace(skip, passes={"module_list.3": 0})),
        "does not run|in one of the two": (depth.without(net, [Residual(3, 5)]), skip),
        "in one of the two networks only": (right, Skip(skip.passes, {})),
    }


@pytest.mark.parametrize("message", _mistakes())
def test_the_proof_finds(message: str) -> None:
    pruned, skip = _mistakes()[message]
    with pytest.raises(VerificationError, match=message):
        verify.verify(stacks.net(), pruned, (), EMPTY, shape=(1, 3, 32, 32), skip=skip)


def test_costs_are_what_the_network_loses() -> None:
    net = stacks.net()
    before = count(net, (1, 3, 32, 32))
    found = depth.blocks(net, imgsz=32)
    assert [(b.place.source, b.place.shortcut) for b in found] == [(0, 3), (3, 5), (6, 8)]
    for block in found:
        after = count(depth.without(net, [block.place]), (1, 3, 32, 32))
        assert block.params == before.params - after.params > 0
        assert block.macs == before.macs - after.macs > 0


def test_the_output_changes_as_it_does_in_the_network_without_the_block() -> None:
    net = stacks.net()
    places = residuals(net.sections)
    images = torch.rand(5, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    found = block_importance.importance(net, places, images=images)
    with torch.no_grad():
        whole = net(images)[0]
        others = [depth.without(net, [place])(images)[0] for place in places]
    expected = [float((other - whole).norm() / whole.norm()) for other in others]
    assert found == pytest.approx(expected, rel=1e-4)
    assert min(found) > 1e-3


@pytest.mark.parametrize("criterion", block_importance.CRITERIA)
def test_blocks_taken_for_removed_are_as_good_as_gone(criterion: str) -> None:
    net = stacks.net()
    first, *rest = depth.blocks(net, imgsz=32)
    shorter = depth.without(net, [first.place])
    left = depth.blocks(shorter, imgsz=32)
    assert depth.importance_of(net, rest, criterion=criterion, gone=[first]) == pytest.approx(
        depth.importance_of(shorter, left, criterion=criterion), rel=1e-4
    )


def test_weights_and_scales_by_hand() -> None:
    net, places = stacks.net(), [Residual(0, 3), Residual(3, 5)]
    with torch.no_grad():
        for layer, value in ((1, 1.0), (2, -3.0), (4, 0.5)):
            nn.init.constant_(net.get_parameter(f"module_list.{layer}.Conv2d.weight"), value)
            nn.init.constant_(net.get_parameter(f"module_list.{layer}.BatchNorm2d.weight"), -value)
    many, few = 4 * 8 * 9, 8 * 4  # weights of layers 2 and 1
    assert block_importance.importance(net, places, criterion="l1") == pytest.approx(
        ((3 * many + few) / (many + few), 0.5)
    )
    assert block_importance.importance(net, places, criterion="bn") == (3.0, 0.5)


def test_a_criterion_that_cannot_judge_says_so() -> None:
    net = Darknet(parse(stacks.CFG.replace("batch_normalize=1\n", "")))
    with pytest.raises(PlanError, match="criterion bn gives the block 1-3 no importance"):
        block_importance.importance(net, residuals(net.sections), criterion="bn")
    with pytest.raises(PlanError, match="criterion is 'l3'; for blocks there are output"):
        block_importance.importance(net, (), criterion="l3")


def _found(*macs: int) -> list[Block]:
    return [Block(Residual(3 * i, 3 * i + 3), 1, cost) for i, cost in enumerate(macs)]


def _as_given(scores: Sequence[float]) -> depth.BlockImportance:
    return lambda blocks, _: [scores[block.place.source // 3] for block in blocks]


def test_the_least_worthy_go() -> None:
    found = _found(10, 10, 10, 10)
    chosen = depth.choose(found, depth.by_number(found, 2), _as_given([4, 1, 3, 2]))
    assert [(c.block.place.source, c.importance) for c in chosen] == [(3, 1), (9, 2)]


def test_a_budget_is_met_from_below_and_nothing_goes_in_vain() -> None:
    found = _found(5, 10, 30, 20)
    enough = depth.by_macs(found, 100, 72)
    chosen = depth.choose(found, enough, _as_given([1, 2, 3, 4]))
    assert sum(c.block.macs for c in chosen) == 30, "5 and 10 were chosen first, 30 does alone"
    assert enough([c.block for c in chosen])


def test_what_is_left_is_scored_again() -> None:
    found, seen = _found(1, 1, 1), []

    def score(blocks: Sequence[Block], gone: Sequence[Block]) -> list[float]:
        seen.append((len(blocks), len(gone)))
        return [float(block.place.source + 4 * len(gone) * (block is found[1])) for block in blocks]

    chosen = depth.choose(found, depth.by_number(found, 2), score, again=True)
    assert [(c.block, c.importance) for c in chosen] == [(found[0], 0), (found[2], 6)]
    assert seen == [(3, 0), (2, 1)]


WRONG_WISHES = {
    "blocks is 0; the network has 1 to 2 to remove": (0, None),
    "blocks is 3; the network has 1 to 2": (3, None),
    "within the budget of 100 as it is": (None, 100),
    "without all 2 blocks 80 are left": (None, 79),
}


@pytest.mark.parametrize("message", WRONG_WISHES)
def test_a_wish_that_cannot_be_met(message: str) -> None:
    number, limit = WRONG_WISHES[message]
    found = _found(10, 10)
    with pytest.raises(PlanError, match=message):
        depth.by_macs(found, 100, limit) if limit else depth.by_number(found, number or 0)


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    return stacks.weights(tmp_path)


def _both(path: Path) -> Plan:
    """Plan to halve every group and to remove two blocks."""
    subject = session.open_session(path)
    names = list(session.convolutions(subject.net).values())
    scores = [torch.arange(group.channels).float() for group in subject.groups]
    plan = selection.by_amount(subject.groups, scores, names, amount=0.5)
    return replace(plan, blocks=(1, 2, 3, 4, 5))


def test_width_and_depth_are_cut_and_proved_together(stack: Path, tmp_path: Path) -> None:
    subject, plan = session.open_session(stack), _both(stack)
    assert plan.cuts
    pruned = session.cut_session(subject, plan, made_by="test")
    result = session.as_checkpoint(subject, pruned, seed=0)
    assert session.verify(subject, pruned, result) < 1e-5
    # One after the other gives the same network.
    for part in (replace(plan, blocks=()), replace(plan, cuts=(), network="")):
        subject = session.open_session(stack)
        last = session.as_checkpoint(
            subject, session.cut_session(subject, part, made_by="test"), seed=0
        )
        stack = tmp_path / "next.pt"
        checkpoint.save(last, stack)
    assert last.cfg == result.cfg
    assert last.model.keys() == result.model.keys()
    assert all(torch.equal(last.model[name], result.model[name]) for name in last.model)
    assert result.history[-1]["plan"]["blocks"] == [1, 2, 3, 4, 5]  # type: ignore[index]  # a dict


def test_a_plan_with_half_a_block_is_refused(stack: Path) -> None:
    subject = session.open_session(stack)
    with pytest.raises(PlanError, match="plan's blocks do not fit the network: layer 2 is not"):
        session.cut_session(subject, replace(EMPTY, blocks=(2, 3)), made_by="test")


def _json(words: Sequence[object], capsys: Capture) -> dict[str, object]:
    assert main([str(word) for word in words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def test_depth_reports_what_the_files_hold(stack: Path, tmp_path: Path, capsys: Capture) -> None:
    out, plan = tmp_path / "out.pt", tmp_path / "plan.json"
    words = ["depth", "--weights", stack, "--blocks", 2, "--criterion", "bn", "--json"]
    told = _json([*words, "--out", out, "--plan-out", plan], capsys)
    before, after = (checkpoint.network(checkpoint.load(path)) for path in (stack, out))
    params = [sum(p.numel() for p in net.parameters()) for net in (before, after)]
    assert told["params"] == {"before": params[0], "after": params[1]}
    assert told["groups"] == []
    blocks = told["blocks"]
    assert isinstance(blocks, list)
    assert sum(block["params"] for block in blocks) == params[0] - params[1]
    assert all(block["score"] > 0 for block in blocks)
    layers = [layer for block in blocks for layer in block["layers"]]
    assert len(after.module_list) == len(before.module_list) - len(layers)
    written = from_json(plan.read_text())
    assert list(written.blocks) == layers
    subject = session.open_session(stack)
    again = session.cut_session(subject, written, made_by="again")
    assert all(
        torch.equal(tensor, checkpoint.load(out).model[name])
        for name, tensor in again.net.state_dict().items()
    )
    assert checkpoint.load(out).history[-1]["command"] == "depth"


def test_depth_meets_a_budget_and_prints_it(stack: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out.pt"
    assert main(["depth", "--weights", str(stack), "--macs", "0.8", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "block  importance" in printed
    assert "members" not in printed
    macs = [
        count(checkpoint.network(checkpoint.load(path)), (1, 3, 32, 32)).macs
        for path in (stack, out)
    ]
    assert macs[1] <= 0.8 * macs[0]


def test_images_are_looked_at_where_there_are_any(tmp_path: Path, capsys: Capture) -> None:
    data = tiny.data(tmp_path)
    path = tiny.weights(tmp_path)
    words = ["depth", "--weights", path, "--blocks", 1, "--dry-run", "--json"]
    ways: dict[str, list[object]] = {
        "weights": [],
        "the same, said": ["--criterion", "l1"],
        "noise": ["--criterion", "output"],
        "pictures": ["--data", data, "--images", 3],
    }
    scores = {}
    for way, more in ways.items():
        blocks = _json([*words, *more], capsys)["blocks"]
        assert isinstance(blocks, list)
        assert blocks[0]["layers"] == [3, 4]
        scores[way] = blocks[0]["score"]
    assert scores["weights"] == scores["the same, said"]
    assert len(set(scores.values())) == 3


REFUSED = {
    "blocks is 9; the network has 1 to 3 to remove": ["--blocks", "9"],
    "--macs is '1.0'": ["--macs", "1.0"],
    "--macs is '0'": ["--macs", "0"],
    "--macs is 'half'": ["--macs", "half"],
    "within the budget": ["--macs", "30G"],
    "without all 3 blocks": ["--macs", "0.01"],
    "images is 0": ["--blocks", "1", "--images", "0", "--data", "none.yaml"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_input_is_one_line(message: str, stack: Path, capsys: Capture) -> None:
    assert main(["depth", "--weights", str(stack), *REFUSED[message], "--dry-run"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_network_without_blocks_is_an_error(tmp_path: Path, capsys: Capture) -> None:
    sections: list[Section] = list(
        parse(stacks.CFG.replace("activation=linear", "activation=leaky"))
    )
    path = tmp_path / "plain.pt"
    checkpoint.save(checkpoint.capture(Darknet(sections), names=["cell"], imgsz=32), path)
    assert main(["depth", "--weights", str(path), "--blocks", "1"]) == 2
    assert "no residual block that could be removed" in capsys.readouterr().err


def test_the_command_line_offers_every_criterion() -> None:
    assert tuple(block_importance.CRITERIA) == BLOCK_CRITERIA
