"""The bundle detects what `prune detect` detects, with onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import squares
from PIL import Image

from prune import checkpoint
from prune.cli import main
from prune.common import files
from prune.data import frames
from prune.export import bundle_detect

FILES = {"model.onnx", "labels.txt", "preprocess.json", "detect.py", "README.md"}
SQUARES: list[squares.Square] = [(0, 0, 0), (1, 2, 3), (1, 2, 4), (0, 5, 7)]
ABSENT = ("torch", "cv2", "prune", "onnx", "onnxslim", "yaml", "matplotlib")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Write a bundle of the network that finds squares."""
    weights = squares.save(tmp_path / "net.pt")
    assert main(["export", "--weights", str(weights), "--bundle", str(tmp_path / "made")]) == 0
    return tmp_path / "made"


def draw_image(folder: Path, *, factor: float = 1) -> Path:
    """Draw squares; a factor away from 1 makes both sides resize."""
    image = squares.draw_image(SQUARES)
    size = [round(side * factor) for side in image.shape[1::-1]]
    path = folder / "squares.png"
    cv2.imwrite(str(path), cv2.resize(image, size, interpolation=cv2.INTER_NEAREST))
    return path


def detect(made: Path, *words: str) -> list[dict[str, object]]:
    """Run the script where nothing of ours can be imported."""
    blocked = f"import sys, runpy; sys.modules.update(dict.fromkeys({ABSENT}))"
    code = f"{blocked}; sys.argv[1:] = {list(words)}; runpy.run_path('detect.py', None, '__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", code],
        cwd=made,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def detected(capsys: pytest.CaptureFixture[str], weights: Path, path: Path) -> list[object]:
    """Run `prune detect`."""
    capsys.readouterr()
    words = ["detect", "--weights", str(weights), "--source", str(path), "--json", "--nosave"]
    assert main(words) == 0
    (document,) = json.loads(capsys.readouterr().out)
    found: list[object] = document["boxes"]
    return found


def numbers(boxes: list[object]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Bring boxes into one order: by class, then by place."""
    rows = []
    for box in boxes:
        assert isinstance(box, dict)
        rows.append([box["class"], *box["xyxy"], box["confidence"]])
    return np.array(sorted(rows, key=lambda row: np.round(row[:3], -1).tolist()))


FORMS = {
    "one size": [],
    "any size": ["--dynamic"],
    "another size": ["--img-size", "96", "64"],
    "half": ["--half"],
}


@pytest.mark.parametrize("words", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("factor", [1, 0.5, 0.75, 1.7])
def test_script_finds_what_prune_detect_finds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], factor: float
) -> None:
    """The script resizes as training does, without OpenCV; only its rounding differs."""
    weights, made = squares.save(tmp_path / "net.pt"), tmp_path / "made"
    assert main(["export", "--weights", str(weights), "--bundle", str(made), *words]) == 0
    path = draw_image(tmp_path, factor=factor)
    found = numbers(list(detect(made, str(path))))
    wanted = numbers(detected(capsys, made / "model.onnx", path))
    assert found.shape == wanted.shape
    assert len(found)
    np.testing.assert_allclose(found[:, :5], wanted[:, :5], atol=0.5)
    np.testing.assert_allclose(found[:, 5], wanted[:, 5], atol=0.01)


@pytest.mark.parametrize("size", [(40, 30), (60, 45), (61, 47), (120, 90), (200, 150), (333, 250)])
def test_script_resizes_as_training_does(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    wanted = frames.resize(pixels, (45, 60))
    found = bundle_detect.resized(pixels.astype(np.float32), 60, 45)
    assert abs(found - wanted.astype(np.float32)).max() <= 1  # OpenCV rounds twice


def test_a_bundle_is_whole(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == FILES
    assert (made / "labels.txt").read_text().split() == list(squares.NAMES)
    how = json.loads((made / "preprocess.json").read_text())
    assert (how["size"], how["pad"], how["any_size"]) == ([64, 64], 114, False)
    readme = (made / "README.md").read_text()
    size, params = (made / "model.onnx").stat().st_size, 7 * (3 * 8 * 8 + 1)
    for figure in (f"{size:,} bytes", f"| parameters | {params:,} |", "ms per image", "unknown"):
        assert figure in readme


def test_readme_has_the_scores_that_the_checkpoint_knows(tmp_path: Path) -> None:
    trained = {"command": "train", "scores": {"map50": 0.5, "map": 0.25}}
    source = checkpoint.capture(squares.network(), names=squares.NAMES, imgsz=64, history=[trained])
    checkpoint.save(source, tmp_path / "net.pt")
    words = ["--weights", str(tmp_path / "net.pt"), "--bundle", str(tmp_path / "made")]
    assert main(["export", *words]) == 0
    assert "map50 0.500, map 0.250" in (tmp_path / "made" / "README.md").read_text()


def test_script_draws_and_heeds_its_thresholds(made: Path, tmp_path: Path) -> None:
    path, drawn = draw_image(tmp_path), tmp_path / "drawn.png"
    assert len(detect(made, str(path), "--out", str(drawn))) == len(SQUARES)
    with Image.open(path) as before, Image.open(drawn) as after:
        assert before.size == after.size
        assert np.any(np.asarray(before.convert("RGB")) != np.asarray(after))
    assert detect(made, str(path), "--conf", "1") == []


@pytest.mark.parametrize("content", [None, b"no picture"], ids=["none", "no picture"])
def test_script_says_in_one_line_that_a_image_cannot_be_read(
    made: Path, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "file.jpg"
    if content is not None:
        path.write_bytes(content)
    words = [sys.executable, str(made / "detect.py"), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"detect.py: cannot read {path}: ")
    assert done.stderr.count("\n") == 1 and not done.stdout


REFUSED = {
    "a folder in use": (["--bundle", "."], "exists already"),
    "raw": (["--bundle", "made", "--raw"], "leave out --raw"),
    "its own suppression": (["--bundle", "made", "--nms"], "leave out --raw, --nms"),
    "a batch": (["--bundle", "made", "--batch", "2"], "--batch-size"),
    "another format": (["--bundle", "made", "--format", "darknet"], "leave out --format darknet"),
    "a wrong size": (["--bundle", "made", "--img-size", "65"], "the nearest is"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bundles_that_cannot_be_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    squares.save(tmp_path / "net.pt")
    assert main(["export", "--weights", "net.pt", *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]


def test_a_bundle_that_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(b"half of it")
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        within(tmp_path / "made", fail)
    assert not list(tmp_path.iterdir())


def test_names_act_neither_in_a_terminal_nor_as_markup(tmp_path: Path) -> None:
    found = checkpoint.load(squares.save(tmp_path / "net.pt"))
    names = ["\x1b[31mred", "<script>alert()</script>", "two\nlines", "[a](b)"]
    hostile = [*names, *found.names][: len(found.names)]
    checkpoint.save(replace(found, names=hostile), tmp_path / "net.pt")
    words = ["export", "--weights", str(tmp_path / "net.pt"), "--bundle", str(tmp_path / "made")]
    assert main(words) == 0
    labels = (tmp_path / "made" / "labels.txt").read_text().splitlines()
    assert labels[0] == r"\x1b[31mred"
    assert len(labels) == len(hostile)
    readme = (tmp_path / "made" / "README.md").read_text()
    assert "\x1b" not in readme
    assert "<script>" not in readme


def within(folder: Path, do: Callable[[Path], None]) -> None:
    """Do something in a folder that becomes `folder`."""
    with files.new_folder(folder) as part:
        do(part)


@pytest.mark.skipif(
    "PRUNE_VENV_TEST" not in os.environ, reason="PRUNE_VENV_TEST=1 lets pip install"
)
def test_a_fresh_environment_with_three_packages_is_enough(made: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "fresh", with_pip=True)
    python = tmp_path / "fresh" / ("Scripts" if os.name == "nt" else "bin") / "python"
    packages = ["onnxruntime", "numpy", "pillow"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    script, path = made / "detect.py", draw_image(tmp_path)
    done = subprocess.run([python, script, path], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(SQUARES)
