"""Options for watching a run, and for what it is given: each from the command line, end to end."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rich.console
import rich.progress
import tiny
import torch
import yaml
from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

from prune import checkpoint
from prune.cli import console, main
from prune.common.size import Size
from prune.train import fit, loop, sampling
from prune.train.run_log import Log

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Run `prune train` on the tiny set, on the CPU, in this process; returns the exit status."""
    data, weights = tiny.data(tmp_path), tiny.weights(tmp_path)

    def run(*words: object) -> int:
        fixed = ("--weights", weights, "--data", data, "--project", tmp_path / "runs")
        rest = ("--epochs", 2, "--workers", 0, "--device", "cpu")
        return main(["train", *map(str, fixed), *map(str, rest), *map(str, words)])

    return run


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "draw_results", lambda *_: None)


def test_board_shows_rates_scores_scales_and_images(train: Train, tmp_path: Path) -> None:
    assert train() == 0
    board = event_accumulator.EventAccumulator(
        str(tmp_path / "runs" / "exp"), size_guidance={"images": 9}
    ).Reload()
    tags = board.Tags()
    wanted = {"lr/weights", "lr/scales", "lr/biases", "metrics/map", "metrics/precision"}
    assert wanted | {"metrics/recall", "train/loss", "val/loss"} <= set(tags["scalars"])
    assert tags["histograms"] == ["scales"]
    assert set(tags["images"]) == {"train_batch0", "val_batch0"}
    (drawn,) = board.Images("val_batch0")
    assert (drawn.width, drawn.height, drawn.step) == (3 * 64, 2 * 64, 2)
    assert (tmp_path / "runs" / "exp" / "val_batch0.jpg").stat().st_size > 0


def test_bar_shows_losses_rate_speed_memory_and_time_left(tmp_path: Path) -> None:
    shown = io.StringIO()
    console = rich.console.Console(file=shown, width=200, force_terminal=True)
    columns = (rich.progress.TextColumn("{task.fields[note]}"),)
    with rich.progress.Progress(*columns, console=console) as bar:
        log = Log(tmp_path, print, bar=bar)
        log.begin(0, 2, 3)
        log.step(torch.tensor((0.1, 0.2, 0.3, 0.6)), 4, 0.0125)
        bar.refresh()
    for part in ("box 0.100", "loss 0.600", "lr 0.01250", "images/s", "GiB", "left"):
        assert part in shown.getvalue()


def test_a_narrow_bar_keeps_epoch_steps_and_time_left(tmp_path: Path) -> None:
    bar = console.progress()  # draws nothing by itself: stderr is no terminal here
    log = Log(tmp_path, print, bar=bar)
    log.begin(11, 60, 300)
    for _ in range(3):
        log.step(torch.tensor((0.1, 0.2, 0.3, 0.6)), 4, 0.0125)
    shown = io.StringIO()
    rich.console.Console(file=shown, width=80).print(bar.get_renderable())
    (line,) = shown.getvalue().splitlines()
    assert len(line) <= 80
    for part in ("epoch 12/60", "3/300", "box 0.100"):
        assert part in line
    assert re.search(r"run \d+:\d\d:\d\d left", line)


@pytest.mark.usefixtures("without_curves")
def test_profile_tells_where_the_time_went(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--profile", "--batch-size", 3) == 0
    text = (tmp_path / "runs" / "exp" / "profile.txt").read_text()
    for phase in ("data", "forward", "loss", "backward", "step", "score", "save"):
        assert f"\n{phase} " in f"\n{text}"
    assert "loader alone" in text
    assert "convolutional" in text
    assert "loader alone" in capsys.readouterr().err
    assert train("--batch-size", 3, "--name", "plain") == 0
    assert not (tmp_path / "runs" / "plain" / "profile.txt").exists()
    profiled, plain = (
        checkpoint.load(tmp_path / "runs" / name / "weights" / "last.pt").model
        for name in ("exp", "plain")
    )
    assert all(value.equal(plain[name]) for name, value in profiled.items())


@pytest.mark.usefixtures("without_curves")
def test_profile_of_a_run_that_prunes_is_of_what_is_left(train: Train, tmp_path: Path) -> None:
    cuts = ("--prune-to", "params:0.7", "--prune-every", 1, "--prune-until", 1)
    assert train("--profile", "--batch-size", 3, *cuts, "--prune-criterion", "l1") == 0
    folder = tmp_path / "runs" / "exp"
    text = (folder / "profile.txt").read_text()
    left = checkpoint.network(checkpoint.load(folder / "weights" / "last.pt"))
    for index, layer in enumerate(left.layers):
        assert re.search(
            rf"^ *{index}  {layer.kind} +3 x {layer.out_channels} x", text, re.MULTILINE
        )
    assert re.search(r"^backward +[\d.]+ ", text, re.MULTILINE)


@pytest.mark.usefixtures("without_curves")
def test_auto_is_recorded_as_the_number_it_gave(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--batch-size", "auto") == 0
    assert "--batch-size auto: 4 images per batch" in capsys.readouterr().err  # of six
    recorded = yaml.safe_load((tmp_path / "runs" / "exp" / "opt.yaml").read_text())
    assert recorded["batch_size"] == 4


@pytest.mark.usefixtures("without_curves")
def test_a_batch_too_large_for_memory_is_one_line(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lack(*_: object, **__: object) -> None:
        torch.empty(2**60)

    monkeypatch.setattr(loop, "descend", lack)
    assert train() == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "prune: out of memory at batch 16, 64 px on cpu; lower --batch-size (try auto) "
        "or --img-size"
    )


@pytest.mark.usefixtures("without_curves")
def test_a_resumed_run_draws_the_sizes_of_an_unbroken_one(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--multi-scale", "--batch-size", 2, "--noval", "--epochs", 3)
    drawn: list[Size] = []
    resized = sampling.resize

    def note(images: torch.Tensor, size: Size) -> torch.Tensor:
        drawn.append(size)
        return resized(images, size)

    monkeypatch.setattr(sampling, "resize", note)
    assert train(*words, "--name", "whole") == 0
    whole, tell = drawn[:], Log.epoch
    drawn.clear()

    def stop(log: Log, *args: Any, **more: Any) -> None:
        tell(log, *args, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", stop)
        assert train(*words, "--name", "broken") == 130
    last = tmp_path / "runs" / "broken" / "weights" / "last.pt"
    assert main(["train", "--resume", str(last)]) == 0
    assert drawn == whole
    assert set(drawn) == {Size.of(side) for side in (48, 64, 80)}
    unbroken, broken = (
        checkpoint.load(tmp_path / "runs" / name / "weights" / "last.pt").model
        for name in ("whole", "broken")
    )
    assert all(broken[name].equal(value) for name, value in unbroken.items())


def test_a_service_that_is_not_installed_is_refused_before_anything_is_written(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train("--log", "wandb") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install wandb" in line
    assert not (tmp_path / "runs").exists()
