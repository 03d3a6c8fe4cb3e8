"""Loader processes that are killed, or refused what they need: one line, and an end."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import tiny
import torch
from torch.utils.data import dataloader

from prune import checkpoint
from prune.common.hyperparameters import SCRATCH
from prune.data import failures, spec
from prune.data.loader import TrainLoader, train_loader
from prune.data.workers import Context
from prune.errors import DataError, LoaderError, PruneError, TrainError
from prune.train.checkpointing import explain_load_errors


@pytest.fixture
def loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainLoader:
    """A loader with one worker, which has given a first epoch; torch looks after it often."""
    look = dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(look, "__defaults__", (0.2,))
    data = spec.load(tiny.data(tmp_path), splits=("train",))
    made = train_loader(data, imgsz=64, batch_size=1, hyp=SCRATCH, workers=1)
    list(made)
    return made


def worker() -> BaseProcess:
    """Return the process that was started last."""
    return max(multiprocessing.active_children(), key=lambda process: process.pid or 0)


def failure(loader: TrainLoader) -> str:
    """Return what the loader raises, without the frames that it holds: the loader's among them."""
    try:
        list(loader)
    except LoaderError as error:
        return str(error)
    raise AssertionError


def no_files_over(size: int) -> None:
    """Have the system refuse the worker files of more bytes: shared memory is one."""
    pid = worker().pid
    assert pid is not None
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def send(number: signal.Signals) -> None:
    pid = worker().pid
    assert pid is not None
    os.kill(pid, number)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda: send(signal.SIGKILL), "a loader process was killed; is memory short?"),
        (lambda: send(signal.SIGBUS), "/dev/shm is too small for loader processes"),
        (lambda: send(signal.SIGSEGV), r"a loader process ended early \(SIGSEGV\)"),
        (lambda: no_files_over(1000), "loader processes cannot work: File too large"),
    ],
    ids=["killed", "bus error", "crashed", "no shared memory"],
)
def test_harm_to_a_worker_is_one_line_that_names_the_way_without(
    loader: TrainLoader,
    capfd: pytest.CaptureFixture[str],
    harm: Callable[[], None],
    says: str,
) -> None:
    harm()
    said = failure(loader)
    assert re.fullmatch(f"{says}.*--workers 0.*", said)  # a dot is no new line
    assert capfd.readouterr().err == ""
    assert len(list(loader)) == len(loader)  # with a new worker


def test_a_worker_outlives_the_signals_that_reach_the_whole_group(loader: TrainLoader) -> None:
    pid = worker().pid
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        send(number)
    assert len(list(loader)) == len(loader)
    assert worker().pid == pid


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            "unable to allocate shared memory(shm) for file </torch_1>: "
            "No space left on device (28)",
            "/dev/shm is too small",
        ),
        ("unable to open shared memory object </torch_1>: Too many open files (24)", "ulimit -n"),
    ],
    ids=["no room", "no handle"],
)
def test_what_the_system_refuses_a_worker_is_told(
    monkeypatch: pytest.MonkeyPatch, error: str, says: str
) -> None:
    def refuse(_: torch.Tensor) -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.Tensor, "share_memory_", refuse)
    with pytest.raises(LoaderError, match=says):
        failures.pass_on(torch.zeros(1))
    failures.pass_on(torch.zeros(0))  # for nothing nothing is needed


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "/dev/shm is too small"),
        (OSError(errno.EAGAIN, ""), "cannot work: Resource temporarily unavailable; --workers 0"),
        (EOFError(), "could not be started; --workers 0"),
    ],
    ids=["semaphores", "no process", "no server"],
)
def test_workers_that_cannot_start_are_one_line(error: Exception, says: str) -> None:
    with pytest.raises(LoaderError, match=says), failures.watched(Context([])):
        raise error


def test_a_fault_of_ours_in_a_worker_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="Caught"), failures.watched(Context([])):
        raise RuntimeError("Caught RuntimeError in DataLoader worker process 0.")


WORK = """
import time
from prune.data import workers

def work():
    workers.start()
    print("started", flush=True)
    time.sleep(60)
"""
# Without the usual guard: no worker may run it again.
LEFT = """
import sys
from prune.data import workers
from left_work import work

workers.Context([]).Process(target=work, daemon=True).start()
while not sys.stdin.readline():
    pass
raise SystemExit("an error")
"""


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ends"])
def test_a_worker_ends_with_its_main_process_however_that_ends(
    tmp_path: Path, killed: bool
) -> None:
    """After an error multiprocessing sends each of them one SIGTERM, and waits for ever."""
    script = tmp_path / "left.py"
    script.write_text(LEFT)
    script.with_name("left_work.py").write_text(WORK)
    found = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    with subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=found,  # a command that ran before in this process hides folders of scripts
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "started\n"
        if killed:
            run.kill()
        # The worker and its server hold the pipe's other end: it ends when they do.
        assert run.communicate("\n", timeout=30)[0] == ""
    assert run.returncode == (-signal.SIGKILL if killed else 1)


@pytest.mark.parametrize(
    ("error", "ends", "more"),
    [(LoaderError, LoaderError, " --workers 0"), (DataError, TrainError, "")],
    ids=["process", "image"],
)
def test_a_training_that_cannot_load_says_how_it_goes_on(
    tmp_path: Path, error: type[PruneError], ends: type[PruneError], more: str
) -> None:
    assert ends.exit_code == 1
    with (
        pytest.raises(ends, match=r"^why; nothing was saved before$"),
        explain_load_errors(tmp_path),
    ):
        raise error("why")
    last = tmp_path / "weights" / "last.pt"
    last.parent.mkdir()
    saved = checkpoint.load(tiny.weights(tmp_path))
    saved.history.append({"command": "train", "epoch": 3})
    checkpoint.save(saved, last)
    with (
        pytest.raises(ends, match=f"epoch 3 stays; .* --resume {last}{more}$"),
        explain_load_errors(tmp_path),
    ):
        raise error("why")
