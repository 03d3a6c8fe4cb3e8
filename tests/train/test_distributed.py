"""Two processes that train together, as torchrun starts them: what one gets, both get."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny
import together
import torch

from prune import checkpoint
from prune.cli import main
from prune.common import device
from prune.common.hyperparameters import SCRATCH
from prune.data import spec
from prune.data.batch import share
from prune.data.loader import train_loader
from prune.errors import DataError, DeviceError, InputError
from prune.evaluate.collect import Collected
from prune.evaluate.collect import together as joined
from prune.train import distributed as teams
from prune.train import fit, setup
from prune.train.config import TrainConfig
from prune.train.distributed import Team

ROOT = Path(__file__).parents[2]
# What each process does.
TOGETHER = ROOT / "tests" / "support" / "together.py"
# Sums in another order: what a loss of two processes differs by from one's.
LOSS_RTOL, WEIGHT_ATOL = 1e-4, 1e-4


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network and seven images."""
    tiny.data(tmp_path, images=together.PICTURES)
    tiny.weights(tmp_path)
    return tmp_path


def torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    """Run two processes, a thread each."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return subprocess.run(
        [*launcher, "--nproc-per-node", "2", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def rows(run: Path) -> list[dict[str, float]]:
    """Read results.csv, without the times."""
    with (run / "results.csv").open() as file:
        return [
            {name: float(value or 0) for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def expect_same(found: Path, wanted: Path) -> None:
    """Compare two runs' figures and weights."""
    for one, other in zip(rows(found), rows(wanted), strict=True):
        assert one == pytest.approx(other, rel=LOSS_RTOL, abs=1e-5)
    mine, theirs = (checkpoint.load(run / "weights" / "last.pt").model for run in (found, wanted))
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=WEIGHT_ATOL)


def test_two_processes_with_shared_norms_train_and_prune_as_one_does(folder: Path) -> None:
    with (folder / "data.yaml").open("a") as data:
        data.write("test: images/val\n")
    words = together.words(folder, "--epochs", "3", "--sync-bn", "--profile", *together.PRUNING)
    done = torchrun("-m", "prune", *words, "--name", "two")
    assert done.returncode == 0, done.stderr
    assert main([*words, "--name", "one"]) == 0
    one, two = (folder / "runs" / name for name in ("one", "two"))
    expect_same(two, one)
    cfgs = [checkpoint.load(run / "weights" / "best.pt").cfg for run in (one, two)]
    assert cfgs[0] == cfgs[1] != checkpoint.load(folder / "dense.pt").cfg
    # The first process alone writes and speaks.
    assert sorted(path.name for path in (folder / "runs").iterdir()) == ["one", "two"]
    left = [
        sorted(p.name for p in run.rglob("*") if "tfevents" not in p.name) for run in (one, two)
    ]
    assert left[0] == left[1]
    assert len(list(two.glob("events.out.tfevents.*"))) == 1
    assert done.stdout.count("best weights") == done.stdout.count("test split") == 1
    assert done.stderr.count("verified") == 1
    assert done.stderr.count("epoch 3/3") == 1


def test_what_a_team_does(folder: Path) -> None:
    dense = checkpoint.load(folder / "dense.pt")
    # Its zeros would bear an average; so long a fraction is rounded by one.
    dense.model[together.FROZEN].uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))
    checkpoint.save(dense, folder / "dense.pt")
    done = torchrun(TOGETHER, "works", folder)
    assert done.returncode == 0, done.stderr
    for batch in (3, together.PICTURES):
        alone = together.score_tiny(folder, batch, Team())
        for rank in (0, 1):
            found = torch.load(folder / f"scores{batch}.{rank}.pt")
            assert found == alone  # every digit
    own = [torch.load(folder / f"own{rank}.pt") for rank in (0, 1)]
    assert all(value.equal(own[1][name]) for name, value in own[0].items())
    assert all(value.isfinite().all() for value in own[0].values())
    assert own[0][together.FROZEN].equal(dense.model[together.FROZEN])
    expect_weighed_means(folder)
    assert rows(folder / "runs" / "own")[0]["train_distill"] >= 0
    assert checkpoint.load(folder / "runs" / "own" / "weights" / "last.pt").pruned
    expect_shared_norms(folder)


def expect_weighed_means(folder: Path) -> None:
    """Compare statistics of BatchNorms before and after averaging, weighted by images."""
    both = [torch.load(folder / f"means{rank}.pt") for rank in (0, 1)]
    met = list(zip(*both, strict=True))
    images = ((2, 1), (2, 1), (1, 0)) * 2
    for ((one, after), (other, again)), (first, second) in zip(met[:6], images, strict=True):
        assert not one.equal(other)
        wanted = (first * one + second * other) / (first + second)
        torch.testing.assert_close(after, wanted, rtol=1e-5, atol=1e-7)
        assert after.equal(again)
    for (one, after), (other, again) in met[6:]:  # by close_norms no norm learns any more
        assert all(mean.equal(one) for mean in (after, other, again))


def expect_shared_norms(folder: Path) -> None:
    """Compare BatchNorms that share with one that sees all."""
    alone = together.normalised([0, 1, 2, 3])
    for case in ("uneven", "empty"):
        parts = [torch.load(folder / f"{case}{rank}.pt") for rank in (0, 1)]
        found = {name: parts[0][name] + parts[1][name] for name in ("weight", "bias")}
        found["values"] = torch.cat([part["values"] for part in parts])
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert parts[0][name].equal(parts[1][name])
            found[name] = parts[0][name]
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-2)


def test_who_is_asked_to_stop_stops_all_and_one_process_can_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "draw_results", lambda *_: None)
    done = torchrun(TOGETHER, "stops", folder)
    assert done.returncode == 0, done.stderr
    assert [(folder / f"status{rank}").read_text() for rank in (0, 1)] == ["130", "130"]
    assert done.stderr.count("prune: stopped and saved") == 1
    last = folder / "runs" / "stopped" / "weights" / "last.pt"
    position = checkpoint.load(last).training["scheduler"]
    assert isinstance(position, dict)
    assert position["batch"] == 5  # asked on the 4th, after its own look; all see it on the next
    assert main(["train", "--resume", str(last)]) == 0
    assert main(together.words(folder, "--epochs", "2", "--name", "whole")) == 0
    expect_same(folder / "runs" / "stopped", folder / "runs" / "whole")


def test_a_process_that_dies_ends_all(folder: Path) -> None:
    began = time.monotonic()
    done = torchrun(TOGETHER, "dies", folder)
    assert time.monotonic() - began < 60
    assert done.returncode != 0
    assert "another process of this run has ended" in done.stderr or "SIGTERM" in done.stderr
    assert not (folder / "runs" / "dead" / "weights" / "last.pt").exists()


def test_a_process_that_hangs_ends_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_TIMEOUT_S", "10")
    began = time.monotonic()
    done = torchrun("--shutdown-timeout", "1", TOGETHER, "hangs", folder)
    assert time.monotonic() - began < 60
    assert done.returncode == 1
    assert done.stderr.count("prune: ") == 1
    assert "prune: another process of this run has not answered for 10 s" in done.stderr
    assert "exitcode  : 1 " in done.stderr  # of the one that noticed; torchrun killed the other
    assert not (folder / "runs" / "hung" / "weights" / "last.pt").exists()


@pytest.mark.parametrize("said", ["soon", "0", "-1", "nan", "inf", ""])
def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("PRUNE_TIMEOUT_S", said)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="must be a number of seconds"), teams.join():
        pass


@pytest.mark.parametrize(("count", "size"), [(6, 2), (7, 2), (1, 2), (3, 5), (64, 3)])
def test_shares_are_the_batch_and_alike_in_size(count: int, size: int) -> None:
    parts = [share(count, (number, size)) for number in range(size)]
    assert [sample for part in parts for sample in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts[0]) == max(map(len, parts))


def test_all_shares_together_are_the_batches_of_one(folder: Path) -> None:
    def batches(part: tuple[int, int]) -> Sequence[torch.Tensor]:
        data = spec.load(folder / "data.yaml", splits=("train",))
        loader = train_loader(data, imgsz=64, batch_size=3, hyp=SCRATCH, workers=0, part=part)
        loader.set_epoch(1, start=1)
        assert [loader.size(batch) for batch in range(3)] == [3, 3, 1]
        return [batch.images for batch in loader]

    alone, *parts = (batches(part) for part in ((0, 1), (0, 2), (1, 2)))
    for whole, *shares in zip(alone, *parts, strict=True):
        assert torch.cat(shares).equal(whole)
    assert len(parts[1][-1]) == 0


def test_fewer_images_a_batch_than_processes_are_refused(folder: Path) -> None:
    data = spec.load(folder / "data.yaml", splits=("train",))
    with pytest.raises(DataError, match="2 processes divide a batch, so that it must be 2 or more"):
        train_loader(data, imgsz=64, batch_size=1, hyp=SCRATCH, part=(0, 2))


def test_a_batch_that_fits_is_not_sought_by_several(folder: Path) -> None:
    config = TrainConfig(
        weights=folder / "dense.pt", data=folder / "data.yaml", batch_size="auto", workers=0
    )
    with pytest.raises(InputError, match="auto fits one process; several need a number"):
        setup.prepare(config, device=torch.device("cpu"), team=Team(0, 2), report=print)


def test_collected_batches_come_back_in_their_order() -> None:
    parts = []
    for numbers in ([[0, 1], [4]], [[2, 3]]):
        part = Collected(sizes=[len(batch) for batch in numbers], forward_s=1.0)
        part.truth = part.found = [number for batch in numbers for number in batch]  # type: ignore[misc]  # any object will do
        parts.append(part)
    whole = joined(parts)
    assert whole.truth == whole.found == [0, 1, 2, 3, 4]
    assert (whole.sizes, whole.forward_s) == ([2, 2, 1], 2.0)


def test_buckets_hold_all_in_order_and_little_more_than_they_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teams, "_BUCKET_BYTES", 40)
    tensors = [torch.zeros(n) for n in (4, 6, 1, 30, 2)]
    assert [[len(t) for t in lot] for lot in teams.buckets(tensors)] == [[4, 6], [1], [30], [2]]


def test_every_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.choose("cpu", process=1) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choose("", process=1) == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match="process 2 of this machine finds no GPU; it has 2"):
        device.choose("", process=2)
    with pytest.raises(DeviceError, match="leave --device out"):
        device.choose("0", process=1)


def test_sync_bn_does_not_go_with_compile(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(together.words(folder, "--sync-bn", "--compile")) == 2
    assert "--sync-bn does not go with --compile" in capsys.readouterr().err
    assert not (folder / "runs").exists()
