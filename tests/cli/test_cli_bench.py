"""The command bench: what it prints and draws, what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import squares

from prune.bench import BenchConfig, compare
from prune.cli import main
from prune.export.onnx import export
from prune.runtimes import backends

KEYS = {
    *("file", "runtime", "precision", "median_ms", "p10_ms", "p90_ms", "runs", "ratio_to_first"),
    *("ratio_low", "ratio_high", "load_ms", "peak_mb", "bytes"),
}
QUICK = ("--threads", "1", "--rounds", "3")


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    """Write a detector of coloured squares as ONNX."""
    export(squares.network(), tmp_path / "net.onnx", names=squares.NAMES, imgsz=(64, 64))
    return tmp_path / "net.onnx"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Write the same detector as a checkpoint."""
    return squares.save(tmp_path / "net.pt")


def test_json_has_the_keys_that_scripts_rely_on(
    onnx: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--runtime", "onnxruntime,torch", "--json", "--profile"]
    assert main(["bench", str(onnx), str(weights), *QUICK, *words]) == 0
    document = json.loads(capsys.readouterr().out)
    rows = document["rows"]
    assert all(set(row) >= KEYS for row in rows)
    ran = [(Path(row["file"]).name, row["runtime"], row["exported"]) for row in rows]
    assert ran == [
        ("net.onnx", "onnxruntime", False),
        ("net.pt", "onnxruntime", True),
        ("net.pt", "torch", False),
    ]
    assert document["notes"] == [], "each file and each runtime has a row"
    assert rows[0]["ratio_to_first"] == rows[0]["ratio_low"] == rows[0]["ratio_high"] == 1
    assert all(
        row["runs"] == 3 and row["p10_ms"] <= row["median_ms"] <= row["p90_ms"] for row in rows
    )
    assert all(row["slowest_ms"] for row in rows)
    assert set(document["machine"]) == {"cpu", "cores", "threads", "load", "system", "versions"}
    assert set(document["machine"]["versions"]) == {"python", "onnxruntime", "torch"}
    assert set(document["deploy"]) == {"file", "runtime", "why"}


def test_table_ends_with_what_to_deploy(
    onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--runtime", "onnxruntime", "--png", str(tmp_path / "bars.png"), "--profile"]
    assert main(["bench", str(onnx), str(onnx), *QUICK, *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["file", "runtime", "precision", "ms", "p10"]
    assert [line.split()[:3] for line in lines[2:4]] == [[str(onnx), "onnxruntime", "float32"]] * 2
    assert f"slowest layers of {onnx} in onnxruntime, ms per run" in lines
    assert lines[-1].startswith(f"deploy {onnx} in onnxruntime: ")
    image = cv2.imread(str(tmp_path / "bars.png"))
    assert image is not None and image.std() > 0


def test_a_file_named_alone_runs_where_it_can(
    onnx: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(weights), str(onnx), *QUICK, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    ran = {(Path(row["file"]).name, row["runtime"]) for row in document["rows"]}
    assert ran >= {("net.pt", "torch"), ("net.onnx", "onnxruntime"), ("net.onnx", "opencv")}
    assert ("net.pt", "onnxruntime") not in ran
    assert document["notes"] == []


def test_scores_stand_beside_milliseconds(
    onnx: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = squares.data(tmp_path)
    words = ["--runtime", "onnxruntime,torch", "--data", str(yaml), "--json"]
    assert main(["bench", str(onnx), str(weights), *QUICK, *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["map"] for row in document["rows"]] == pytest.approx([1, 1, 1])
    assert "within 1 point of the best mAP (1.000)" in document["deploy"]["why"]


def test_files_beside_a_fixed_one_are_scored_on_its_shape(
    onnx: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Padded to a square, these images lie half a cell off, and the same weights score less."""
    yaml, loose = squares.data(tmp_path, height=56), tmp_path / "open.onnx"
    export(squares.network(), loose, names=squares.NAMES, imgsz=(64, 64), dynamic=True)

    def maps(*files: Path) -> list[float]:
        words = [*QUICK, "--runtime", "onnxruntime,torch", "--data", str(yaml), "--json"]
        assert main(["bench", *map(str, files), *words]) == 0
        document = json.loads(capsys.readouterr().out)
        return [row["map"] for row in document["rows"] if not row["exported"]]

    assert maps(loose, weights) == pytest.approx([1, 1])
    padded = maps(loose, weights, onnx)
    assert max(padded) < 0.9
    assert padded == pytest.approx([padded[0]] * 3)


def test_a_file_without_boxes_is_timed_and_noted(
    onnx: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, yaml = tmp_path / "raw.onnx", squares.data(tmp_path)
    words = ["export", "--weights", str(weights), "--img-size", "64", "--raw", "--out", str(raw)]
    assert main(words) == 0
    capsys.readouterr()
    words = [*QUICK, "--runtime", "onnxruntime", "--data", str(yaml), "--json"]
    assert main(["bench", str(onnx), str(raw), *words]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["map"] for row in document["rows"]] == [pytest.approx(1), None]
    (note,) = document["notes"]
    assert note.startswith(f"not evaluated: {raw}")
    assert document["deploy"]["file"] == str(onnx), "what was not scored is not recommended"


def test_what_has_no_row_at_all_is_noted(
    onnx: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--runtime", "onnxruntime,opencv", "--json"]
    other = onnx.with_name("net.param")
    other.write_text("7767517\n1 1\nInput in0 0 1 in0\n")
    other.with_suffix(".bin").touch()
    files = [str(path) for path in (onnx, weights, other)]
    assert main(["bench", *files, *QUICK, "--img-size", "64", *words]) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == [
        f"{runtime} reads .onnx, not {other}" for runtime in ("onnxruntime", "opencv")
    ]


def test_batch_and_size_of_a_checkpoint_are_free(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--runtime", "onnxruntime,torch", "--img_size", "96", "--batch", "2", "--json"]
    assert main(["bench", str(weights), *QUICK, *words]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["shape"] for row in rows] == [[2, 3, 96, 96]] * 2


def test_a_split_without_labels_scores_nothing(
    onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = squares.data(tmp_path)
    shutil.rmtree(tmp_path / "labels")
    assert main(["bench", str(onnx), *QUICK, "--data", str(data)]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith(f"prune: {data}: no image of val has a label file; ")
    assert not out


def no_onnx(folder: Path) -> list[str]:
    (folder / "net.onnx").write_bytes(b"no")
    return []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_onnx, "cannot read the ONNX file"),
        (lambda _: ["--img-size", "96"], "takes images of 64 x 64 only"),
        (lambda _: ["--batch", "4"], "batch is 4, but"),
        (lambda _: ["--runtime", "onnxruntim"], "did you mean onnxruntime?"),
        (lambda _: ["--runtime", "openvino"], "pip install 'detector-prune[openvino]'"),
        (lambda _: ["--runtime", "torch"], "torch reads .pt, not"),
        (lambda folder: ["--data", str(folder / "none.yaml")], "none.yaml"),
        (lambda folder: ["--png", str(folder)], "is no name for an image"),
        (lambda _: ["--rounds", "0"], "must be at least 1"),
    ],
    ids=[
        "content",
        "size",
        "batch",
        "unknown",
        "missing",
        "nothing",
        "data",
        "png",
        "rounds",
    ],
)
def test_wrong_input_is_one_line(
    onnx: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], list[str]],
    message: str,
) -> None:
    monkeypatch.setitem(backends.MODULES, "openvino", "a_module_that_nobody_has")
    words = spoil(tmp_path)
    try:
        status = main(["bench", str(onnx), *QUICK, *words])
    except SystemExit as stopped:  # argparse
        status = int(str(stopped.code))
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert status == 2
    assert message in err and len(lines) == 1
    assert not out
    assert {path.name for path in tmp_path.iterdir()} == {"net.onnx"}


@pytest.mark.parametrize("profile", [False, True])
def test_the_function_returns_what_the_command_prints(
    onnx: Path, weights: Path, capsys: pytest.CaptureFixture[str], profile: bool
) -> None:
    words = ["--runtime", "onnxruntime,torch", "--json", *(["--profile"] if profile else [])]
    assert main(["bench", str(onnx), str(weights), *QUICK, *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = compare(
        BenchConfig(
            files=(onnx, weights),
            runtime="onnxruntime,torch",
            threads=1,
            rounds=3,
            profile=profile,
        )
    )
    document = json.loads(json.dumps(result.document()))
    assert list(document) == list(printed)
    assert [list(row) for row in document["rows"]] == [list(row) for row in printed["rows"]]
    same = ("file", "runtime", "exported", "shape", "precision", "runs", "bytes")
    for mine, its in zip(document["rows"], printed["rows"], strict=True):
        assert {key: mine[key] for key in same} == {key: its[key] for key in same}
    assert document["machine"].keys() == printed["machine"].keys()
    assert document["deploy"].keys() == printed["deploy"].keys()
    assert capsys.readouterr().out == ""
