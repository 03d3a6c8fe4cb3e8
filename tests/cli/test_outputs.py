"""No command writes over what it reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import squares

from prune.cli import main

# What the words write over -> the words.
REFUSED = {
    "--plan": "apply --weights best.pt --plan p.json --out p.json",
    "--cfg": "whole --weights my.pt --cfg c.cfg --out c.cfg",
    "--names": "whole --weights my.pt --names n.txt --out n.txt",
    "--limits": "global --macs 0.7 --limits l.yaml --plan-out l.yaml",
    "--sensitivity": "global --macs 0.7 --sensitivity p.json --out p.json",
    "--compensate": "conv --weights best.pt --layer 1 --compensate d.yaml --out d.yaml",
    "--weights": "conv --weights best.pt --layer 1 --amount 0.5 --out ./sub/../best.pt",
    "--data": "export --weights best.pt --data d.yaml --out d.yaml",
    "--out": "conv --weights best.pt --layer 1 --amount 0.5 --out new.pt --plan-out new.pt",
    "a file to read": "bench a.onnx --png a.onnx",
    "--hyp": "train --data d.yaml --hyp runs/exp/hyp.yaml --project runs --exist-ok",
    "--config": "conv --weights best.pt --layer 1 --amount 0.5 --config o.yaml --out o.yaml",
    "--teacher": "train --data d.yaml --teacher runs/exp/run.json --project runs --exist-ok",
}
BESIDE = {
    "darknet": "export --weights a.pt --cfg o.cfg --format darknet --out o.weights",
    "whole": "whole --weights o.onnx --names a,b --out o.pt --onnx",
    "sensitivity": "sensitivity --data o.csv --out o.json",
    "quantize": "quantize --weights w-int8.onnx --data d.yaml --out w-int8.onnx",
}
FILES = ("p.json", "c.cfg", "n.txt", "l.yaml", "d.yaml", "best.pt", "my.pt", "a.onnx", "o.yaml")
MORE = ("runs/exp/hyp.yaml", "runs/exp/run.json", "o.cfg", "o.onnx", "o.csv", "w-int8.onnx")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    for name in (*FILES, *MORE):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("" if name == "o.yaml" else f"the user's {name}")


def everything() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = everything()
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert everything() == before
    return err


@pytest.mark.parametrize("owner", REFUSED)
def test_an_output_that_is_an_input_is_refused(
    owner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"is also {owner}; write to another file" in refused(REFUSED[owner].split(), capsys)


@pytest.mark.parametrize("case", BESIDE)
def test_what_is_written_beside_the_output_is_looked_at_too(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is also --" in refused(BESIDE[case].split(), capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bench a.onnx --png bars.onnx", "must end in .png, .svg or .pdf"),
        ("bench a.onnx --png bars", "must end in .png, .svg or .pdf"),
        ("sensitivity --data d.yaml --out s.csv", "must end in .json"),
    ],
)
def test_a_name_of_another_format_is_refused_before_the_work(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(words.split(), capsys)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_links_hide_nothing(link: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(link)
    link("p.json", "other.json")
    words = ("apply", "--weights", "best.pt", "--plan", "p.json", "--out", "other.json")
    assert "--out other.json is also --plan" in refused(words, capsys)


def test_images_in_the_folder_that_is_made_anew_are_not_its_source(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("d/images").mkdir(parents=True)
    Path("c.json").write_text("{}")
    words = ("data", "coco", "c.json", "--images", "d/images", "--out", "d.yaml")
    assert "lies in" in refused(words, capsys)


@pytest.mark.parametrize("links", [False, True], ids=["images", "links to images"])
def test_detect_does_not_draw_over_its_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], links: bool
) -> None:
    squares.data(tmp_path)
    source = Path("images/val")
    if links:
        shutil.move("images/val", "photos")
        source.mkdir()
        for path in Path("photos").iterdir():
            (source / path.name).symlink_to(path.absolute())
    words = ["detect", "--weights", "none.pt", "--source", str(source), "--exist-ok"]
    into = ["--project", "images", "--name", "val"]
    assert "is a file of --source" in refused([*words, *into], capsys)
    if not links:
        into = ["--project", ".", "--name", "labels/.."]
        shutil.move("labels/val", "l")
        shutil.rmtree("labels")
        shutil.move("l", "labels")
        shutil.move("images/val", "i")
        shutil.rmtree("images")
        shutil.move("i", "images")
        words[words.index(str(source))] = "images"
        assert "or its labels" in refused([*words, *into, "--nosave", "--save-txt"], capsys)


DATA = "train: t\nval: v.txt\nnames: classes.txt\n"
# What the words write over -> the words.
OF_DATA = {
    "an image": "conv --weights best.pt --layer 1 --compensate e.yaml --out t/images/a.png",
    "a new image": "global --macs 0.7 --weights best.pt --data e.yaml --out t/images/new.jpg",
    "labels": "global --macs 0.7 --weights best.pt --data e.yaml --plan-out t/labels/a.txt",
    "a list": "export --weights best.pt --data e.yaml --out v.txt",
    "names": "export --weights best.pt --data e.yaml --out ./sub/../classes.txt",
    "among images": "val --weights best.pt --data e.yaml --project t --name images --exist-ok",
}


@pytest.mark.parametrize("case", OF_DATA)
def test_nothing_of_a_data_set_is_written_over(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("t/images", "t/labels"):
        Path(folder).mkdir(parents=True)
    Path("t/images/a.png").write_bytes(b"an image")
    Path("t/labels/a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    Path("v.txt").write_text("t/images/a.png\n")
    Path("classes.txt").write_text("cat\n")
    Path("e.yaml").write_text(DATA + "unknown: key\n")
    assert "the data set e.yaml" in refused(OF_DATA[case].split(), capsys)
