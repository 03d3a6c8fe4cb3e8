"""Flags of `prune train` that change how it goes about it, not what comes of it: each runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from prune import checkpoint
from prune.cli import main
from prune.models.sections import parse
from prune.train import checkpointing


@pytest.mark.parametrize("flag", ["--eager", "--cache", "--bf16", "--no-plots"])
def test_a_run_with_the_flag_leaves_its_files(tmp_path: Path, flag: str) -> None:
    data, start = tiny.data(tmp_path), tiny.weights(tmp_path)
    words = ("--data", data, "--weights", start, "--project", tmp_path / "runs")
    fixed = ("--epochs", 1, "--batch", 3, "--workers", 0, "--device", "cpu")
    assert main(["train", *map(str, (*words, *fixed)), flag]) == 0
    folder = tmp_path / "runs" / "exp"
    assert {path.stem for path in (folder / "weights").iterdir()} == {*checkpointing.BEST, "last"}
    for name in ("opt.yaml", "hyp.yaml", "run.json", "results.csv", "train_batch0.jpg"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "results.png").is_file() == (flag != "--no-plots")
    assert not checkpoint.load(folder / "weights" / "last.pt").training


def test_another_activation_is_trained_and_kept_in_the_cfg(tmp_path: Path) -> None:
    data, start = tiny.data(tmp_path), tiny.weights(tmp_path)
    words = ("--data", data, "--weights", start, "--project", tmp_path / "runs")
    fixed = ("--epochs", 1, "--batch", 3, "--workers", 0, "--device", "cpu", "--no-plots")
    assert main(["train", *map(str, (*words, *fixed)), "--activation", "relu"]) == 0
    before, after = (
        [section.options.get("activation") for section in parse(checkpoint.load(path).cfg)]
        for path in (start, tmp_path / "runs" / "exp" / "weights" / "best.pt")
    )
    bent = [name not in (None, "linear", "logistic") for name in before]
    assert any(bent)
    wanted = ["relu" if is_bent else name for name, is_bent in zip(before, bent, strict=True)]
    assert after == wanted


def test_a_batch_of_one_cell_is_refused_before_any_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, start = tiny.data(tmp_path), tiny.weights(tmp_path)
    words = ("--data", data, "--weights", start, "--project", tmp_path / "runs")
    size = checkpoint.network(checkpoint.load(start)).stride
    few = ("--batch", 1, "--img-size", size)
    assert main(["train", *map(str, (*words, *few, "--workers", 0, "--device", "cpu"))]) == 2
    assert f"image size is {size}, of which a batch of one" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
