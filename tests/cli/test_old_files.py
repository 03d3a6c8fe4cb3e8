"""Files that version 0.1 wrote, kept in tests/data: every later version reads them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
import torch

from prune import checkpoint
from prune.auto import journal
from prune.cli import main
from prune.latency import table

OLD = Path(__file__).parents[1] / "data" / "version_0_1"


def test_checkpoints_load_and_a_plan_gives_the_same_cut_again(tmp_path: Path) -> None:
    out = tmp_path / "cut.pt"
    words = ["--weights", OLD / "dense.pt", "--plan", OLD / "plan.json", "--out", out]
    assert main(["apply", *map(str, words)]) == 0
    before, now = (checkpoint.load(path).model for path in (OLD / "cut.pt", out))
    assert before.keys() == now.keys()
    assert all(torch.equal(before[name], now[name]) for name in before)


def test_measured_drops_share_out_a_budget(tmp_path: Path) -> None:
    words = ["--weights", OLD / "dense.pt", "--macs", 0.8, "--sensitivity", OLD / "drops.json"]
    assert main(["global", *map(str, words), "--out", str(tmp_path / "cut.pt")]) == 0


def test_a_run_goes_on_where_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.data(tmp_path)
    run = shutil.copytree(OLD / "run", tmp_path / "run")
    options = run / "opt.yaml"
    done = len((OLD / "run" / "results.csv").read_text().splitlines()) - 1
    text = options.read_text()
    assert "epochs: 3000\n" in text
    options.write_text(text.replace("epochs: 3000\n", f"epochs: {done + 1}\n"))
    words = ["train", "--resume", str(run), "--data", str(tmp_path / "data.yaml")]
    assert main(words) == 0, capsys.readouterr().err
    rows = (run / "results.csv").read_text().splitlines()
    assert len(rows) == done + 2
    assert [row.split(",")[0] for row in rows[1:]] == [str(n + 1) for n in range(done + 1)]


def test_a_journal_of_auto_and_a_table_of_layer_times_are_read() -> None:
    assert set(journal.read(OLD / "auto.json").stages) >= {"dense", "cut"}
    found = table.load(OLD / "latency.json")
    assert found is not None
    assert found.samples
