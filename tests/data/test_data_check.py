"""prune data check: counts, and everything wrong with its file and line."""

import json
from pathlib import Path

import pytest
from datasets import draw_image, yolo

from prune.cli import main
from prune.data.check import check

GOOD = "0 0.5 0.5 0.5 0.5\n"


def told(path: Path) -> list[tuple[str, str, int | None, bool]]:
    return [(p.kind, p.path.name, p.line, p.fatal) for p in check(path).problems]


def test_sound_data_has_no_remarks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = yolo(tmp_path, {"train/a": GOOD + "1 .2 .2 .1 .1\n", "val/b": GOOD})
    assert main(["data", "check", str(path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows == [
        ["train", "val"],
        ["-" * 20, "-" * 5, "---"],
        ["images", "1", "1"],
        ["broken", "0", "0"],
        ["without", "boxes", "0", "0"],
        ["without", "label", "file", "0", "0"],
        ["with", "empty", "one", "0", "0"],
        ["boxes", "2", "1"],
        ["a", "1", "1"],
        ["b", "1", "0"],
        ["small", "boxes", "2", "1"],
        ["medium", "boxes", "0", "0"],
        ["large", "boxes", "0", "0"],
    ]


def test_remarks_leave_the_data_usable(tmp_path: Path) -> None:
    bad = "0 .5 .5 0 .5\n0 .5 .5 .5 .5\n0 .9 .5 .4 .5\n0 .5 .5 .5 .5\n"
    path = yolo(tmp_path, {"train/a": bad, "train/b": "", "val/c": GOOD})
    draw_image(tmp_path / "images/val/copy.png", seed=0)  # the pixels of train/a
    draw_image(tmp_path / "images/train/twin.png", seed=1)  # the pixels of train/b
    (tmp_path / "labels/val/orphan.txt").write_text(GOOD)
    (tmp_path / "labels/val/classes.txt").write_text("a\nb\n")
    assert told(path) == [
        ("degenerate box", "a.txt", 1, False),
        ("box reaches out of the picture", "a.txt", 3, False),
        ("duplicate box", "a.txt", 4, False),
        ("image twice", "twin.png", None, False),
        ("image in two splits", "copy.png", None, False),
        ("label without image", "orphan.txt", None, False),
        ("class without boxes", "data.yaml", None, False),
    ]
    assert main(["data", "check", str(path)]) == 0
    assert check(path).counts["train"].without_boxes == 2


@pytest.mark.parametrize(
    ("line", "kind"),
    [("0 .5 .5 .5", "malformed label"), ("2 .5 .5 .5 .5", "malformed label")],
    ids=["columns", "class"],
)
def test_what_training_refuses_makes_exit_2(
    tmp_path: Path, line: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = yolo(tmp_path, {"train/a": f"{GOOD}{line}\n1 .5 .5 .1 .1\n", "val/b": GOOD})
    assert told(path) == [(kind, "a.txt", 2, True)]
    assert main(["data", "check", str(path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"prune: {path}: training would refuse 1 things; ")
    assert said.err.count("\n") == 1
    assert "a.txt:2: malformed label" in said.out


def test_broken_images_are_all_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = yolo(tmp_path, {"train/a": GOOD, "train/b": "1 .5 .5 .1 .1\n", "val/c": GOOD})
    (tmp_path / "images/train/a.png").write_bytes(b"")
    (tmp_path / "images/val/c.png").unlink()
    (tmp_path / "images/val/c.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "images/val/d.png").write_bytes((tmp_path / "images/train/b.png").read_bytes()[9:])
    draw_image(tmp_path / "images/val/e.png", seed=9)
    assert main(["data", "check", str(path), "--json"]) == 0
    assert main(["data", "check", str(path), "--json", "--strict"]) == 2
    plain, strict = capsys.readouterr().out.split("\n}\n", 1)
    document = json.loads(plain + "}")
    assert [(p["kind"], Path(p["file"]).name, p["fatal"]) for p in document["problems"]] == [
        ("broken image", "a.png", False),
        ("broken image", "c.png", False),
        ("broken image", "d.png", False),
        ("remark", "data.yaml", False),
    ]
    assert [p["fatal"] for p in json.loads(strict)["problems"]] == [True, True, True, False]
    assert [s["broken"] for s in document["splits"].values()] == [1, 2]
    assert document["splits"]["train"]["sizes"] == {"small": 1, "medium": 0, "large": 0}


def test_sizes_are_those_of_coco(tmp_path: Path) -> None:
    path = yolo(tmp_path, {"train/a": "0 .5 .5 .1 .1\n0 .5 .5 .2 .2\n0 .5 .5 .8 .8\n", "val/b": ""})
    draw_image(
        tmp_path / "images/train/a.png", size=(200, 200)
    )  # 20 x 20, 40 x 40, 160 x 160 pixels
    assert check(path).counts["train"].sizes == {"small": 1, "medium": 1, "large": 1}


def test_missing_split_is_told(tmp_path: Path) -> None:
    assert told(yolo(tmp_path, {"val/a": GOOD}, names=("a",))) == [
        ("no such split", "data.yaml", None, False)
    ]


@pytest.mark.parametrize("text", [None, "train: [", "names: [a]\n", "train: nowhere\nnames: [a]\n"])
def test_unusable_yaml_is_one_line(
    tmp_path: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / "data.yaml").write_text(text)
    assert main(["data", "check", str(tmp_path / "data.yaml")]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
