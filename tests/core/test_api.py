"""The Python API: every network is cut rightly or refused with the reason, and plans replay."""

from __future__ import annotations

import doctest
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nets
import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import plan_of, plans
from torch import Tensor, nn
from traps import TRAPS

import prune
from prune import api
from prune.core.cost.macs import count
from prune.core.plan import Plan
from prune.core.trace.groups import Group
from prune.errors import PlanError, VerificationError

ROOT = Path(__file__).resolve().parents[2]


@cache
def _traced(name: str) -> tuple[nn.Module, prune.Graph, tuple[Tensor, ...]]:
    """Build and trace once; tests that change the network ask the function behind the cache."""
    case, net = zoo.ZOO[name], zoo.net(name)
    inputs = case.given()
    return net, prune.trace(net, inputs, unused=case.unused), inputs


def _complete(graph: prune.Graph, plan: Plan) -> Plan:
    """Give a plan made by hand what `select` writes into it."""
    shapes = tuple((key, tuple(t.shape)) for key, t in graph.model.state_dict().items())
    return replace(plan, inputs=graph.inputs, keep=graph.keep, shapes=shapes)


def _all_but_one(groups: tuple[Group, ...]) -> Plan:
    return plan_of(
        groups, {i: range(1, g.channels) for i, g in enumerate(groups) if not g.protected}
    )


@pytest.mark.parametrize("name", zoo.ZOO)
def test_what_must_stay_is_kept_with_its_reason(name: str) -> None:
    _, graph, _ = _traced(name)
    assert graph.kept == graph.protected, "its name until 0.2"
    assert graph.protected.keys() == zoo.ZOO[name].kept.keys()
    for root, word in zoo.ZOO[name].kept.items():
        assert word in graph.protected[root]


@pytest.mark.parametrize("name", zoo.ZOO)
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_the_pruned_network_is_the_masked_one(name: str, data: st.DataObject) -> None:
    net, graph, inputs = _traced(name)
    plan = _complete(graph, data.draw(plans(graph.groups)))
    smaller = prune.cut(net, plan)
    assert prune.verify(net, smaller, plan, inputs, tolerance=1e-9) <= 1e-9


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_channel_but_one_of_every_group_may_go(name: str) -> None:
    net, graph, inputs = _traced(name)
    plan = _complete(graph, _all_but_one(graph.groups))
    assert prune.verify(net, prune.cut(net, plan), plan, inputs, tolerance=1e-9) <= 1e-9


@pytest.mark.parametrize("name", zoo.ZOO)
def test_plan_and_weights_are_all_that_must_be_kept(name: str) -> None:
    """A plan through JSON, on a network built afresh, with the weights loaded: bit for bit."""
    net, graph, inputs = _traced(name)
    plan = prune.select(graph, amount=0.5, criterion="l2")
    smaller = prune.cut(net, plan)
    text = prune.to_json(plan)
    assert prune.from_json(text) == plan
    again = prune.cut(zoo.net(name, seed=1), prune.from_json(text))
    again.load_state_dict(smaller.state_dict())
    with torch.no_grad():
        pairs = zip(_tensors(smaller(*inputs)), _tensors(again(*inputs)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def _tensors(output: Any) -> list[Tensor]:
    values = output.values() if isinstance(output, dict) else output
    return [output] if isinstance(output, Tensor) else [v for v in values if v is not None]


@pytest.mark.parametrize("allocation", ["uniform", "global", "isomorphic"])
@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("name", ["captcha_resnet18", "densenet", "crnn", "siamese"])
def test_budgets_are_met_from_below(name: str, kind: str, allocation: str) -> None:
    net, graph, inputs = _traced(name)
    plan = prune.select(graph, **{kind: 0.6}, allocation=allocation)  # type: ignore[arg-type]  # kind is one of its numbers
    smaller = prune.cut(net, plan)
    before, after = (getattr(count(n, graph.inputs), kind) for n in (net, smaller))
    assert 0.4 * before < after <= 0.6 * before
    prune.verify(net, smaller, plan, inputs, tolerance=1e-9)


@pytest.mark.parametrize("name", TRAPS)
def test_a_trap_is_named_or_cut_rightly(name: str) -> None:
    trap = TRAPS[name]
    net, inputs = nets.settled(trap.build), (torch.rand(trap.shape).double(),)
    try:
        graph = prune.trace(net, inputs)
    except PlanError as error:
        assert trap.word, error
        assert trap.word in str(error)
        return
    assert trap.word in graph.protected["a"] if trap.word else "a" not in graph.protected
    for amount in (0.5, 0.9):
        plan = prune.select(graph, amount=amount)
        smaller = prune.cut(net, plan)
        assert prune.verify(net, smaller, plan, inputs, tolerance=1e-9) <= 1e-9


def test_what_is_kept_keeps_its_channels_and_replays() -> None:
    net = zoo.net("captcha_resnet18")
    blocks = net.get_submodule("blocks")
    x = (torch.rand(1, 3, 24, 56).double(),)
    graph = prune.trace(net, x, keep=[blocks.get_submodule("3"), "stem"])
    assert graph.keep == ("blocks.3", "stem")
    assert "blocks.3, whose outputs must stay" in graph.protected["blocks.2.conv2"]
    plan = prune.select(graph, amount=0.5)
    smaller = prune.cut(net, prune.from_json(prune.to_json(plan)))
    assert smaller.get_submodule("stem.0").out_channels == 4
    assert smaller.get_submodule("blocks.1.conv2").out_channels == 4
    assert smaller.get_submodule("blocks.1.conv1").out_channels == 2


@pytest.mark.parametrize("wish", [{"amount": 0.5}, {"macs": 0.5}], ids=["share", "budget"])
def test_a_graph_of_what_was_cut_since_is_refused(wish: dict[str, float]) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1))
    graph = prune.trace(net, (torch.rand(1, 3, 8, 8),))
    prune.cut(net, prune.select(graph, amount=0.5), in_place=True)
    with pytest.raises(PlanError, match=r"trace it again: 0\.weight is of shape \[8, 3, 1, 1\]"):
        prune.select(graph, amount=wish.get("amount"), macs=wish.get("macs"))


def test_in_place_the_model_itself_is_cut_and_frozen_parts_stay_frozen() -> None:
    net, graph, _ = _traced.__wrapped__("vgg")
    net.get_submodule("features").requires_grad_(False)
    plan = prune.select(graph, amount=0.5)
    smaller = prune.cut(net, plan)
    frozen = {name for name, p in smaller.named_parameters() if not p.requires_grad}
    assert frozen == {f"features.{i}.{n}" for i in (0, 3, 6) for n in ("weight", "bias")}
    assert prune.cut(net, plan, in_place=True) is net
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, smaller.state_dict()[name])
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == frozen


def test_modes_stay_and_the_proof_is_in_eval_mode() -> None:
    net, graph, inputs = _traced.__wrapped__("vgg")
    net.train()
    net.get_submodule("features").eval()
    plan = prune.select(graph, amount=0.5)
    smaller = prune.cut(net, plan)
    prune.verify(net, smaller, plan, inputs)
    for module in (net, smaller):
        assert module.training
        assert not module.get_submodule("features").training
        assert module.get_submodule("classifier.2").training


def test_a_wrong_result_is_found_with_its_layer() -> None:
    net, graph, inputs = _traced("captcha_resnet18")
    plan = prune.select(graph, amount=0.5)
    smaller = prune.cut(net, plan)
    with torch.no_grad():
        smaller.get_parameter("blocks.3.conv1.weight").add_(0.1)
    with pytest.raises(prune.PruneError, match=r"blocks\.3\.conv1") as raised:
        prune.verify(net, smaller, plan, inputs)
    assert isinstance(raised.value, VerificationError)


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "activation"])
def test_criteria_that_need_images_take_batches(criterion: str) -> None:
    _, graph, _ = _traced("senet")
    batches = [(torch.rand(2, 3, 8, 8).double(), torch.tensor([0, 3])) for _ in range(2)]
    with pytest.raises(PlanError, match="needs images; give it data"):
        prune.select(graph, amount=0.5, criterion=criterion)
    if criterion != "activation":
        with pytest.raises(PlanError, match=f"{criterion} needs a loss beside data"):
            prune.select(graph, amount=0.5, criterion=criterion, data=batches)
    loss: Any = nn.functional.cross_entropy
    plan = prune.select(graph, amount=0.5, criterion=criterion, data=batches, loss=loss)
    assert plan.criterion == criterion
    assert [len(cut.remove) for cut in plan.cuts] == [3, 1]


def test_limits_hold() -> None:
    net, graph, _ = _traced("vgg")
    features = net.get_submodule("features")
    plan = prune.select(
        graph,
        amount=0.9,
        max_ratio=0.5,
        round_to=2,
        exclude=[features.get_submodule("0")],
        layers={"classifier.*": {"min_channels": 10}},
    )
    left = {cut.layer: cut.channels - len(cut.remove) for cut in plan.cuts}
    assert left == {"features.3": 4, "features.6": 6, "classifier.0": 10}


class _Frozen(nn.Module):
    """Nothing in it makes channels that somebody else reads."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.only(x)
        return out


class _Unreached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.never = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.b(self.a(x))


class _Opaque(_Unreached):
    def forward(self, x: Tensor) -> Any:
        return {"out": {super().forward(x)}}


X = (torch.rand(1, 3, 8, 8),)
REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "nothing to cut": (
        lambda: prune.trace(_Frozen(), X),
        "nothing in the network can be cut: only: it reaches the network's output",
    ),
    "no layer": (
        lambda: prune.trace(nn.Sequential(nn.ReLU()), X),
        "no convolution or linear layer ran in it",
    ),
    "never ran": (
        lambda: prune.trace(_Unreached(), X),
        r"never never ran on these inputs.*unused=\['never'\]",
    ),
    "hidden output": (
        lambda: prune.trace(_Opaque(), X),
        "the network returns a set; only tensors in lists, tuples, dicts and dataclasses",
    ),
    "wrong input": (
        lambda: prune.trace(_Frozen(), (torch.rand(1, 4, 8, 8),)),
        r"the network cannot be run with \[1, 4, 8, 8\]",
    ),
    "too few inputs": (
        lambda: prune.trace(zoo.net("siamese"), X),
        r"cannot be run with \[1, 3, 8, 8\]: .*missing 3 required",
    ),
    "no tuple": (lambda: prune.trace(_Frozen(), X[0]), r"must be a tuple of example tensors"),  # type: ignore[arg-type]  # that is the point
    "not its module": (
        lambda: prune.trace(_Frozen(), X, keep=[nn.ReLU()]),
        "ReLU is no module of the _Frozen",
    ),
    "no such name": (
        lambda: prune.trace(_Frozen(), X, keep=["z"]),
        "z is no module of the _Frozen",
    ),
    "kept, never ran": (
        lambda: prune.trace(_Unreached(), X, keep=["never"], unused=["never"]),
        "never cannot be kept: the trace never reached it",
    ),
    "lazy": (
        lambda: prune.trace(nn.Sequential(nn.LazyConv2d(3, 1)), X),
        "the network cannot be copied",
    ),
    "no wish": (lambda: prune.select(_graph()), "exactly one of amount, macs and params"),
    "two wishes": (lambda: prune.select(_graph(), amount=0.1, macs=0.5), "exactly one"),
    "amount": (lambda: prune.select(_graph(), amount=1.5), r"amount is 1.5; it must lie in"),
    "macs": (lambda: prune.select(_graph(), macs=-1), "macs is -1; it must be a fraction"),
    "criterion": (lambda: prune.select(_graph(), amount=0.5, criterion="x"), "criterion is 'x'"),
    "removes nothing": (
        lambda: prune.select(_graph(), amount=0.1),
        "nothing to remove: a: amount 0.1 of its 4 channels is less than one; b: it reaches",
    ),
    "all excluded": (
        lambda: prune.select(_graph(), amount=0.5, exclude=["a"]),
        "nothing to remove: a: it is excluded; b: it reaches",
    ),
    "cannot score": (
        lambda: prune.select(_graph(), amount=0.5, criterion="bn"),
        "nothing to remove: a: bn cannot compare its channels",
    ),
    "budget met": (lambda: prune.select(_graph(), macs=10**9), "within the budget"),
    "budget too small": (lambda: prune.select(_graph(), macs=0.01), "cannot be met"),
    "plan of a checkpoint": (
        lambda: prune.cut(_Unreached(), Plan("ab", "l1", ())),
        "made for a checkpoint",
    ),
}


def _graph() -> prune.Graph:
    return prune.trace(_Unreached(), X, unused=["never"])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_in_one_line(name: str) -> None:
    doing, message = REFUSED[name]
    with pytest.raises(prune.PruneError, match=message) as raised:
        doing()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: setattr(net, "conv2", nn.Conv2d(6, 16, 3)),
            r"conv2.weight is of shape \[16, 6, 5, 5\] there, of shape \[16, 6, 3, 3\] here",
        ),
        (lambda net: delattr(net, "fc2"), r"fc2.weight is of shape \[12, 24\] there, missing here"),
        (
            lambda net: setattr(net, "more", nn.Linear(2, 2)),
            r"more.weight is missing there, of shape \[2, 2\] here",
        ),
    ],
    ids=["another layer", "a layer less", "a layer more"],
)
def test_a_plan_for_another_network_is_refused(
    change: Callable[[nn.Module], None], message: str
) -> None:
    _, graph, inputs = _traced("lenet5")
    plan = prune.select(graph, amount=0.5)
    other = zoo.net("lenet5")
    change(other)
    for doing in (lambda: prune.cut(other, plan), lambda: prune.verify(other, other, plan, inputs)):
        with pytest.raises(PlanError, match=f"made for another network: {message}"):
            doing()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"shapes": []}, r"the plan: shapes is \[\]; it must be a mapping"),
        ({"shapes": {"w": [1.5]}}, r"the plan: shapes.w\[0\] is 1.5; it must be a whole number"),
        ({"inputs": [3]}, r"the plan: inputs\[0\] is 3; it must be a mapping"),
        ({"inputs": [{"shape": [1], "dtype": "float31"}]}, "'float31' is no kind of number"),
        ({"keep": "fc"}, "the plan: keep is 'fc'; it must be a list"),
    ],
    ids=["shapes", "shape", "inputs", "dtype", "keep"],
)
def test_a_plan_with_broken_fields_is_refused(part: dict[str, object], message: str) -> None:
    _, graph, _ = _traced("lenet5")
    text = prune.to_json(prune.select(graph, amount=0.5))
    with pytest.raises(PlanError, match=message):
        prune.from_json(json.dumps(json.loads(text) | part))


def test_a_pruned_network_is_not_pruned_by_the_same_plan_again() -> None:
    net, graph, _ = _traced("lenet5")
    plan = prune.select(graph, amount=0.5)
    with pytest.raises(PlanError, match=r"conv1.weight is of shape \[6, 1, 5, 5\] there"):
        prune.cut(prune.cut(net, plan), plan)


def test_a_plan_edited_past_what_the_network_can_do_is_refused() -> None:
    net, graph, _ = _traced("lenet5_fixed")
    free = tuple(replace(group, protected=None) for group in graph.groups)
    number = next(i for i, group in enumerate(free) if group.root == "conv2")
    with pytest.raises(PlanError, match=r"cannot be run with .* is invalid for input of size"):
        prune.cut(net, _complete(graph, plan_of(free, {number: [0]})))


def test_importing_the_package_does_not_import_torch() -> None:
    code = (
        "import sys, prune\n"
        "assert 'torch' not in sys.modules, 'too early'\n"
        "assert {'trace', 'select', 'cut', 'verify'} <= set(dir(prune))\n"
        "prune.trace; assert 'torch' in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = prune.prunes  # type: ignore[attr-defined]  # that is the point


def test_examples_in_docstrings_are_true() -> None:
    assert doctest.testmod(api).failed == 0


def test_the_readmes_python_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    (snippet,) = (block for block in blocks if "import torch\n" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "smaller.pt"]
    assert "True" in capsys.readouterr().out


def test_prove_is_the_old_name_of_verify() -> None:
    net, _, inputs = _traced("lenet5_fixed")
    plan = prune.select(prune.trace(net, inputs), amount=0.5)
    with pytest.warns(DeprecationWarning, match=r"prune\.verify"):
        assert prune.prove(net, prune.cut(net, plan), plan, inputs) <= 1e-4


def test_recovery_brings_the_outputs_nearer_to_the_original() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)
    ).eval()
    images = [torch.rand(8, 3, 12, 12) for _ in range(2)]
    plan = prune.select(prune.trace(model, (images[0],)), amount=0.5)
    smaller = prune.cut(model, plan)

    def distance() -> float:
        with torch.no_grad():
            return float((model(images[0]) - smaller(images[0])).square().mean())

    before = distance()
    prune.recover(model, smaller, plan, images)
    assert distance() < 0.7 * before
    assert not smaller.training
    with pytest.raises(prune.PlanError, match="step is 'train'; it must be one of compensate"):
        prune.recover(model, smaller, plan, images, steps=["train"])
    with pytest.raises(prune.InputError, match="there are no images to recover with"):
        prune.recover(model, smaller, plan, [])


def test_costs_are_counted_for_example_inputs() -> None:
    cost = prune.count(nn.Conv2d(3, 8, 3), (torch.rand(2, 3, 10, 10),))
    assert cost == prune.Cost(params=8 * 28, macs=2 * 8 * 27 * 64)


def test_every_error_is_a_public_name() -> None:
    from prune import errors

    named = [name for name, each in vars(errors).items() if isinstance(each, type)]
    assert all(getattr(prune, name) is getattr(errors, name) for name in named)
    assert set(named) <= set(dir(prune))
