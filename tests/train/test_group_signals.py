"""Signals that reach a run and its loader's workers at once, and a run killed from under them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from prune import checkpoint
from prune.cli import main

PICTURES = 24  # twelve batches to one update: the step at hand needs its workers to the epoch's end


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start a run of its own process group; it has trained for an epoch when this returns."""
    command = (sys.executable, "-m", "prune", "train", *words)
    run = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert run.stderr is not None
    lines = []
    for line in run.stderr:
        lines.append(line)
        if line.startswith("epoch 1/"):
            return run
    raise AssertionError("".join(lines))


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """Options of a run of some seconds; its files lie beside."""
    tiny.data(tmp_path, images=PICTURES)
    tiny.weights(tmp_path)
    given = ("--data", "data.yaml", "--weights", "dense.pt", "--batch", "2", "--epochs", "20")
    return (*given, "--noval", "--device", "cpu", "--project", "runs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_to_the_whole_group_ends_and_saves_the_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    number: signal.Signals,
) -> None:
    with started(tmp_path, *words, "--workers", "2") as run:
        os.killpg(run.pid, number)
        said = run.communicate(timeout=120)[1]  # to the end: no worker holds the pipe any more
    assert run.returncode == 130, said
    listening, stopped = said.splitlines()[-2:]
    assert listening.startswith(number.name)
    last = Path("runs") / "exp" / "weights" / "last.pt"
    assert stopped == f"prune: stopped and saved; to resume: prune train --resume {last}"
    for fault in ("Traceback", "Warning", "leaked", "Error"):
        assert fault not in said
    monkeypatch.chdir(tmp_path)
    if number is signal.SIGINT:  # once is enough; the other number of workers changes no bit
        assert main(["train", *words, "--workers", "0", "--name", "whole"]) == 0
        assert main(["train", "--resume", str(last), "--workers", "0"]) == 0
        whole = checkpoint.load(Path("runs") / "whole" / "weights" / "last.pt").model
        broken = checkpoint.load(last).model
        assert all(broken[key].equal(value) for key, value in whole.items())


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path, words: tuple[str, ...]) -> None:
    with started(tmp_path, *words, "--workers", "2") as run:
        run.kill()
        run.communicate(timeout=30)  # every process of the run holds the pipe: it ends with them
    assert run.returncode == -signal.SIGKILL
