"""The training state inside last.pt: every value that a run goes on from is checked before use."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.errors import CheckpointError
from prune.models.darknet import build
from prune.train import checkpointing, run
from prune.train.initial_weights import open_interrupted
from prune.train.resume import restore
from prune.train.settings import Settings

ROW = {"epoch": 1.0, "train_loss": 2.0, "seconds": 3.0}
State = dict[str, Any]


def begin() -> run.Run:
    settings = Settings(epochs=2, imgsz=Size.of(tiny.SIZE))
    net = build(tiny.CFG.format(width=8))
    return run.start(net, 3, settings=settings, hyp=SCRATCH, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a run after one update, so that its optimizer has momentum."""
    folder = tmp_path_factory.mktemp("run")
    own = begin()
    for parameter in own.net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    own.optimizer.step()
    checkpointing.save(
        own, [ROW], origin=checkpointing.Origin(tiny.NAMES, "data.yaml"), folder=folder
    )
    return folder / "last.pt"


def changed(saved: Path, tmp_path: Path, change: Callable[[State], object]) -> Path:
    document = copy.deepcopy(torch.load(saved, weights_only=True))
    change(document)
    torch.save(document, tmp_path / "last.pt")
    return tmp_path / "last.pt"


def put(*keys: Any, value: object) -> Callable[[State], object]:
    def change(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return change


KERNEL = "module_list.0.Conv2d.weight"
WRONG: dict[str, tuple[Callable[[State], object], str]] = {
    "optimizer": (put("optimizer", value=5), "optimizer is 5; it must be a mapping"),
    "no weights": (put("optimizer", value={"a": 1}), "optimizer.weights is missing"),
    "scheduler": (put("scheduler", value=5), "scheduler is 5; it must be a mapping"),
    "no batch": (put("scheduler", value={}), "scheduler.batch is missing"),
    "no batches": (put("scheduler", "batches", value=0), "scheduler.batches is 0"),
    "losses": (put("scheduler", "losses", value=["x"]), "scheduler.losses[0] is 'x'"),
    "adapters": (put("scheduler", "adapters", value=[5]), "scheduler.adapters[0] is 5"),
    "digest": (put("scheduler", "picture_files", value=5), "scheduler.picture_files is 5"),
    "rng": (put("rng", value=5), "rng is 5; it must be a mapping"),
    "no rng": (put("rng", value={}), "rng.cpu is missing"),
    "rng of the CPU": (put("rng", "cpu", value="x"), "rng.cpu is 'x'; it must be a tensor"),
    "results": (put("training_results", value="x"), "training_results is 'x'"),
    "result": (put("training_results", value=[1]), "training_results[0] is 1"),
    "row": (put("training_results", value=[{}]), "training_results[0].epoch is missing"),
    "figure": (put("training_results", 0, "epoch", value="x"), "training_results[0].epoch is 'x'"),
    "score": (put("training_results", 0, "map", value=0.5), "training_results[0].precision is"),
    "updates": (put("ema_updates", value="x"), "ema_updates is 'x'; it must be a whole number"),
    "no updates": (put("ema_updates", value=None), "ema_updates is missing"),
    "no momentum": (put("optimizer", "state", value=[1]), "optimizer.state is [1]"),
    "momentum": (put("optimizer", "state", "state", 0, value=5), "optimizer.state.state.0 is 5"),
    "buffer": (
        put("optimizer", "state", "state", 0, value={"momentum_buffer": "x"}),
        "optimizer.state.state.0.momentum_buffer is 'x'",
    ),
    "weights": (put("optimizer", "weights", KERNEL, value=5), f"optimizer.weights.{KERNEL} is 5"),
    "sparse": (
        put("optimizer", "weights", KERNEL, value=torch.ones(8, 3, 3, 3).to_sparse()),
        f"optimizer.weights.{KERNEL} is a sparse tensor",
    ),
    "shape": (
        put("optimizer", "weights", KERNEL, value=torch.ones(1)),
        f"optimizer.weights.{KERNEL} is [1]; it must be [8, 3, 3, 3]",
    ),
    "scaler": (put("optimizer", "scaler", value=5), "optimizer.scaler is 5"),
    "history": (put("history", value=[]), "history is empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_state_of_other_values_is_refused_with_file_and_key(
    case: str, saved: Path, tmp_path: Path
) -> None:
    change, said = WRONG[case]
    path = changed(saved, tmp_path, change)
    with pytest.raises(CheckpointError) as caught:
        open_interrupted(path, names=tiny.NAMES)
    assert f"{path}: {said}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_state_that_a_run_saved_is_taken_up(saved: Path) -> None:
    source, state = open_interrupted(saved, names=tiny.NAMES)
    own = replace(begin(), net=source.net)
    rows, _ = restore(own, state, batches=own.schedule.total // own.settings.epochs)
    assert rows == [ROW]


# What only the run that goes on can tell.
UNFIT: dict[str, tuple[Callable[[State], object], str]] = {
    "rng": (put("rng", "cpu", value=torch.ones(3)), "rng.cpu does not fit this run"),
    "momentum": (
        put("optimizer", "state", "state", 0, value={"momentum_buffer": torch.ones(77)}),
        "; the run's opt.yaml must freeze the layers that it froze before",
    ),
    "scaler": (
        put("optimizer", "scaler", value={"x": 1}),
        "optimizer.scaler does not fit this run",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_state_that_does_not_fit_the_run_is_refused_with_its_key(
    case: str, saved: Path, tmp_path: Path
) -> None:
    change, said = UNFIT[case]
    _, state = open_interrupted(changed(saved, tmp_path, change), names=tiny.NAMES)
    own = replace(begin(), scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    with pytest.raises(CheckpointError) as caught:
        restore(own, state, batches=own.schedule.total // own.settings.epochs)
    assert said in str(caught.value)
