"""What `prune train` can make of its data: fitted anchors, one class, images drawn by metrics."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import tiny
import torch
from datasets import yolo
from torch import Tensor

from prune import checkpoint
from prune.cli import main
from prune.common.hyperparameters import SCRATCH
from prune.data.batch import Batch
from prune.evaluate import metrics
from prune.models.darknet import Darknet
from prune.train import anchors, checkpointing, fit, sampling
from prune.train.run_log import Log

Train = Callable[..., int]

WIDE = "0 0.5 0.5 {width} 0.05\n1 0.5 0.25 {width} 0.05\n"


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Train on six images with a wide box of each class, for one epoch by default."""
    monkeypatch.setattr(fit, "draw_results", lambda *_: None)
    boxes = [WIDE.format(width=0.8 + i / 50) for i in range(6)]
    named = {f"{split}/{i}": text for split in ("train", "val") for i, text in enumerate(boxes)}
    data = yolo(tmp_path, named, names=tiny.NAMES)

    def run(*words: object) -> int:
        fixed = ("--data", data, "--project", tmp_path / "runs", "--img", 64, "--batch", 3)
        plain = ("--epochs", 1, "--workers", 0, "--device", "cpu")
        return main(["train", *map(str, (*fixed, *plain, *words))])

    return run


def three_images_a_class(folder: Path) -> None:
    """Keep the boxes of one class per training image: class 0 in even numbers, 1 in odd ones."""
    for number in range(6):
        path = folder / "labels" / "train" / f"{number}.txt"
        path.write_text(f"{number % 2} 0.5 0.5 0.8 0.05\n")


def kept(folder: Path, name: str = "exp") -> Darknet:
    return checkpoint.network(checkpoint.load(folder / "runs" / name / "weights" / "last.pt"))


def own_anchors(net: Darknet) -> Tensor:
    return torch.cat([head.anchors for head in net.heads])


def test_a_fresh_network_is_trained_with_anchors_that_fit(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--cfg", tiny.cfg(tmp_path), "--autoanchor") == 0
    said = capsys.readouterr().err
    assert "anchors: best possible recall 0.0000, 0.00 anchors per box; replaced by better" in said
    boxes = torch.tensor([[64 * (0.8 + i / 50), 2.4] for i in range(6)])  # 40 x 30 images
    found = anchors.measure(own_anchors(kept(tmp_path)), boxes, anchor_t=SCRATCH["anchor_t"])
    assert found.recall == 1


def test_trained_weights_keep_their_anchors_unless_forced(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tiny.weights(tmp_path)
    before = own_anchors(checkpoint.network(checkpoint.load(weights)))
    assert train("--weights", weights, "--autoanchor", "--name", "same") == 0
    assert "kept, as the weights are trained on them" in capsys.readouterr().err
    assert own_anchors(kept(tmp_path, "same")).equal(before)
    assert train("--weights", weights, "--autoanchor", "force", "--name", "forced") == 0
    assert not own_anchors(kept(tmp_path, "forced")).equal(before)


def test_all_boxes_are_of_one_class(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # curves too
    assert train("--cfg", tiny.cfg(tmp_path), "--single-cls") == 0
    found = checkpoint.load(tmp_path / "runs" / "exp" / "weights" / "best.pt")
    assert found.names == ["object"]
    assert [head.classes for head in checkpoint.network(found).heads] == [1, 1]
    again = ("--weights", tmp_path / "runs" / "exp" / "weights" / "best.pt", "--name", "on")
    assert train(*again, "--single-cls") == 0


def test_weights_of_several_classes_get_heads_for_one(
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What comes next cannot look at the data, which has other classes."""
    monkeypatch.setattr(metrics, "LEARNED", 0.0)
    assert train("--weights", tiny.weights(tmp_path), "--single-cls") == 0
    said = capsys.readouterr()
    assert "it predicts 2 classes (red, blue) and the data has 1 class (object)" in said.err
    (then,) = (line for line in said.out.splitlines() if line.startswith("next "))
    monkeypatch.chdir(tmp_path)
    assert main([*shlex.split(then)[2:], "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    "option", [("--autoanchor",), ("--single-cls",), ("--image-weights",)], ids=lambda o: o[0]
)
def test_resumed_run_ends_with_the_same_weights(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    three_images_a_class(tmp_path)
    monkeypatch.setattr(sampling, "class_precisions", lambda _: {"map_0": 1.0, "map_1": 0.5})
    start = ("--cfg", tiny.cfg(tmp_path), "--epochs", 3, "--val-every", 2, *option)
    assert train(*start, "--name", "whole") == 0
    tell = Log.epoch

    def stop_after_the_second(log: Log, rows: list[dict[str, float]], epochs: int) -> None:
        tell(log, rows, epochs)
        if len(rows) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", stop_after_the_second)
        assert train(*start, "--name", "broken") == 130
    assert (
        main(["train", "--resume", str(tmp_path / "runs" / "broken" / "weights" / "last.pt")]) == 0
    )
    whole, broken = (kept(tmp_path, name) for name in ("whole", "broken"))
    assert broken.cfg_text() == whole.cfg_text()
    weights = broken.state_dict()
    assert all(weights[key].equal(value) for key, value in whole.state_dict().items())


def test_images_of_the_worse_class_are_drawn_in_the_next_epoch(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_images_a_class(tmp_path)
    monkeypatch.setattr(sampling, "class_precisions", lambda _: {"map_0": 1.0, "map_1": 0.5})
    drawn: list[list[str]] = [[], []]

    def note(_: Log, position: int, batch: Batch) -> None:
        drawn[position // 2] += [path.stem for path in batch.paths]

    monkeypatch.setattr(Log, "batch", note)
    assert train("--cfg", tiny.cfg(tmp_path), "--epochs", 2, "--image-weights") == 0
    assert {int(stem) % 2 for stem in drawn[0]} == {0, 1}
    assert {int(stem) % 2 for stem in drawn[1]} == {1}
    columns = (tmp_path / "runs" / "exp" / "results.csv").read_text().splitlines()[0]
    assert "map_0" not in columns


@pytest.mark.parametrize("option", [(), ("--image-weights",)], ids=["without", "with"])
def test_rows_hold_each_classs_score_only_for_image_weights(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: tuple[str, ...]
) -> None:
    monkeypatch.setattr(checkpointing, "finish", lambda _: None)  # leaves the state in
    assert train("--cfg", tiny.cfg(tmp_path), *option) == 0
    found = checkpoint.load(tmp_path / "runs" / "exp" / "weights" / "last.pt")
    (row,) = cast("list[dict[str, float]]", found.training["training_results"])
    assert {name for name in row if name.startswith("map_")} == (
        {"map_0", "map_1"} if option else set()
    )


def test_frozen_layers_stay_frozen_when_anchors_change(train: Train, tmp_path: Path) -> None:
    words = ("--weights", tiny.weights(tmp_path), "--freeze", "0-1", "--autoanchor", "force")
    assert train(*words, "--epochs", 2, "--nominal-batch", 3) == 0
    before = checkpoint.load(tmp_path / "dense.pt").model
    after = kept(tmp_path, "exp").state_dict()
    for layer in (0, 1):
        kernel = f"module_list.{layer}.Conv2d.weight"
        assert after[kernel].equal(before[kernel])
