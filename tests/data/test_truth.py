"""Where the label file of an image lies, what its rows mean, and nothing is learnt from none."""

import os
from pathlib import Path

import pytest
import tiny
from datasets import draw_image, yolo

from prune.cli import main
from prune.data import spec
from prune.data.label_files import label_files, label_path
from prune.data.labels import Form, scan
from prune.data.truth import expect_truth, read_truth
from prune.errors import DataError

GOOD = "0 0.5 0.5 0.5 0.5\n"


def touched(path: Path, text: str = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("images/train/a.jpg", "labels/train/a.txt"),
        ("Images/train/a.jpg", "Labels/train/a.txt"),
        ("IMAGES/a.jpg", "labels/a.txt"),
        ("JPEGImages/a.jpg", "labels/a.txt"),
        ("img/train/a.jpg", "labels/train/a.txt"),
        ("train/images/a.jpg", "train/labels/a.txt"),
        ("images/train/a.jpg", "images/train/a.txt"),
        ("pics/a.jpg", "pics/a.txt"),
        ("images/project/pics/a.jpg", "images/project/pics/a.txt"),
        ("images/train/img/a.jpg", "labels/train/img/a.txt"),
        ("images/project/images/a.jpg", "images/project/labels/a.txt"),
        ("a.b/images/a.b.jpg", "a.b/labels/a.b.txt"),
        ("images/a.jpg", "labels/a.TXT"),
        ("images/\u00e9.jpg", "labels/e\u0301.txt"),
        ("images/e\u0301.jpg", "labels/\u00e9.txt"),
    ],
)
def test_label_file_is_found_wherever_tools_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, label: str
) -> None:
    wanted = touched(tmp_path / label)
    assert label_path(tmp_path / image) == wanted
    monkeypatch.chdir(touched(tmp_path / image).parent)
    assert label_path(Path(Path(image).name)) == wanted


def test_labels_folder_comes_before_a_label_beside_the_image(tmp_path: Path) -> None:
    beside = touched(tmp_path / "images" / "a.txt")
    assert label_path(tmp_path / "images" / "a.jpg") == beside
    inside = touched(tmp_path / "labels" / "a.txt")
    assert label_files(tmp_path / "images" / "a.jpg") == [inside, beside]


def test_same_description_means_the_same_data_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "images" / "project"
    draw_image(project / "pics" / "a.png")
    touched(project / "pics" / "a.txt")
    data = touched(project / "data.yaml", "train: pics\nval: pics\nnames: [x]\n")
    found = []
    for folder in (project, project.parent, tmp_path, Path("/")):
        monkeypatch.chdir(folder)
        for path in (data, Path(os.path.relpath(data))):
            loaded = spec.load(path)
            found.append((loaded.splits, read_truth(loaded.images("train"), loaded.form).count))
    assert found[0] == ({"train": (project / "pics/a.png",), "val": (project / "pics/a.png",)}, 1)
    assert all(each == found[0] for each in found)


def test_images_without_label_file_are_counted_apart_from_empty_ones(tmp_path: Path) -> None:
    images = [tmp_path / f"{name}.png" for name in "abcd"]
    touched(tmp_path / "a.txt")
    touched(tmp_path / "b.txt", "\n")
    truth = read_truth(images, Form(1))
    assert str(truth) == "4 images, 1 box, 2 images without a label file, 1 with an empty one"


POSE = "0 0.5 0.5 0.4 0.6 0.9 0.1 0.95 0.12\n"  # two keypoints x y, outside the box as it happens
SEEN = "0 0.5 0.5 0.4 0.6 0.4 0.4 2 0.6 0.5 0\n"  # two keypoints x y visibility
TRIPLE = "0 0.5 0.5 0.4 0.6 0.4 0.4 2 0.6 0.5 0 0 0 0\n"
TURNED = "0 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5\n"  # a square that stands on a corner
BOX = [0, 0.5, 0.5, 0.4, 0.6]
AROUND = [0, 0.5, 0.5, 0.6, 0.6]


@pytest.mark.parametrize(
    ("text", "keypoints", "box", "kind"),
    [
        (POSE, (2, 2), BOX, "pose"),
        (SEEN, (2, 3), BOX, "pose"),
        (SEEN, None, BOX, "pose"),
        (TRIPLE, None, BOX, "pose"),
        (GOOD, (2, 3), [0, 0.5, 0.5, 0.5, 0.5], "box"),
        (TURNED, None, AROUND, "oriented box"),
        (TURNED, (0, 0), AROUND, "oriented box"),
        ("0 -0.2 0.2 0.8 0.2 0.8 0.8 -0.2 0.8", None, [0, 0.4, 0.5, 0.8, 0.6], "oriented box"),
        ("0 0.2 0.2 0.8 0.2 0.5 0.8", None, AROUND, "polygon"),
    ],
)
def test_what_a_row_means(
    tmp_path: Path,
    text: str,
    keypoints: tuple[int, int] | None,
    box: list[float],
    kind: str,
) -> None:
    found = scan(touched(tmp_path / "a.txt", text), Form(1, keypoints=keypoints))
    assert found.boxes.tolist()[0] == pytest.approx(box)
    assert list(found.kinds) == [kind]


@pytest.mark.parametrize(
    ("text", "keypoints", "said"),
    [
        (POSE, (17, 3), "9 columns; with kpt_shape: [17, 3] a row has 5 (class cx cy w h) or 56"),
        ("0 0.5 0.5 0.4 0.6 0.4 0.4 0.7\n", None, "8 columns; a box has 5"),
        ("0 5 2 8 5 5 8 2 5\n", None, "5 is outside 0..1"),
    ],
)
def test_rows_that_mean_nothing_are_refused(
    tmp_path: Path, text: str, keypoints: tuple[int, int] | None, said: str
) -> None:
    (problem,) = scan(touched(tmp_path / "a.txt", text), Form(1, keypoints=keypoints)).problems
    assert problem.fatal
    assert said in str(problem)


@pytest.mark.parametrize(
    ("rows", "shape"),
    [
        (["0 0.5 0.5 0.4 0.6 0.4 0.4 0.6 0.7"], "kpt_shape: [2, 2]"),
        (["0 0.5 0.5 0.4 0.6 0.4 0.4 1 0.6 0.5 0", "0 0.5 0.5 0.2 0.2 0 0 0 0.5 0.5 1"], "[2, 3]"),
        (["0 0.5 0.5 0.4 0.6 0.4 0.4 0.6 0.7", TURNED], ""),
        (["0 0.5 0.5 0.4 0.6 0.4 0.4 0.6 0.7", "0 0.2 0.2 0.8 0.2 0.5 0.8"], ""),
        ([TURNED], ""),
    ],
    ids=["points", "flags", "one that is none", "as many columns as they like", "oriented"],
)
def test_rows_that_may_be_poses_or_polygons_are_refused_by_name(
    tmp_path: Path, rows: list[str], shape: str
) -> None:
    images = [tmp_path / f"{number}.png" for number in range(len(rows))]
    for image, row in zip(images, rows, strict=True):
        touched(image.with_suffix(".txt"), row)
    truth = read_truth(images, Form(1))
    if shape:
        with pytest.raises(DataError, match="may be pose labels") as refused:
            expect_truth(truth, images, where=tmp_path / "data.yaml", split="train")
        assert shape in str(refused.value)
    expect_truth(
        read_truth(images, Form(1, keypoints=(0, 0))), images, where=tmp_path / "d", split="train"
    )
    if not shape:
        expect_truth(truth, images, where=tmp_path / "data.yaml", split="train")


def moved(folder: Path) -> None:
    (folder / "labels").rename(folder / "annotations")


def emptied(folder: Path) -> None:
    for path in (folder / "labels").rglob("*.txt"):
        path.write_text("")


COMMANDS = {
    "train": ["train", "--cfg", "tiny32.cfg", "--epochs", "1", "--workers", "0"],
    "val": ["val", "--weights", "dense.pt", "--no-plots"],
    "check": ["data", "check"],
    "taylor": ["global", "--weights", "dense.pt", "--macs", "0.9", "--criterion", "taylor"],
    "sensitivity": ["sensitivity", "--weights", "dense.pt"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_nothing_is_learnt_scored_or_pruned_without_label_files(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.data(tmp_path, images=3)
    tiny.weights(tmp_path)
    tiny.cfg(tmp_path)
    moved(tmp_path)
    data = ["data.yaml"] if command[0] == "data" else ["--data", "data.yaml"]
    assert main([*command, *data]) == 2
    said = capsys.readouterr().err
    split = "val" if command[0] in ("val", "sensitivity") else "train"
    assert f"no image of {split} has a label file" in said
    assert f"expected e.g. {tmp_path}/labels/{split}/0.txt" in said
    assert f"label files of these images lie in {tmp_path}/annotations/{split}" in said
    assert not (tmp_path / "runs").exists()


def test_training_needs_a_box_and_tells_what_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    yolo(tmp_path, {f"{split}/{i}": "" for split in ("train", "val") for i in range(3)})
    tiny.cfg(tmp_path)
    words = ["train", "--cfg", "tiny32.cfg", "--data", "data.yaml", "--epochs", "1", "--no-plots"]
    plain = ["--workers", "0", "--img-size", "64", "--batch-size", "2", "--device", "cpu"]
    assert main([*words, *plain]) == 2
    assert "train holds no box to learn from (3 images, 0 boxes, " in capsys.readouterr().err
    assert main(["data", "check", "data.yaml"]) == 2
    assert "no boxes: train: 3 images, 0 boxes, " in capsys.readouterr().out
    (tmp_path / "labels/train/0.txt").write_text(GOOD)
    for name in ("val/0", "val/1"):
        (tmp_path / f"labels/{name}.txt").unlink()
    assert main([*words, *plain]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert "train: 3 images, 1 box, 0 images without a label file, 2 with an empty one" in lines
    assert "val: 3 images, 0 boxes, 2 images without a label file, 1 with an empty one" in lines
    warned = [line for line in lines if "2 of 3 images have no label file" in line]
    assert len(warned) == 1
