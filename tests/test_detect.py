"""The command detect, on a network that finds every square."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import squares

from prune import checkpoint
from prune.cli import main
from prune.data import labels
from prune.errors import DataError
from prune.export.onnx import export
from prune.models.darknet import build
from prune.score import sources

PICTURES = len(squares.SPLIT)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Return the command's words with a checkpoint, a folder of pictures and one for runs."""
    squares.data(tmp_path)
    weights = squares.save(tmp_path / "net.pt")
    places = ["--weights", str(weights), "--source", str(tmp_path / "images" / "val")]
    return ["detect", *places, "--project", str(tmp_path / "runs"), "--device", "cpu"]


def boxes_of(document: dict[str, list[dict[str, object]]]) -> list[tuple[object, object]]:
    """Return (class, corners) of one picture's boxes, in a fixed order."""
    return sorted((box["class"], box["xyxy"]) for box in document["boxes"])


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_json_names_every_square(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    export(squares.network(), tmp_path / "net.onnx", names=squares.NAMES, imgsz=(64, 64))
    weights = str(tmp_path / f"net{suffix}")
    assert main([*words, "--weights", weights, "--json", "--nosave"]) == 0
    documents = json.loads(capsys.readouterr().out)
    for document, truth in zip(documents, squares.SPLIT, strict=True):
        assert boxes_of(document) == sorted((s[0], squares.corners(s)) for s in truth)
    box = documents[0]["boxes"][0]
    assert set(box) == {"xyxy", "class", "name", "confidence"}
    assert box["name"] == squares.NAMES[box["class"]]
    assert not (tmp_path / "runs").exists()


def test_pictures_are_written_with_boxes(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    folder = tmp_path / "runs" / "exp"
    assert (folder / "run.json").is_file()
    for number, truth in enumerate(squares.SPLIT):
        source, drawn = (
            cv2.imread(str(place / f"{number}.png"))
            for place in (tmp_path / "images" / "val", folder)
        )
        assert source is not None and drawn is not None
        assert np.array_equal(source, drawn) == (not truth)


def test_text_files_are_the_labels(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--save-txt", "--nosave"]) == 0
    for number in range(PICTURES):
        written = labels.read(tmp_path / "runs" / "exp" / "labels" / f"{number}.txt", classes=2)
        truth = labels.read(tmp_path / "labels" / "val" / f"{number}.txt", classes=2)
        order = [np.lexsort(rows.T) for rows in (written, truth)]
        np.testing.assert_allclose(written[order[0]], truth[order[1]], atol=1e-5)


def test_text_files_hold_confidences_on_request(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--save-conf", "--nosave"]) == 0
    (line,) = (tmp_path / "runs" / "exp" / "labels" / "1.txt").read_text().splitlines()
    assert float(line.split()[5]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("classes", [["1"], ["blue"], ["blue,1"]], ids=["number", "name", "both"])
def test_only_the_classes_asked_for(
    words: list[str], capsys: pytest.CaptureFixture[str], classes: list[str]
) -> None:
    assert main([*words, "--json", "--nosave", "--classes", *classes]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert {box["name"] for document in documents for box in document["boxes"]} == {"blue"}


def test_old_habit_is_taken_with_a_note(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--pd", "--nosave"]) == 0
    out, err = capsys.readouterr()
    assert "--pd is not needed" in err
    assert "0.png: 1 red, 1 blue" in out and "2.png: nothing" in out


def film(path: Path) -> Path:
    """Write a video of six frames in which the red square moves on."""
    size = squares.picture([]).shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 5, size)
    for column in range(6):
        writer.write(squares.picture([(0, 2, column)]))
    writer.release()
    return path


def test_video_goes_frame_by_frame(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = film(tmp_path / "film.mp4")
    assert main([*words, "--source", str(source), "--json", "--save-txt"]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert [document["frame"] for document in documents] == list(range(6))
    for column, document in enumerate(documents):
        assert boxes_of(document) == [(0, squares.corners((0, 2, column)))]
    written = tmp_path / "runs" / "exp" / "film.mp4"
    assert len(list(sources.frames(written))) == 6
    assert sources.frames_a_second(written) == 5
    assert (written.parent / "labels" / "film_000005.txt").is_file()


@pytest.mark.parametrize("name", ["picture.jpg", "film.mp4"])
@pytest.mark.parametrize("content", [b"", b"neither"], ids=["empty", "broken"])
def test_broken_file_is_one_line_and_nothing_written(
    words: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert main([*words, "--source", str(path), "--json"]) == 2
    out, err = capfd.readouterr()
    assert name in err and len(err.splitlines()) == 1
    assert not out
    assert not list((tmp_path / "runs").glob("*"))


def test_broken_picture_does_not_stop_the_others(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "val" / "1.png").write_bytes(b"no picture")
    assert main([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == PICTURES - 1
    assert len([line for line in err.splitlines() if line.startswith("prune: ")]) == 1
    assert not (tmp_path / "runs" / "exp" / "1.png").exists()
    assert (tmp_path / "runs" / "exp" / "3.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--source", "nowhere"], "no such file or match: nowhere"),
        (["--source", "*.jpg"], "no such file or match: *.jpg"),
        (["--source", "."], "no pictures or videos in ."),
        (["--source", "net.txt"], "neither a picture nor a video"),
        (["--source", "x" * 300], "File name too long"),
        (["--classes", "green"], "class 'green' is unknown"),
        (["--classes", ""], "--classes '' names no class"),
        (["--classes", ",", " "], "names no class"),
        (["--conf-thres", "2"], "confidence threshold is 2"),
        (["--weights", "net.txt"], "net.txt"),
        (["--weights", "grey.pt"], "[net] channels: is 1; pictures are RGB"),
    ],
    ids=[
        *("path", "glob", "folder", "file", "length"),
        *("class", "no class", "only commas", "confidence", "weights", "grey"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_written(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "net.txt").write_text("no weights")
    grey = build(squares.CFG.replace("channels=3", "channels=1"))
    taken = checkpoint.capture(grey, names=squares.NAMES, imgsz=squares.SIZE)
    checkpoint.save(taken, tmp_path / "empty" / "grey.pt")
    monkeypatch.chdir(tmp_path / "empty")
    assert main([*words, *change]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*"))


def test_glob_finds_pictures_in_subfolders(tmp_path: Path) -> None:
    squares.data(tmp_path)
    assert len(sources.find(f"{tmp_path}/**/*.png")) == PICTURES
    with pytest.raises(DataError, match="no such file or match"):
        sources.find(f"{tmp_path}/*.png")


def test_files_of_one_stem_do_not_overwrite_each_other() -> None:
    paths = [Path(name) for name in ("a.jpg", "a.png", "x/b.jpg", "y/b.jpg", "c.jpg")]
    assert sources.stems(paths) == ["a_jpg", "a_png", "b_jpg", "b_jpg_2", "c"]
    paths = [Path(name) for name in ("x/1.jpg", "y/1.jpg", "z/1_jpg_2.jpg")]
    assert sources.stems(paths) == ["1_jpg", "1_jpg_2", "1_jpg_2_2"]
