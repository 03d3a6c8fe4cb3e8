"""The recipes of `prune train`, one option after another, on the tiny set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from prune import checkpoint
from prune.cli import main
from prune.common import device
from prune.data.loader import TrainLoader
from prune.errors import DeviceError
from prune.train import fit, stopping
from prune.train.run_log import Log

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run `prune train` on the tiny set, on the CPU, without curves; returns the exit status."""
    monkeypatch.setattr(fit, "draw_results", lambda *_: None)
    data = tiny.data(tmp_path)

    def run(*words: object) -> int:
        fixed = ("--data", data, "--project", tmp_path / "runs", "--batch", 3, "--workers", 0)
        return main(["train", *map(str, (*words, *fixed)), "--device", "cpu"])

    return run


def stopping_after(epochs: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Break a run off after so many epochs, as ^C does."""
    tell = Log.epoch

    def stop(log: Log, rows: list[dict[str, float]], total: int) -> None:
        tell(log, rows, total)
        if len(rows) == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(Log, "epoch", stop)
    return monkeypatch


def broken_and_resumed(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: object, after: int = 1
) -> None:
    """Train once as a whole, and once broken off and resumed; every figure must be the same."""
    assert train(*words, "--name", "whole") == 0
    with monkeypatch.context() as patch:
        stopping_after(after, patch)
        assert train(*words, "--name", "broken") == 130
    assert main(["train", "--resume", str(tmp_path / "runs/broken/weights/last.pt")]) == 0
    whole, broken = (rows(tmp_path / "runs" / name) for name in ("whole", "broken"))
    assert [{**row, "seconds": ""} for row in broken] == [{**row, "seconds": ""} for row in whole]
    first, second = (
        checkpoint.load(tmp_path / "runs" / name / "weights" / "last.pt")
        for name in ("whole", "broken")
    )
    assert first.history == second.history
    assert same(first.model, second.model)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Tell whether two networks' weights agree to the bit."""
    return all(value.equal(other[name]) for name, value in one.items())


def rows(folder: Path) -> list[dict[str, str]]:
    """Read results.csv."""
    columns, *lines = (folder / "results.csv").read_text().splitlines()
    return [dict(zip(columns.split(","), line.split(","), strict=True)) for line in lines]


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("--schedule", "linear"), 0.01 * (1 - 0.95 * 9 / 10)),
        (("--linear-lr",), 0.01 * (1 - 0.95 * 9 / 10)),
        (("--schedule", "multistep"), 0.0001),
    ],
    ids=["linear", "as YOLO users type it", "multistep"],
)
def test_schedule_is_the_runs(
    train: Train, tmp_path: Path, words: tuple[str, ...], last: float
) -> None:
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 5, "--noval", *words) == 0
    assert float(rows(tmp_path / "runs" / "exp")[-1]["lr"]) == pytest.approx(last)


@pytest.mark.parametrize("schedule", ["one-cycle", "plateau"])
def test_resumed_run_follows_its_schedule(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    # No fitness is better than the first, so that a plateau is one from the start.
    monkeypatch.setattr(stopping, "fitness", lambda _: 0.5)
    words = ("--weights", tiny.weights(tmp_path), "--epochs", 8, "--schedule", schedule)
    broken_and_resumed(train, tmp_path, monkeypatch, *words, after=4)
    if schedule == "plateau":
        rates = [float(row["lr"]) for row in rows(tmp_path / "runs" / "whole")]
        assert rates == pytest.approx([0.005] + [0.01] * 5 + [0.003] * 2)


def test_frozen_layers_stay_to_the_bit(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start = tiny.weights(tmp_path)
    words = ("--weights", start, "--epochs", 2, "--freeze", "0-1", 3)
    broken_and_resumed(train, tmp_path, monkeypatch, *words)
    assert (
        "note: layers 0-1, 3 are not trained: 10696 of 26034 parameters" in capsys.readouterr().err
    )
    before = checkpoint.load(start).model
    after = checkpoint.load(tmp_path / "runs" / "whole" / "weights" / "last.pt").model
    kept = {name for name, value in after.items() if value.equal(before[name])}
    layers = {int(name.split(".")[1]) for name in kept}
    assert layers == {0, 1, 3}
    assert kept == {name for name in after if int(name.split(".")[1]) in layers}


@pytest.mark.parametrize(
    ("share", "stands", "mosaics"),
    [(1.0, True, [False] * 4), (0.5, False, [True, True, False, False]), (0.0, False, [True] * 4)],
)
def test_a_run_ends_as_the_network_will_be_used(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    stands: bool,
    mosaics: list[bool],
) -> None:
    asked: list[bool] = []
    choose = TrainLoader.set_epoch

    def noting(loader: TrainLoader, epoch: int, **more: Any) -> None:
        asked.append(more["mosaics"])
        choose(loader, epoch, **more)

    monkeypatch.setattr(TrainLoader, "set_epoch", noting)
    hyp, start = tmp_path / "hyp.yaml", tiny.weights(tmp_path)
    hyp.write_text(f"close_mosaic: {share}\nclose_norms: {share}\n")
    words = ("--weights", start, "--epochs", 4, "--hyp", hyp)
    broken_and_resumed(train, tmp_path, monkeypatch, *words, after=3)
    assert asked[:4] == mosaics
    before = checkpoint.load(start).model
    after = checkpoint.load(tmp_path / "runs" / "whole" / "weights" / "last.pt").model
    moved = {name.split(".")[-1] for name in after if not after[name].equal(before[name])}
    assert {"weight", "bias"} <= moved
    assert stands != ("running_var" in moved)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--freeze", "0-99"), "layers 0-99: there are layers 0 to 10; ranges go up"),
        (("--freeze", "5-2"), "layers 5-2: there are layers 0 to 10; ranges go up"),
        (("--freeze", "all"), "layer is 'all'; write a number or a range"),
        (("--lr-factor", "0-9"), "factor is '0-9'; write layers and a number, e.g. 0-60:0.1"),
        (("--lr-factor", "0-9:0"), "factor is '0-9:0'; write layers and a number"),
        (("--lr-factor", "0-99:0.1"), "layers 0-99: there are layers 0 to 10; ranges go up"),
        (("--lr-factor", "0-4:0.1,4:0.5"), "layer 4 has two factors, 0.1 and 0.5"),
        (("--patience", "2", "--noval"), "patience needs epochs that are evaluated"),
        (("--partial",), "--partial takes --weights into another network; give that as --cfg"),
        (("--freeze", "0-9"), "every layer is frozen; leave at least one to train"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_recipe_is_one_line_and_nothing_written(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    words: tuple[str, ...],
    message: str,
) -> None:
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 1, *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prune: ")
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_resumed_run_keeps_its_factors(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--weights", tiny.weights(tmp_path), "--epochs", 2, "--lr-factor", "0-2:0.1,3:0.5")
    broken_and_resumed(train, tmp_path, monkeypatch, *words)
    assert float(rows(tmp_path / "runs" / "whole")[0]["lr"]) > 0.001  # the rate of factor 1


def test_l1_and_clip_are_the_runs(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, sums = tiny.weights(tmp_path), {}
    for name, text in {"plain": "clip: 0", "clip": "clip: 1e-6", "l1": "l1: 0.5"}.items():
        (tmp_path / "hyp.yaml").write_text(f"{text}\nweight_decay: 0\n")
        words = ("--weights", start, "--epochs", 2, "--hyp", tmp_path / "hyp.yaml")
        assert train(*words, "--nominal-batch", 3, "--noval", "--name", name) == 0
        after = checkpoint.load(tmp_path / "runs" / name / "weights" / "last.pt").model
        sums[name] = float(after["module_list.3.Conv2d.weight"].abs().sum())
    before = float(checkpoint.load(start).model["module_list.3.Conv2d.weight"].abs().sum())
    assert sums["clip"] == pytest.approx(before, rel=1e-5) != pytest.approx(sums["plain"], rel=1e-5)
    assert sums["l1"] < 0.9 * sums["plain"]


@pytest.mark.parametrize("after", [2, 4], ids=["broken before it ends", "broken at its end"])
def test_run_that_gets_no_better_stops(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: int,
) -> None:
    fitness = {1.0: 0.4, 2.0: 0.5}
    monkeypatch.setattr(stopping, "fitness", lambda row: fitness.get(row["epoch"], 0.3))
    words = ("--weights", tiny.weights(tmp_path), "--epochs", 9, "--patience", 2)
    broken_and_resumed(train, tmp_path, monkeypatch, *words, after=after)
    said = "stopped early: the fitness 0.5000 of epoch 2 has stood for 2 evaluations (patience 2)"
    assert capsys.readouterr().err.count(said) == 2
    assert len(rows(tmp_path / "runs" / "whole")) == 4
    last = checkpoint.load(tmp_path / "runs" / "whole" / "weights" / "last.pt")
    assert last.training == {}
    assert (last.history[-1]["epoch"], last.history[-1]["epochs"]) == (4, 9)


def test_patience_counts_scores_not_epochs() -> None:
    figures = [0.1, None, 0.3, None, 0.3, None]
    rows = [
        {"epoch": float(i), **({} if figure is None else {"map50": figure, "map": figure})}
        for i, figure in enumerate(figures, start=1)
    ]
    assert stopping.out_of_patience(rows, 1).startswith(
        "stopped early: the fitness 0.3000 of epoch 3 "
    )
    assert (
        stopping.out_of_patience(rows, 2)
        == stopping.out_of_patience(rows, 0)
        == stopping.out_of_patience([], 1)
        == ""
    )


def test_deterministic_runs_agree_to_the_bit(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[bool, bool]] = []
    step = Log.step

    def look(log: Log, *args: Any) -> None:
        step(log, *args)
        timed = torch.backends.cudnn.benchmark
        seen.append((torch.are_deterministic_algorithms_enabled(), timed))

    monkeypatch.setattr(Log, "step", look)
    words = ("--cfg", tiny.cfg(tmp_path), "--img", 64, "--epochs", 1)
    for name, asked in {"one": ("--deterministic",), "two": ("--deterministic",), "no": ()}.items():
        assert train(*words, *asked, "--name", name) == 0
    assert list(dict.fromkeys(seen)) == [(True, False), (False, True)]
    one, two = (
        checkpoint.load(tmp_path / "runs" / name / "weights" / "last.pt").model
        for name in ("one", "two")
    )
    assert same(one, two)


def test_what_cannot_be_computed_the_same_twice_is_one_line() -> None:
    said = r"^deterministic is more .*: put_ does not have a determ"
    with pytest.raises(DeviceError, match=said), device.repeatable():
        torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="must match"), device.repeatable():
        torch.zeros(4) + torch.zeros(3)


def test_best_weights_are_scored_on_the_test_split(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "data.yaml").open("a") as data:
        data.write("test: images/val\n")  # so that both metrics must agree
    words = ("--weights", tiny.weights(tmp_path), "--epochs", 2)
    assert train(*words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["map"] > 0
    assert (told["test_map50"], told["test_map"]) == pytest.approx((told["map50"], told["map"]))
    assert train(*words) == 0
    best, _, test = capsys.readouterr().out.splitlines()[2:5]
    assert best.split()[1:] == test.removeprefix("best, test split").split()


@pytest.mark.parametrize(
    ("split", "note"),
    [
        ("", ""),
        ("test: images/nowhere", "images/nowhere does not exist; the split is left out"),
        ("test: images/test", "note: the test split has no label files; it is not evaluated"),
    ],
    ids=["none", "not there", "without labels"],
)
def test_run_without_test_labels_ends_as_ever(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, split: str, note: str
) -> None:
    (tmp_path / "images" / "test").mkdir()
    (tmp_path / "images/test/0.png").hardlink_to(tmp_path / "images/val/0.png")
    with (tmp_path / "data.yaml").open("a") as data:
        data.write(f"{split}\n")
    assert train("--weights", tiny.weights(tmp_path), "--epochs", 1, "--json") == 0
    captured = capsys.readouterr()
    assert note in captured.err
    assert not any(name.startswith("test") for name in json.loads(captured.out))
