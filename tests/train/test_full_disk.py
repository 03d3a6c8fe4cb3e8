"""Runs that cannot be saved: the last good checkpoint stays, and the cause is reported."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from prune import checkpoint
from prune.cli import main
from prune.models.loss import detection_loss
from prune.train import checkpointing, fit, loop
from prune.train.run import Run
from prune.train.run_log import Log

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run `prune train` for three epochs of three updates, in this process, without curves."""
    monkeypatch.setattr(fit, "draw_results", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    tiny.data(tmp_path)
    tiny.weights(tmp_path)
    recipe = ("--data", "data.yaml", "--weights", "dense.pt", "--epochs", "3", "--batch", "2")
    fixed = ("--nominal-batch", "2", "--workers", "0", "--device", "cpu", "--project", "runs")

    def run(*words: str) -> int:
        return main(["train", *recipe, *fixed, *words])

    return run


@pytest.fixture
def broken(train: Train, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was broken off when its first epoch was saved, and a whole one beside it."""
    assert train("--name", "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", _interrupt)
        assert train("--name", "broken") == 130
    return Path("runs") / "broken"


def _interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def no_longer_than(size: int) -> Iterator[None]:
    """Let the system fail every write past so many bytes of a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores the signal of it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_that_cannot_be_written_is_found_before_any_step(
    train: Train, broken: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "descend", None)  # no step is taken
    capsys.readouterr()
    with no_longer_than(0):
        statuses = train("--name", "new"), main(["train", "--resume", str(broken)])
    assert statuses == (2, 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("prune: ")] == [
        "prune: cannot write into the folder runs/new: File too large",
        f"prune: cannot write into the folder {broken}: File too large",
    ]
    assert not Path("runs/new").exists()


def _no_space(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def no_space_left() -> Iterator[None]:
    """Let the system find at the last moment that it has no room, as network disks do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _no_space)
        yield


@pytest.mark.parametrize(
    ("full", "cause"),
    [
        (lambda: no_longer_than(100_000), "best.pt: File too large"),
        (lambda: no_longer_than(200_000), "last.pt: File too large"),  # the state makes it longer
        (no_space_left, "No space left on device"),
    ],
    ids=["no room for the best", "none for the last", "none when all seems written"],
)
def test_what_was_saved_stays_and_goes_on_when_there_is_room(
    broken: Path, capsys: pytest.CaptureFixture[str], full: Callable[[], Any], cause: str
) -> None:
    last = broken / "weights" / "last.pt"
    before = {path.name: checkpoint.digest(path) for path in broken.glob("weights/*")}
    with full():
        assert main(["train", "--resume", str(last)]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("prune: cannot save epoch ")
    assert cause in line
    assert line.endswith(f"{last} of epoch 1 stays; to resume: prune train --resume {last}")
    left = {path.name: checkpoint.digest(path) for path in broken.glob("weights/*")}
    assert left["last.pt"] == before["last.pt"]
    assert left.keys() == before.keys()  # no half file, visible or not
    assert all(checkpoint.load(path) for path in broken.glob("weights/*"))
    assert main(["train", "--resume", str(last)]) == 0
    for name in ("last.pt", "best.pt"):
        whole, mended = (
            checkpoint.load(Path("runs") / run / "weights" / name).model
            for run in ("whole", "broken")
        )
        assert all(mended[key].equal(value) for key, value in whole.items())


def test_a_disk_that_is_full_from_the_start_is_one_line(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    with no_longer_than(8):
        assert train() == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("hyp.yaml: File too large")
    with no_longer_than(10_000):  # the first image of a batch may fit, no weights do
        assert train() == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith("; nothing was saved before")


@pytest.mark.parametrize("gone", [".", "weights"])
def test_a_folder_that_vanishes_is_not_made_anew(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    step, seen = Log.step, []

    def vanish(log: Log, *args: Any) -> None:
        step(log, *args)
        seen.append(args)
        if len(seen) == 4:  # within the second epoch
            shutil.rmtree(log.folder / gone)

    monkeypatch.setattr(Log, "step", vanish)
    assert train() == 1
    line = capsys.readouterr().err.splitlines()[-1]
    weights = Path("runs") / "exp" / "weights"
    assert line == f"prune: cannot save epoch 2: the folder {weights} is missing"
    assert not weights.exists()


def test_a_resumed_run_clears_what_a_killed_one_left_half_written(broken: Path) -> None:
    litter = [broken / "weights" / ".last-part-abcdefgh.pt", broken / ".results-part-12345678.csv"]
    for path in litter:
        path.write_text("half")
    (broken / "weights" / ".mine.pt").write_text("of the user")
    assert main(["train", "--resume", str(broken / "weights" / "last.pt")]) == 0
    assert [path.name for path in broken.rglob(".*")] == [".mine.pt"]


def test_a_run_killed_before_its_last_row_was_written_gets_it(
    train: Train, broken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_the_end(log: Log, rows: list[dict[str, float]], *_: object, **__: object) -> None:
        if len(rows) == 3:
            raise KeyboardInterrupt
        log.table(rows)

    last = broken / "weights" / "last.pt"
    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", at_the_end)
        assert main(["train", "--resume", str(last)]) == 130
    assert main(["train", "--resume", str(last)]) == 0
    lines = (broken / "results.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3"]
    assert main(["train", "--resume", str(last)]) == 2  # now it is finished


def test_a_loss_that_is_read_late_is_read_before_anything_is_saved(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = Log.step
    seen: list[object] = []

    def bad(*args: Any, **more: Any) -> tuple[Tensor, Tensor]:
        total, items = detection_loss(*args, **more)
        return total, items if seen else items * torch.nan  # the weights stay sound

    def ask(log: Log, *args: Any) -> None:
        step(log, *args)
        seen.append(args)
        os.kill(os.getpid(), 15)

    monkeypatch.setattr(loop, "_READ_EVERY", {"cpu": 20})  # as on a GPU
    monkeypatch.setattr(loop, "detection_loss", bad)
    monkeypatch.setattr(Log, "step", ask)
    assert train() == 1
    assert len(seen) == 1  # the second batch is not reached: its save looks first
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("prune: the loss is nan on the batch ")
    assert line.count("images/train/") == 2
    assert not list((Path("runs") / "exp" / "weights").iterdir())


def test_weights_that_are_not_finite_are_not_kept_within_an_epoch_either(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    update = loop.update

    def spoil(run: Run, *args: Any, **more: Any) -> None:
        update(run, *args, **more)
        next(run.averaged.parameters()).data.fill_(torch.inf)
        os.kill(os.getpid(), 15)

    monkeypatch.setattr(loop, "update", spoil)
    assert train() == 1
    assert "weights are no longer finite in epoch 1" in capsys.readouterr().err
    assert not list((Path("runs") / "exp" / "weights").iterdir())


def test_the_state_is_taken_out_last_of_all(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fit, "draw_results", _interrupt)
        assert train() == 130
    last = Path("runs") / "exp" / "weights" / "last.pt"
    assert checkpoint.load(last).training
    assert main(["train", "--resume", str(last)]) == 0
    assert not checkpoint.load(last).training
    assert set(checkpointing.BEST) < {path.stem for path in last.parent.iterdir()}


@pytest.mark.parametrize(
    "words",
    [
        (
            *("conv", "--layer", "1", "--amount", "0.5", "--criterion", "taylor"),
            *("--data", "data.yaml", "--out", "cut.pt"),
        ),
        ("export", "--format", "yolor", "--out", "public.cfg"),
    ],
    ids=["scores that are not kept, and a cut", "the public code's weights"],
)
@pytest.mark.usefixtures("train")
def test_other_files_of_tensors_are_whole_or_not_there(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    before = sorted(Path().iterdir())
    with no_longer_than(1500):  # the cfg is shorter
        assert main([*words, "--weights", "dense.pt"]) == 1
    *notes, line = capsys.readouterr().err.splitlines()
    assert all("note: " in note for note in notes)
    assert line.startswith("prune: cannot write ")
    assert line.endswith(": File too large")
    assert sorted(Path().iterdir()) == before
