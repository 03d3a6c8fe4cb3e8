"""Where the time goes: phases that add up, layers that are timed, a loader alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import tiny
import torch

from prune.common.hyperparameters import SCRATCH
from prune.data import loader, spec
from prune.models.darknet import build
from prune.train import profile

CPU = torch.device("cpu")


def test_a_phase_gets_the_time_of_its_blocks_also_of_broken_ones() -> None:
    watch = profile.Stopwatch(CPU)
    with watch("forward"):
        time.sleep(0.02)
    with pytest.raises(KeyboardInterrupt), watch("forward"):
        time.sleep(0.02)
        raise KeyboardInterrupt
    assert set(watch.seconds) == {"forward"}
    assert watch.seconds["forward"] >= 0.04


@pytest.mark.parametrize("watch", [profile.Stopwatch(CPU), profile.Unwatched()])
def test_batches_come_through_a_watch_as_they_are(watch: profile.Watch) -> None:
    assert list(watch.waits(range(3))) == [0, 1, 2]


def test_every_layer_is_timed_and_hooks_go_again() -> None:
    net = build(tiny.CFG.format(width=32)).eval()
    weights = {name: value.clone() for name, value in net.named_parameters()}
    rows = profile.layer_times(net, torch.rand(2, 3, 64, 64), precision=torch.float32)
    assert sorted(row.number for row in rows) == list(range(len(net.module_list)))
    assert [row.ms for row in rows] == sorted((row.ms for row in rows), reverse=True)
    shapes = {row.number: row.shape for row in rows}
    assert shapes[0] == (2, 8, 32, 32)
    assert not net.training
    assert all(value.equal(weights[name]) for name, value in net.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("batch", [2, 6], ids=["several batches", "one"])
def test_a_loader_has_a_rate_of_its_own(tmp_path: Path, batch: int) -> None:
    data = spec.load(tiny.data(tmp_path))
    batches = loader.train_loader(data, imgsz=64, batch_size=batch, hyp=SCRATCH, workers=0)
    assert profile.loading_rate(batches, 1) > 1


def test_report_names_phases_and_the_slowest_layers() -> None:
    rows = [profile.LayerTime(i, "convolutional", (1, 8, 4, 4), 9.0 - i) for i in range(5)]
    lines = profile.report_lines({"data": 1.0, "forward": 3.0}, rows, loading=123.4, most=2)
    text = "\n".join(lines)
    assert "25.0%" in text
    assert "75.0%" in text
    assert "123.4 images/s" in text
    assert sum("convolutional" in line for line in lines) == 2
