"""conv, layers, show and diff, as typed."""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import stacks
import tiny
import torch

from prune import checkpoint
from prune.checkpoint.comparison import DiffConfig, diff
from prune.checkpoint.summary import ShowConfig, show
from prune.cli import main
from prune.cli.ranked import CRITERIA
from prune.common.layer_ranges import as_ranges
from prune.core.importance.criteria import CRITERIA as KNOWN
from prune.core.plan import from_json
from prune.errors import PlanError
from prune.pruner.by_amount import layer_indices

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tiny.weights(tmp_path)


def _json(words: Sequence[object], capsys: Capture) -> dict[str, object]:
    """Run a command that succeeds; everything on stdout must be one JSON document."""
    assert main([str(word) for word in words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert isinstance(document, dict)
    return document


def _refused(words: Sequence[object], capsys: Capture) -> str:
    """Run a command that must end with one line on stderr and exit 2; return the line."""
    assert main([str(word) for word in words]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    return printed.err


def test_the_command_line_offers_every_criterion() -> None:
    assert tuple(CRITERIA) == tuple(KNOWN)


def test_layers_reports_what_the_files_hold(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "model_data" / "cut.pt"
    told = _json(
        ["layers", "--weights", dense, "--upto", 1, "--amount", 0.25, "--out", out, "--json"],
        capsys,
    )
    before, after = checkpoint.load(dense), checkpoint.load(out)
    params = [sum(p.numel() for p in checkpoint.network(c).parameters()) for c in (before, after)]
    assert told["params"] == {"before": params[0], "after": params[1]}
    assert told["out"] == str(out)
    assert told["groups"] == [
        {
            "root": f"module_list.{i}.Conv2d",
            "before": width,
            "after": width * 3 // 4,
            "members": [m],
        }
        for i, width, m in ((0, 8, "module_list.0.Conv2d"), (1, 16, "module_list.1.Conv2d"))
    ]
    assert after.pruned
    assert not before.pruned
    assert after.history[-1]["parent"] == checkpoint.digest(dense)
    assert not after.training


def test_coupled_layers_go_together(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "cut.pt"
    told = _json(
        ["conv", "--weights", dense, "--layer", 3, "--amount", 0.5, "--out", out, "--json"], capsys
    )
    assert told["groups"] == [
        {
            "root": "module_list.2.Conv2d",
            "before": 32,
            "after": 16,
            "members": ["module_list.2.Conv2d", "module_list.3.Conv2d"],
        }
    ]
    model = checkpoint.load(out).model
    assert model["module_list.5.Conv2d.weight"].shape == (21, 16, 1, 1), "the head lost inputs only"


def test_named_channels_are_the_ones_that_go(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "cut.pt"
    words = ["conv", "--weights", dense, "--layer", 1, "--channels", "2,6,9", "--out", out]
    _json([*words, "--json"], capsys)
    kept = [i for i in range(16) if i not in (2, 6, 9)]
    before, after = (checkpoint.load(path).model for path in (dense, out))
    name = "module_list.1.BatchNorm2d.weight"
    assert torch.equal(after[name], before[name][kept])


def test_sequential_cuts_a_coupled_group_again_and_says_so(
    dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "cut.pt"
    words = ["layers", "--weights", dense, "--from", 2, "--upto", 3, "--out", out, "--json"]
    assert main([*map(str, words), "--sequential"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["groups"][0]["after"] == 8, "32, halved by 2 and again by 3"
    assert "cut 2 times; 8 of 32 channels are left" in printed.err


def test_a_dry_run_writes_no_checkpoint_but_the_plan(
    dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, plan = tmp_path / "cut.pt", tmp_path / "plan.json"
    words = ["layers", "--weights", dense, "--upto", 0, "--out", out, "--dry-run", "--json"]
    told = _json([*words, "--plan-out", plan], capsys)
    assert told["out"] is None
    assert not out.exists()
    written = from_json(plan.read_text())
    assert written.network == checkpoint.network_id(checkpoint.load(dense).cfg)
    assert len(written.cuts[0].remove) == 4


def test_a_new_plan_never_lies_beside_an_old_checkpoint(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    out, plan = tmp_path / "cut.pt", tmp_path / "plan.json"
    words = ["conv", "--weights", dense, "--layer", 1, "--out", out, "--plan-out", plan]
    assert main([*map(str, words), "--amount", "0.5"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)  # the last rename, that of the checkpoint
        assert main([*map(str, words), "--amount", "0.25"]) == 130
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_table_comes_before_the_proof_and_the_file(
    dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert (
        main(
            [
                "conv",
                "--weights",
                str(dense),
                "--layer",
                "1",
                "--amount",
                "0.5",
                "--out",
                str(tmp_path / "cut.pt"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    order = [printed.index(word) for word in ("members", "params", "macs", "verified", "written")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["conv", "--layer", "4", "--amount", "0.5"], "these can: 0-3, 8"),
        (["conv", "--layer", "5", "--amount", "0.5"], "heads cannot"),
        (["conv", "--layer", "99", "--amount", "0.5"], "layer 99"),
        (["conv", "--layer", "two", "--amount", "0.5"], "'two'"),
        (["conv", "--layer", "1", "--amount", "1.0"], "[0, 1)"),
        (["conv", "--layer", "1", "--amount", "-0.1"], "[0, 1)"),
        (["conv", "--layer", "1", "--amount", "nan"], "[0, 1)"),
        (["conv", "--layer", "1", "--amount", "0.01"], "nothing"),
        (["conv", "--layer", "1"], "--amount"),
        (["conv", "--amount", "0.5"], "--layer"),
        (["conv", "--layer", "0", "--channels", "0,1,2,3,4,5,6,7"], "all"),
        (["conv", "--layer", "0", "--channels", "8"], "8"),
        (["conv", "--layer", "0", "--channels", "one"], "'one'"),
        (["conv", "--layer", "0-1", "--channels", "1"], "one layer"),
        (["layers", "--from", "9", "--upto", "2"], "9 to 2"),
        (["layers", "--upto", "9999"], "0 to 9999; it must go up from 0 to at most 10"),
        (["layers", "--upto", "1", "--round-to", "0"], "round-to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_cut_that_cannot_be_made_is_one_line(
    words: list[str], expected: str, dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    before = sorted(tmp_path.rglob("*"))
    line = _refused([*words, "--weights", dense, "--out", tmp_path / "cut.pt"], capsys)
    assert expected in line
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unwritable_output_is_one_line(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    words = [
        "layers",
        "--weights",
        dense,
        "--upto",
        1,
        "--json",
        "--out",
        tmp_path / "file" / "x.pt",
    ]
    assert "cannot write" in _refused(words, capsys)


def test_nan_weights_are_refused(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    found = checkpoint.load(dense)
    model = {name: tensor.clone() for name, tensor in found.model.items()}
    model["module_list.1.Conv2d.weight"][0] = torch.nan
    checkpoint.save(replace(found, model=model), tmp_path / "nan.pt")
    words = ["layers", "--weights", tmp_path / "nan.pt", "--out", tmp_path / "cut.pt"]
    assert "module_list.1.Conv2d.weight" in _refused(words, capsys)
    assert not (tmp_path / "cut.pt").exists()


def test_show_lists_layers_that_add_up(dense: Path, capsys: Capture) -> None:
    told = _json(["show", dense, "--json"], capsys)
    layers = told["layers"]
    assert isinstance(layers, list)
    assert sum(layer["params"] for layer in layers) == told["params"]
    assert sum(layer["macs"] for layer in layers) == told["macs"]
    assert layers[0]["macs"] == 3 * 8 * 9 * 32 * 32, "3x3, 3 to 8 channels, 32 x 32 cells"
    assert layers[0]["output"] == [32, 32]
    assert main(["show", str(dense)]) == 0
    assert main(["show", str(dense), "--groups"]) == 0
    assert "2-3" in capsys.readouterr().out


def test_diff_lists_the_layers_a_cut_changed(dense: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "cut.pt"
    _json(
        ["conv", "--weights", dense, "--layer", 0, "--amount", 0.5, "--out", out, "--json"], capsys
    )
    told = _json(["diff", dense, out, "--json"], capsys)
    layers = told["layers"]
    assert isinstance(layers, list)
    assert [layer["index"] for layer in layers] == [0, 1], "the layer and the one that reads it"
    assert main(["diff", str(dense), str(dense)]) == 0
    assert "0 layers differ, of 11 and 11" in capsys.readouterr().out


def test_functions_return_what_show_and_diff_print(
    dense: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "cut.pt"
    words = ["conv", "--weights", dense, "--layer", 0, "--amount", 0.5, "--out", out, "--json"]
    _json(words, capsys)
    shown = json.loads(json.dumps(show(ShowConfig(file=out)).document()))
    compared = json.loads(json.dumps(diff(DiffConfig(dense, out)).document()))
    assert capsys.readouterr().out == ""
    assert shown == _json(["show", out, "--json"], capsys)
    assert compared == _json(["diff", dense, out, "--json"], capsys)
    assert compared["params"]["before"] > compared["params"]["after"] == shown["params"]


def test_diff_tells_another_activation(
    dense: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "relu.pt"
    words = ["conv", "--weights", dense, "--layer", 0, "--amount", 0.5, "--out", out, "--json"]
    _json([*words, "--activation", "relu"], capsys)
    assert main(["diff", str(dense), str(out)]) == 0
    assert "convolutional leaky -> convolutional relu" in capsys.readouterr().out


def test_diff_knows_the_layers_behind_a_block_that_left(tmp_path: Path, capsys: Capture) -> None:
    """Two blocks leave one after the other; the second plan counts layers without the first."""
    files = [stacks.weights(tmp_path), tmp_path / "one.pt", tmp_path / "two.pt"]
    gone: list[int] = []
    left = list(range(len(checkpoint.network(checkpoint.load(files[0])).layers)))
    for before, after in pairwise(files):
        words = ["depth", "--blocks", 1, "--weights", before, "--out", after, "--json"]
        blocks = _json(words, capsys)["blocks"]
        assert isinstance(blocks, list)
        places = blocks[0]["layers"]
        gone += [left[place] for place in places]
        left = [layer for place, layer in enumerate(left) if place not in places]
    told = _json(["diff", files[0], files[2], "--json"], capsys)["layers"]
    assert isinstance(told, list)
    assert [layer["index"] for layer in told] == sorted(gone)
    assert not any(layer["after"] for layer in told)


FILES: dict[str, list[str]] = {
    "is also --weights": ["--out", "dense.pt"],
    "is also --out": ["--out", "same", "--plan-out", "same"],
    "it is a folder": ["--out", "."],
    "dense.pt is no folder": ["--plan-out", "dense.pt/plan.json"],
}


@pytest.mark.parametrize("message", FILES)
def test_files_that_cannot_be_written_are_found_first(
    message: str, dense: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(dense.parent)
    before = dense.read_bytes()
    words = ["layers", "--weights", "dense.pt", "--amount", "0.5", *FILES[message]]
    assert message in _refused(words, capsys)
    assert [path.name for path in dense.parent.iterdir()] == ["dense.pt"]
    assert dense.read_bytes() == before


CUTS: dict[str, list[str]] = {
    "conv": ["--layer", "1", "--amount", "0.5"],
    "layers": [],
    "global": ["--macs", "0.5"],
    "depth": ["--blocks", "1"],
}


@pytest.mark.parametrize("command", CUTS)
def test_where_nothing_can_be_written_is_found_before_a_network_is_read(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryFile", read_only)  # root may write everywhere else
    words = [command, "--weights", "none.pt", "--out", "new/x.pt", *CUTS[command]]
    assert f"folder {tmp_path}: Read-only file system" in _refused(words, capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["show", "diff", "layers"])
def test_a_file_that_is_no_checkpoint_is_one_line(
    command: str, tmp_path: Path, capsys: Capture
) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"")
    arguments: dict[str, list[object]] = {
        "show": [bad],
        "diff": [bad, bad],
        "layers": ["--weights", bad],
    }
    words = arguments[command]
    assert "bad.pt" in _refused([command, *words], capsys)


def test_layer_words() -> None:
    allowed = [0, 1, 2, 5, 6, 9]
    assert layer_indices(["1-5", "9"], allowed) == [1, 2, 5, 9]
    assert layer_indices(["0,6"], allowed) == [0, 6]
    assert as_ranges(allowed) == "0-2, 5-6, 9"
    with pytest.raises(PlanError, match="0-2, 5-6, 9"):
        layer_indices(["3-4"], allowed)
