"""`fit` does what `prune train` does: the same files, the same figures, and it prints nothing."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from prune import checkpoint
from prune.cli import main
from prune.cli import train as command
from prune.common.choices import ACTIVATIONS
from prune.errors import InputError
from prune.models.layers import ACTIVATIONS as KNOWN_ACTIVATIONS
from prune.train import config as configs
from prune.train import run_log
from prune.train.config import TrainConfig
from prune.train.fit import DOCUMENTED, TrainResult, fit
from prune.train.optim import SHAPES
from prune.train.resume import Resumed
from prune.train.run_log import Log
from prune.train.settings import DISTILLED


def config(folder: Path, **more: Any) -> TrainConfig:
    """Return the options of a short run on the tiny set, on the CPU, without curves."""
    fixed: dict[str, Any] = {
        "data": folder / "data.yaml",
        "project": folder / "runs",
        "batch_size": 3,
    }
    fixed |= {"workers": 0, "device": "cpu", "epochs": 2, "no_plots": True}
    return TrainConfig(**{"weights": folder / "dense.pt", **fixed, **more})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network and six images."""
    tiny.data(tmp_path)
    tiny.weights(tmp_path)
    return tmp_path


def test_every_option_is_a_field_of_the_config_with_the_same_default() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    options = vars(parser.parse_args([]))
    del options["resume"], options["json"]
    defaults = {field.name: field.default for field in fields(TrainConfig)}
    assert defaults.pop("working_folder") is None
    assert {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()} == defaults


def test_names_that_help_lists_are_those_of_the_tables() -> None:
    assert tuple(SHAPES) == configs.SCHEDULES
    assert tuple(DISTILLED) == configs.DISTILLATIONS
    assert tuple(run_log.SERVICES) == configs.SERVICES
    assert set(ACTIVATIONS) <= set(KNOWN_ACTIVATIONS)


@pytest.mark.parametrize("field", ["schedule", "distill", "cache", "autoanchor", "log"])
def test_a_name_that_is_none_of_an_options_names_is_refused(field: str) -> None:
    given: dict[str, Any] = {field: "x"}
    with pytest.raises(InputError, match=f"--{field} is 'x'; it must be "):
        TrainConfig(**given)


def test_fit_gives_what_the_command_prints_and_leaves_the_same_files(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    result = fit(config(folder), report=lines.append)
    assert capsys.readouterr() == ("", "")
    assert f"training on cpu, files in {folder / 'runs/exp'}" in lines
    assert [line[:9] for line in lines if line.startswith("epoch ")] == ["epoch 1/2", "epoch 2/2"]
    where = ("--data", folder / "data.yaml", "--project", folder / "runs", "--name", "command")
    words = ("--weights", folder / "dense.pt", "--batch", 3, "--workers", 0, "--epochs", 2)
    more = ("--device", "cpu", "--no-plots", "--json")
    assert main(["train", *map(str, (*where, *words, *more))]) == 0
    printed = json.loads(capsys.readouterr().out)
    for document in (printed, own := result.document()):
        for key in ("folder", "best", "last", "seconds"):
            del document[key]
    assert printed == own
    mine, theirs = (checkpoint.load(folder / "runs" / run / "weights/last.pt") for run in NAMES)
    assert all(value.equal(theirs.model[name]) for name, value in mine.model.items())
    files = [sorted(p.name for p in (folder / "runs" / run).rglob("*.[cjyp]*")) for run in NAMES]
    assert files[0] == files[1]


NAMES = ("exp", "command")


def test_the_document_has_the_keys_of_the_result(folder: Path) -> None:
    with (folder / "data.yaml").open("a") as data:
        data.write("test: images/val\n")
    result = fit(config(folder, epochs=1))
    assert tuple(result.document()) == DOCUMENTED
    assert result.test is not None and result.document()["test_map"] == result.test.map
    assert (result.map, result.map50) == pytest.approx((result.test_map, result.test_map50))
    assert {field.name for field in fields(TrainResult)} >= set(DOCUMENTED)
    assert (result.best, result.last) == tuple(
        folder / "runs/exp/weights" / name for name in ("best.pt", "last.pt")
    )
    assert result.next_command.startswith(f"prune global --weights {result.best} --macs 0.5 ")


def test_a_signal_stops_fit_which_says_how_to_resume(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, seen = Log.step, []

    def stop(log: Log, *args: Any) -> None:
        step(log, *args)
        seen.append(args)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "step", stop)
        result = fit(config(folder, batch_size=2, nominal_batch=2))
    assert result.stopped and (result.epochs, result.best_epoch) == (0, 0)
    assert math.isnan(result.map)
    assert result.next_command == f"prune train --resume {result.last}"
    again = fit(
        config(folder, batch_size=2, nominal_batch=2, hyp=result.folder / "hyp.yaml"),
        resume=Resumed(result.folder, result.last),
    )
    assert (again.stopped, again.epochs, again.folder) == (False, 2, result.folder)


def test_a_run_of_fit_is_resumed_by_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    names = ("rot", "blau")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Log, "epoch", killed)
        fit(config(folder, names=names, freeze=("0-1",), sparsity=("bn", 1e-3)))
    options = yaml.safe_load((folder / "runs/exp/opt.yaml").read_text())
    assert (options["names"], options["freeze"]) == (["rot", "blau"], ["0-1"])
    capsys.readouterr()
    assert main(["train", "--resume", str(folder / "runs" / "exp"), "--workers", "0"]) == 0
    assert "note: layers 0-1 are not trained" in capsys.readouterr().err
