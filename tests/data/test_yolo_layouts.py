"""Data sets of other tools are read unchanged, and what cannot be read says which line to write."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import yolo_layouts
from datasets import draw_image, yolo
from loguru import logger
from yolo_layouts import LAYOUTS, NAMES, ROWS

from prune.cli import main
from prune.common import notes
from prune.data import spec
from prune.data.truth import read_truth
from prune.errors import DataError


@pytest.fixture
def said() -> Iterator[list[str]]:
    notes.forget()
    lines: list[str] = []
    handle = logger.add(lambda message: lines.append(str(message).strip()), format="{message}")
    yield lines
    logger.remove(handle)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_read_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str], name: str
) -> None:
    built = LAYOUTS[name](tmp_path)
    built.start.mkdir(exist_ok=True)
    monkeypatch.chdir(built.start)
    data = spec.load(Path(os.path.relpath(built.data)))
    images = {split: [image.stem for image in files] for split, files in data.splits.items()}
    if name == "label studio":
        assert sorted(images["train"] + images["val"]) == ["a", "b", "c", "d"]
    else:
        assert images == {"train": ["a", "b"], "val": ["c", "d"]}
    assert data.names == (("0", "1") if name == "numbers alone" else NAMES)
    for split, files in data.splits.items():
        truth = read_truth(files, data.form)
        assert (truth.count, len(truth.without_file)) == (2 * len(files), 0), split
    assert sum(" taken " in line for line in said) <= 1


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "ultralytics"])
def test_layout_means_the_same_from_another_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    built = LAYOUTS[name](tmp_path)
    monkeypatch.chdir(built.start)
    there = spec.load(built.data).splits
    monkeypatch.chdir("/")
    assert spec.load(built.data).splits == there


def test_check_and_names_take_what_train_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("label studio", "cvat yolo", "roboflow darknet"):
        built = LAYOUTS[name](tmp_path / name)
        assert main(["data", "check", str(built.data)]) == 0
        assert spec.load_names(built.data) == NAMES
    assert "images                    3    1" in capsys.readouterr().out


def test_working_folder_is_told_in_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    built = yolo_layouts.yolor(tmp_path)
    monkeypatch.chdir(built.start)
    assert main(["data", "check", "data/coco.yaml"]) == 0
    noted = [line for line in capsys.readouterr().err.splitlines() if "taken" in line]
    assert noted == [
        "note: data/coco.yaml: train and val are taken relative to the working folder "
        f"{built.start}"
    ]


def test_own_folder_wins_over_the_working_folder_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    own = yolo(tmp_path / "own", {"train/a": ROWS, "val/b": ROWS}, names=NAMES)
    yolo(tmp_path / "here", {"train/a": ROWS, "val/b": ROWS}, names=NAMES)
    monkeypatch.chdir(tmp_path / "here")
    assert spec.load(own).images("train") == (tmp_path / "own/images/train/a.png",)
    (line,) = said
    assert "images/train is there twice" in line
    assert f"{tmp_path}/here/images/train in the working folder is not" in line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train: pics/train\nval: images/val\n", "write the line `train: images/train`"),
        ("train: images/train\nval: /nowhere/valuation\n", "write the line `val: images/val`"),
        ("path: nowhere\ntrain: a\nval: images/val\n", "and leave out path:)"),
        ("train: labels/train\nval: images/val\n", "no images in"),
        ("train: labels/train\nval: images/val\n", "write the line `train: images/train`"),
        ("train: images/train\n", "no split 'val'; write the line `val: images/val`"),
    ],
)
def test_where_it_fails_the_line_to_write_is_printed(tmp_path: Path, text: str, line: str) -> None:
    data = yolo(tmp_path, {"train/a": ROWS, "val/b": ROWS}, names=NAMES)
    data.write_text(f"{text}names: [red, blue]\n")
    with pytest.raises(DataError) as refused:
        spec.load(data, splits=("train", "val"))
    assert line in str(refused.value)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("names: [a, b]", ("a", "b")),
        ("names: {0: a, 1: b}", ("a", "b")),
        ("names: {'1': b, '0': a}", ("a", "b")),
        ("names: {b: 1, a: 0}", ("a", "b")),
        ("names: a, b", ("a", "b")),
        ("names: a", ("a",)),
        ("nc: 2", ("0", "1")),
        ("nc: '2'\nnames: [a, b]", ("a", "b")),
        ("names: my.names", ("x y", "z")),
        ("NAMES: [a]\nNC: 1", ("a",)),
    ],
)
def test_names_in_every_form(tmp_path: Path, names: str, found: tuple[str, ...]) -> None:
    data = yolo(tmp_path, {"train/a": ""})
    (tmp_path / "my.names").write_text("x y\n\nz\n")
    data.write_text(f"train: images/train\n{names}\n")
    assert spec.load(data).names == found


HIDDEN = (".ipynb_checkpoints/a-checkpoint.png", "._a.png", "__MACOSX/._a.png", ".x/y/a.png")


@pytest.mark.parametrize("train", ["images/train", "images/train/**/*", "list.txt"])
def test_hidden_names_are_left_out_everywhere(tmp_path: Path, train: str) -> None:
    data = yolo(tmp_path, {"train/a": ROWS, "val/b": ROWS}, names=NAMES)
    for name in HIDDEN:
        draw_image(tmp_path / "images/train" / name)
    (tmp_path / "labels/train/.a.txt").write_text(ROWS)
    lines = "".join(f"images/train/{name}\n" for name in ("a.png", *HIDDEN))
    (tmp_path / "list.txt").write_text(lines)
    data.write_text(f"train: {train}\nval: images/val\nnames: [red, blue]\n")
    assert spec.load(data).images("train") == (tmp_path / "images/train/a.png",)
    assert main(["data", "check", str(data)]) == 0


def test_a_data_set_in_a_hidden_folder_is_read(tmp_path: Path) -> None:
    home = tmp_path / ".cache" / "set"
    data = yolo(home, {"train/a": ROWS})
    (home / "list.txt").write_text(f"{home}/images/train/a.png\n")
    data.write_text("train: [images/train, list.txt]\nnames: [red, blue]\n")
    assert len(spec.load(data).images("train")) == 1


@pytest.mark.parametrize("train", ["images/train", "images/train/*", "list.txt"])
def test_formats_that_are_not_read_are_counted(
    tmp_path: Path, train: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = yolo(tmp_path, {"train/a": ROWS, "val/b": ROWS}, names=NAMES)
    names = ["a.png", *(f"{i}.HEIC" for i in range(3)), "x.gif"]
    for name in names[1:]:
        (tmp_path / "images/train" / name).write_bytes(b"not read")
    (tmp_path / "list.txt").write_text("".join(f"images/train/{name}\n" for name in names))
    data.write_text(f"train: {train}\nval: images/val\nnames: [red, blue]\n")
    assert main(["data", "check", str(data)]) == 0
    told = capsys.readouterr()
    assert "train: 3 files are .heic, which is not read" in told.err
    assert "train: 1 file is .gif, which is not read" in told.err
    assert "format not read" in told.out


def test_listed_images_that_are_gone_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = yolo(tmp_path, {"train/a": ROWS, "val/b": ROWS}, names=NAMES)
    (tmp_path / "list.txt").write_text("images/train/a.png\nimages/train/gone.png\n")
    data.write_text("train: list.txt\nval: images/val\nnames: [red, blue]\n")
    assert main(["data", "check", str(data)]) == 0
    told = capsys.readouterr()
    assert "train: 1 listed images do not exist and are left out, the first in" in told.err
    assert "list.txt:2: image missing: images/train/gone.png" in told.out
    assert main(["data", "check", str(data), "--strict"]) == 2


def test_a_resumed_run_finds_its_data_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Paths relative to the working folder of the first start, which no file can tell."""
    from prune.train.run_log import Log

    start = tmp_path / "start"
    tiny.data(start / "set")
    data = tmp_path / "far" / "off" / "data.yaml"
    data.parent.mkdir(parents=True)
    data.write_text("train: set/images/train\nval: set/images/val\nnames: [red, blue]\n")
    monkeypatch.chdir(start)
    words = ["--cfg", str(tiny.cfg(tmp_path)), "--data", os.path.relpath(data), "--no-plots"]
    plain = ["--workers", "0", "--img-size", "64", "--batch-size", "6", "--device", "cpu"]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", stop)
        assert main(["train", *words, *plain, "--epochs", "2", "--project", "runs"]) == 130
    monkeypatch.chdir("/")
    capsys.readouterr()
    assert main(["train", "--resume", str(start / "runs/exp/weights/last.pt")]) == 0
    assert "train: 6 images, 12 boxes" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["a.xml", "annots/a.xml"])
def test_a_voc_folder_is_answered_with_its_conversion(tmp_path: Path, place: str) -> None:
    xml = tmp_path / "my data" / place
    xml.parent.mkdir(parents=True)
    xml.touch()
    with pytest.raises(DataError, match=r"prune data voc '.*my data' --out 'data/my data.yaml'"):
        spec.load(tmp_path / "my data")
