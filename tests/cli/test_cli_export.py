"""The command export: what it writes, what it prints, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import squares

from prune import checkpoint
from prune.cli import main
from prune.common.choices import FORMATS
from prune.export import ExportConfig, export, formats, to_onnx


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write a checkpoint into a folder of its own."""
    return squares.save(tmp_path / "net.pt")


def files(folder: Path) -> set[str]:
    """Name what is in the folder."""
    return {path.name for path in folder.iterdir()}


def test_onnx_is_written_beside_the_weights(
    weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--weights", str(weights)]) == 0
    assert files(weights.parent) == {"net.pt", "net.onnx"}
    printed = capfd.readouterr()
    assert printed.out.splitlines()[1:3] == [
        "  input  images: 1 x 3 x 64 x 64",
        "  output output: 1 x 64 x 7",
    ]
    assert printed.err == ""  # what the exporters have to say about themselves


@pytest.mark.parametrize(
    "words", [[], ["--nms"], ["--half"], ["--format", "ncnn"]], ids=["onnx", "nms", "half", "ncnn"]
)
def test_equal_networks_give_equal_files(
    weights: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    suffix = ".param" if "ncnn" in words else ".onnx"
    written = []
    for folder in ("one", "two"):
        out = weights.parent / folder / f"m{suffix}"
        assert main(["export", "--weights", str(weights), "--out", str(out), *words]) == 0
        written.append({path.name: path.read_bytes() for path in out.parent.iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) >= 1


def test_a_file_has_the_date_that_the_environment_sets(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--weights", str(weights)]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767225600")
    assert main(words) == 0
    found = {e.key: e.value for e in onnx.load(weights.with_suffix(".onnx")).metadata_props}
    assert found["date"] == "2026-01-01T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert main(words) == 2
    assert "SOURCE_DATE_EPOCH is 'yesterday'" in capsys.readouterr().err


def test_json_holds_what_scripts_rely_on(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = weights.parent / "sub" / "m.onnx"
    words = ["--out", str(out), "--img_size", "32", "48", "--batch", "2", "--raw", "--json"]
    assert main(["export", "--weights", str(weights), *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["out"] == str(out)
    assert document["inputs"] == {"images": [2, 3, 32, 48]}
    assert document["outputs"] == {"head0": [2, 7, 4, 6]}
    assert document["opset"] == 18
    assert document["bytes"] == out.stat().st_size
    assert 0 <= document["max_rel_diff"] < 1e-4
    assert document["max_abs_diff"] >= 0


def test_the_file_names_the_checkpoint_it_came_from(weights: Path) -> None:
    assert main(["export", "--weights", str(weights), "--dynamic", "--opset", "17"]) == 0
    model = onnx.load(weights.with_suffix(".onnx"))
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["source_sha256"] == checkpoint.digest(weights)
    assert facts["names"] == "{0: 'red', 1: 'blue'}"
    assert model.opset_import[0].version == 17


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("darknet", {"net.cfg", "net.weights"}),
        ("yolor", {"net_yolor.cfg", "net_yolor.pt"}),
    ],
)
def test_pairs_are_written_beside_the_weights(
    weights: Path, capsys: pytest.CaptureFixture[str], form: str, written: set[str]
) -> None:
    before = checkpoint.digest(weights)
    assert main(["export", "--weights", str(weights), "--format", form, "--json"]) == 0
    assert files(weights.parent) == {"net.pt"} | written
    assert {Path(name).name for name in json.loads(capsys.readouterr().out)["out"]} == written
    assert checkpoint.digest(weights) == before


WRONG = {
    "missing weights": (["--weights", "nowhere.pt"], "nowhere.pt"),
    "no multiple": (["--img-size", "100"], "the nearest is 96"),
    "no pictures": (["--batch", "0"], "batch is 0"),
    "a folder": (["--out", "folder.onnx"], "it is a folder"),
    "no name for ONNX": (["--out", "m.txt"], "m.txt is no name for an ONNX file"),
    "no suffix": (["--out", "file"], "it must end in .onnx"),
    "below a file": (["--out", "file/m.onnx"], "cannot write file/m.onnx"),
    "legacy, yet new": (["--legacy", "--opset", "18"], "must lie in 11 to 17"),
    "legacy, yet dynamo": (["--legacy", "--exporter", "dynamo"], "leave out --exporter dynamo"),
    "no detections": (["--nms", "--max-det", "0"], "must be at least 1"),
    "detections without suppression": (["--max-det", "10"], "--max-det is for --nms"),
    "the usual number, too": (["--max-det", "300", "--raw"], "--max-det is for --nms"),
    "no data": (["--data", "nowhere.yaml"], "nowhere.yaml"),
    "an opset of the past": (["--opset", "3"], "writes 11 to 20"),
    "an opset to come": (["--opset", "99"], "writes 11 to 20"),
    "a cfg of half precision": (["--format", "darknet", "--half"], "--half is for ONNX"),
    "a cfg of another size": (["--format", "yolor", "--img-size", "65"], "multiple of 8, e.g. 72"),
    "ncnn on pictures": (["--format", "ncnn", "--data", "d.yaml"], "--data is for ONNX"),
    "the weights": (["--format", "darknet", "--out", "net.pt"], "is also --weights"),
    "the weights, by yolor": (["--format", "yolor", "--out", "net.cfg"], "is also --weights"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line_and_leaves_nothing(
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(weights.parent)
    Path("folder.onnx").mkdir()
    Path("file").write_text("kept")
    before = checkpoint.digest(weights)
    assert main(["export", "--weights", "net.pt", *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert files(weights.parent) == {"net.pt", "folder.onnx", "file"}
    assert checkpoint.digest(weights) == before


def test_a_batch_of_fixed_size_is_not_open(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["export", "--weights", str(weights), "--batch", "2", "--dynamic"])
    assert stopped.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("form", FORMATS)
def test_the_function_returns_what_the_command_prints(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    suffix = {"onnx": ".onnx", "ncnn": ".param"}.get(form, ".cfg")
    out = tmp_path / "out" / f"m{suffix}"
    words = ["--weights", str(weights), "--format", form, "--out", str(out), "--json"]
    assert main(["export", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = export(ExportConfig(weights=weights, format=form, out=out))
    assert json.loads(json.dumps(result.document())) == printed
    assert capsys.readouterr().out == ""


def test_to_onnx_writes_onnx_whatever_the_format(weights: Path) -> None:
    result = to_onnx(ExportConfig(weights=weights, format="ncnn", dynamic=True))
    assert result.out == weights.with_suffix(".onnx")
    assert result.inputs == {"images": ("batch", 3, "height", "width")}


def test_help_lists_the_formats_there_are() -> None:
    assert tuple(formats.FORMATS) == FORMATS
