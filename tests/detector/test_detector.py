"""Detector: every stage as a method, with the results that the commands print."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from prune import checkpoint
from prune.cli import main
from prune.detector import Detector
from prune.errors import InputError, PlanError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dense(tmp_path: Path) -> Detector:
    return Detector.load(tiny.weights(tmp_path))


def test_a_pruned_detector_is_that_of_the_command(
    dense: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = dense.prune(macs=0.6, criterion="l1")
    out = tmp_path / "cut.pt"
    words = ["--weights", dense.path, "--macs", 0.6, "--criterion", "l1", "--out", out, "--json"]
    assert main(["global", *map(str, words)]) == 0
    printed = json.loads(capsys.readouterr().out)
    own = json.loads(json.dumps(small.result.document()))  # type: ignore[attr-defined]
    assert {**own, "out": None} == {**printed, "out": None}
    assert checkpoint.load(small.path).cfg == checkpoint.load(out).cfg
    assert small.show().params == printed["params"]["after"]


@pytest.mark.parametrize(
    "options",
    [
        {"params": 0.7},
        {"layer": 3, "amount": 0.5},
        {"layer": "2,3", "amount": 0.5},
        {"upto": 3, "amount": 0.25},
        {"blocks": 1},
    ],
    ids=str,
)
def test_every_way_to_prune_makes_a_smaller_detector(
    dense: Detector, options: dict[str, Any]
) -> None:
    before = dense.path.read_bytes()
    small = dense.prune(**options)
    assert small.show().params < dense.show().params
    assert dense.path.read_bytes() == before


def test_a_plan_is_carried_out(dense: Detector, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    first = dense.prune(layer=3, amount=0.5, plan_out=str(plan))
    again = dense.prune(plan=str(plan))
    assert checkpoint.load(first.path).cfg == checkpoint.load(again.path).cfg


def test_what_it_writes_lasts_as_long_as_it_does_or_is_saved(
    dense: Detector, tmp_path: Path
) -> None:
    small = dense.prune(macs=0.6)
    path = small.path
    kept = small.save(tmp_path / "kept.pt")
    assert kept.result is small.result
    del small
    assert not path.exists()
    assert Detector.load(str(kept.path)).names == tiny.NAMES
    there = dense.prune(macs=0.6, out=tmp_path / "there.pt")
    path = there.path
    del there
    assert path.is_file()


def test_unknown_options_and_missing_targets_are_refused(dense: Detector) -> None:
    with pytest.raises(TypeError, match="GlobalConfig has no option 'recover'; it has activation"):
        dense.prune(macs=0.5, recover=True)
    with pytest.raises(TypeError, match="prune\\(\\) needs one of macs, params"):
        dense.prune()
    with pytest.raises(PlanError, match="exactly one of macs and params"):
        dense.prune(macs=0.5, params=0.5)
    with pytest.raises(InputError):
        dense.evaluate("nowhere.yaml")


def test_training_distils_from_a_teacher_and_evaluates(dense: Detector, tmp_path: Path) -> None:
    data = tiny.data(tmp_path)
    lines: list[str] = []
    small = dense.prune(macs=0.6)
    options: dict[str, Any] = {"epochs": 1, "batch_size": 2, "workers": 0, "no_plots": True}
    tuned = small.train(data, teacher=dense, report=lines.append, **options)
    assert any("epoch 1/1" in line for line in lines)
    result = tuned.evaluate(str(data))
    assert 0 <= result.map <= 1
    assert result.folder is None
    assert checkpoint.load(tuned.path).history[-1]["command"] == "train"


def test_an_exported_file_detects_the_same(dense: Detector, tmp_path: Path) -> None:
    tiny.data(tmp_path)
    out = dense.export(str(tmp_path / "tiny.onnx")).out
    image = tmp_path / "images" / "val" / "0.png"
    found = dense.detect(image, conf_thres=0.01)
    assert found.images == 1
    assert sum(len(one.boxes) for one in found.detections) == found.boxes
    assert dense.bench(str(out), rounds=2, threads=1).rows[1].file == out


def test_the_example_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "quickstart.py", tmp_path / "q"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "agrees with torch" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["q"]
