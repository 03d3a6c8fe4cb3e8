"""Pruning while training: budgets step by step, every part of the run cut alike."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from prune import checkpoint
from prune.cli import main
from prune.common import hyperparameters
from prune.common.size import Size
from prune.core.cost.macs import count
from prune.core.cut import apply_plan
from prune.core.plan import Cut, Plan
from prune.core.trace.groups import trace
from prune.data.loader import Batch
from prune.errors import InputError
from prune.evaluate import metrics
from prune.models.darknet import Darknet, build
from prune.train import checkpointing, gradual, loop, stopping
from prune.train.gradual import GradualPruning
from prune.train.run import Run, rebuild, start
from prune.train.run_log import Log
from prune.train.settings import Settings

Train = Callable[..., int]
GOAL = ("--prune-to", "macs:0.6", "--prune-every", 1, "--prune-until", 2)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    data = tiny.data(tmp_path)

    def run(*words: object) -> int:
        common = ["--data", data, "--batch-size", 2, "--nominal-batch", 2, "--workers", 0]
        common += ["--project", tmp_path / "runs"]
        return main(["train", *map(str, (*common, *words))])

    return run


def _macs(path: Path) -> int:
    net = checkpoint.network(checkpoint.load(path))
    return count(net, (1, 3, tiny.SIZE, tiny.SIZE)).macs


def test_budgets_fall_evenly_to_the_goal() -> None:
    wish = GradualPruning("macs", start=1000, goal=400, every=2, until=7)
    limits = {epoch: wish.limit(epoch) for epoch in range(10)}
    assert {e: limit for e, limit in limits.items() if limit} == {2: 800, 4: 600, 6: 400}


@pytest.mark.parametrize("criterion", ["fisher", "l2"])
def test_a_run_ends_within_its_budget_and_says_how(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    criterion: str,
) -> None:
    monkeypatch.setattr(metrics, "LEARNED", 0.0)  # three epochs need not have taught it
    weights = tiny.weights(tmp_path)
    assert train("--weights", weights, "--epochs", 3, *GOAL, "--prune-criterion", criterion) == 0
    told = capsys.readouterr()
    assert told.err.count("verified") == 2
    assert "prune export" in told.out
    found = checkpoint.load(tmp_path / "runs" / "exp" / "weights" / "last.pt")
    assert 0.55 < _macs(tmp_path / "runs" / "exp" / "weights" / "last.pt") / _macs(weights) <= 0.6
    assert [entry["command"] for entry in found.history] == [gradual.MADE_BY] * 2 + ["train"]
    assert found.pruned


def test_only_scores_of_the_network_that_was_asked_for_count(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def falling(row: checkpointing.Row) -> float:
        return -row["epoch"]

    monkeypatch.setitem(checkpointing.BEST, "best", ("best_fitness", falling))
    monkeypatch.setattr(checkpointing, "fitness", falling)
    monkeypatch.setattr(stopping, "fitness", falling)
    monkeypatch.setattr(Settings, "plateau", 1)
    weights = tiny.weights(tmp_path)
    words = ("--schedule", "plateau", "--patience", 1, "--no-plots", "--json")
    assert train("--weights", weights, "--epochs", 5, *GOAL, *words) == 0
    told = json.loads(capsys.readouterr().out)
    # The network of the third epoch is the first of those asked for, and the fourth no better.
    assert (told["best_epoch"], told["epochs"]) == (3, 4)
    with (tmp_path / "runs" / "exp" / "results.csv").open() as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates[1:] == pytest.approx([0.01] * 3)
    assert _macs(tmp_path / "runs" / "exp" / "weights" / "best.pt") <= 0.6 * _macs(weights)


def test_a_run_from_nothing_can_be_pruned_as_it_goes(train: Train, tmp_path: Path) -> None:
    assert train("--cfg", tiny.cfg(tmp_path), "--img", tiny.SIZE, "--epochs", 3, *GOAL) == 0
    share = _macs(tmp_path / "runs" / "exp" / "weights" / "last.pt")
    assert share <= 0.6 * _macs(tiny.weights(tmp_path))


def test_what_the_last_cut_left_learns_its_statistics_before_they_stand() -> None:
    settings = Settings(epochs=6, imgsz=Size.of(tiny.SIZE), best_after=3)
    recipe = {**hyperparameters.SCRATCH, "close_norms": 0.7}
    run = start(
        build(tiny.CFG.format(width=12)),
        3,
        settings=settings,
        hyp=recipe,
        device=torch.device("cpu"),
    )
    assert [run.closes("close_norms", epoch) for epoch in range(6)] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("epoch", [1, 2], ids=["between cuts", "after the last"])
def test_a_resumed_run_ends_with_the_same_weights(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    begin = ("--weights", tiny.weights(tmp_path), "--epochs", 3, *GOAL)
    assert train(*begin, "--name", "whole") == 0
    tell = Log.epoch

    def stop(log: Log, rows: list[dict[str, float]], epochs: int) -> None:
        tell(log, rows, epochs)
        if len(rows) == epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", stop)
        assert train(*begin, "--name", "broken") == 130
    last = tmp_path / "runs" / "broken" / "weights" / "last.pt"
    assert main(["train", "--resume", str(last)]) == 0
    whole, broken = (
        checkpoint.load(tmp_path / "runs" / name / "weights" / "last.pt")
        for name in ("whole", "broken")
    )
    assert broken.cfg == whole.cfg
    assert broken.history == whole.history
    assert all(broken.model[key].equal(value) for key, value in whole.model.items())


@pytest.mark.parametrize(
    ("optimizer", "kept_per_weight"),
    [("sgd", {"momentum_buffer"}), ("adamw", {"exp_avg", "exp_avg_sq"})],
    ids=["sgd", "adamw"],
)
def test_weights_average_and_momentum_lose_the_same_channels(
    optimizer: str, kept_per_weight: set[str]
) -> None:
    torch.manual_seed(0)
    recipe = {
        **hyperparameters.SCRATCH,
        "optimizer": hyperparameters.CHOICES["optimizer"].index(optimizer),
    }
    net = build(tiny.CFG.format(width=12))
    # Few updates would have an average of no more than the last.
    settings = Settings(epochs=20, imgsz=Size.of(tiny.SIZE), batch_size=2, nominal_batch=2)
    run = start(net, 3, settings=settings, hyp=recipe, device=torch.device("cpu"))
    _step(run)
    _step(run)
    groups = trace(run.net, run.net.small_image, protected=run.net.head_convolutions())
    first = groups[0]
    plan = Plan("", "given", (Cut(first.root, first.channels, (1, 4), first.producers),))

    def cut(net: Darknet) -> Darknet:
        return apply_plan(net, groups, plan)

    after = rebuild(run, cut)
    kept = [i for i in range(first.channels) if i not in (1, 4)]
    name = f"{first.root}.weight"
    weight, averaged = run.net.get_parameter(name), run.averaged.get_parameter(name)
    assert not averaged.equal(weight)
    assert after.net.get_parameter(name).equal(weight[kept])
    assert after.averaged.get_parameter(name).equal(averaged[kept])
    before = run.optimizer.state[weight]
    left = after.optimizer.state[after.net.get_parameter(name)]
    assert kept_per_weight <= before.keys() == left.keys()
    for key in kept_per_weight:
        assert left[key].equal(before[key][kept])
    assert all(left[key].equal(before[key]) for key in before.keys() - kept_per_weight)
    assert after.ema.updates == run.ema.updates == 2
    _step(after)  # and it trains on


def _step(run: Run) -> None:
    run.net.train()
    images = torch.randint(0, 255, (2, 3, tiny.SIZE, tiny.SIZE), dtype=torch.uint8)
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.3, 0.3], [1, 1, 0.4, 0.6, 0.2, 0.2]])
    loop.descend(run, Batch(images, targets, paths=[], frames=[]), position=1, adapt=True)
    loop.update(run, run.schedule.at(1), done=0.5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prune-to", "flops:0.5"), "write macs:0.5"),
        (("--prune-to", "macs:half"), "--prune-to"),
        (("--prune-to", "macs:900G", "--prune-until", 2), "nothing to prune"),
        (("--prune-to", "macs:0.5", "--prune-until", 4), "the last cut needs epochs after it"),
        (("--prune-to", "macs:0.5", "--prune-every", 3, "--prune-until", 2), "makes no cut"),
        (
            ("--prune-to", "macs:0.5", "--prune-until", 2, "--prune-criterion", "luck"),
            "criterion is 'luck'",
        ),
    ],
)
def test_unusable_wishes_are_one_line_and_nothing_written(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    words: tuple[object, ...],
    message: str,
) -> None:
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 4, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_a_goal_out_of_reach_is_found_before_the_first_epoch(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ("--prune-to", "macs:0.0001", "--prune-until", 2)
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 4, *wish) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "and the smallest network has" in line
    assert not (tmp_path / "runs").exists()


def test_frozen_layers_keep_their_outputs(train: Train, tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    assert train("--weights", weights, "--epochs", 3, *GOAL, "--freeze", "0") == 0
    before, after = (
        checkpoint.load(path).model["module_list.0.Conv2d.weight"]
        for path in (weights, tmp_path / "runs" / "exp" / "weights" / "last.pt")
    )
    assert after.equal(before)


def test_impossible_goals_are_refused() -> None:
    with pytest.raises(InputError, match="nothing to prune"):
        GradualPruning("macs", start=10, goal=0)


def test_keep_knows_the_narrow_network(train: Train, tmp_path: Path) -> None:
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 3, *GOAL) == 0
    for name in checkpointing.BEST:
        found = checkpoint.load(tmp_path / "runs" / "exp" / "weights" / f"{name}.pt")
        assert checkpoint.network(found).cfg_text() == found.cfg
