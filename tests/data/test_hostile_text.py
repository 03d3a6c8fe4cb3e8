"""Broken and hostile text files of data sets: one line with the file's name, and no waiting."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from prune.data import bases, labels, spec
from prune.data.coco import Source, read
from prune.data.convert import Options
from prune.data.labels import Form
from prune.data.voc_xml import parse
from prune.data.yolo import write
from prune.errors import DataError, InputError

NAMES = "names: [a, b]\n"
DEEP = "[" * 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Hold one image with its label."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return tmp_path


def _described(folder: Path, text: str) -> Path:
    path = folder / "d.yaml"
    path.write_text(text)
    return path


BROKEN = {
    "deep": (f"train: {DEEP}", "d.yaml:1: broken YAML: it is nested"),
    "long": (f"train: {'a' * 300}\n{NAMES}", "does not exist"),
    "longer": (f"train: {'a' * 5000}\n{NAMES}", "d.yaml: train: is 'aaa"),
    "long image": (f"train: {'a' * 300}.jpg\n{NAMES}", "does not exist"),
    "long list": (f"train: {'a' * 300}.txt\n{NAMES}", "does not exist"),
    "long glob": (f"train: {'a' * 300}*\n{NAMES}", "does not exist"),
    "glob above": (f"train: {'a' * 300}/*.jpg\n{NAMES}", "does not exist"),
    "nul": ('train: "a\\0b"\n' + NAMES, "does not exist"),
    "long root": (f"path: {'a' * 300}\ntrain: x\n{NAMES}", "does not exist"),
    "count": ("train: images\nnc: 1000000000\n", "d.yaml: nc is 1000000000; it must be"),
    "digits": (f"train: images\nnc: '{'9' * 5000}'\n", "d.yaml: nc is '999"),
    "keys": (f"train: images\nnames: {{? '{'9' * 5000}' : a}}\n", "must be numbered"),
    "nested": (f"train: images\nnames: [{'[' * 50}{']' * 50}]\n", "in names: is no text"),
    "surrogate": ('train: images\nnames: ["\\ud800"]\n', "d.yaml:2: broken YAML: '\\ud800' has"),
    "list": ("train: [[images]]\n" + NAMES, "train: is ['images']; it must be a path"),
    "long names": (f"train: images\nnames: {'a' * 300}.names\n", "d.yaml: names: aaa"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("text", "said"), BROKEN.values(), ids=BROKEN)
def test_a_description_that_cannot_be_meant_is_one_line(text: str, said: str, folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        spec.load(_described(folder, text))
    assert said in str(caught.value)
    assert str(folder / "d.yaml") in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert "\n" not in str(caught.value)


def test_what_a_description_shows_of_itself_is_short(folder: Path) -> None:
    laughs = "\n".join(f"k{n}: {'x' * 1000}" for n in range(100))
    found = spec.load(_described(folder, f"train: images\n{NAMES}{laughs}\n"))
    assert len(found.splits["train"]) == 1


def test_a_line_of_a_list_that_no_file_can_have_is_missing(folder: Path) -> None:
    (folder / "l.txt").write_text(f"images/a.png\n{'a' * 5000}.png\nb\0.png\n")
    found = spec.load(_described(folder, f"train: l.txt\n{NAMES}"))
    assert [image.name for image in found.splits["train"]] == ["a.png"]
    assert [problem.line for problem in found.remarks] == [2, 3]
    assert all(len(str(problem)) < 1000 for problem in found.remarks)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_no_reader_of_a_data_set_waits_for_a_pipe_or_reads_a_device(
    make: Callable[[Path], None], folder: Path
) -> None:
    odd = folder / "odd"
    make(odd)
    for name in ("l.txt", "n.names", "x.data", "a.xml", "c.json", "y.yaml"):
        (folder / name).symlink_to(odd)
    for text in (f"train: l.txt\n{NAMES}", "train: images\nnames: n.names\n"):
        with pytest.raises(DataError, match="a regular file is needed"):
            spec.load(_described(folder, text))
    for name in ("x.data", "y.yaml"):
        with pytest.raises(DataError, match="a regular file is needed"):
            spec.load(folder / name)
    (problem,) = labels.scan(odd, Form(2)).problems
    assert problem.fatal
    assert str(problem).endswith("a regular file is needed")
    with pytest.raises(DataError, match="a regular file is needed"):
        read([Source(folder / "c.json")], Options())
    assert "a regular file is needed" in str(parse(folder / "a.xml"))
    with pytest.raises(InputError, match="a regular file is needed"):
        write(folder / "y.yaml", names=["a"], splits={}, made_by="a test")


@pytest.mark.parametrize(
    "line", ["9" * 5000 + " 0 0 0 0", "1e308 1 1 1 1", "\x1b[31m 0 0 0 0", "x" * 10**6, "0 1e999"]
)
def test_a_malformed_label_is_shown_in_bounds(line: str, folder: Path) -> None:
    path = folder / "labels" / "a.txt"
    path.write_text(line)
    (problem,) = labels.scan(path, Form(2)).problems
    assert problem.line == 1
    assert len(problem.detail) < 300
    assert str(problem).isprintable()


def _coco(folder: Path, **changes: object) -> Path:
    document: dict[str, object] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = folder / "images" / "train.json"
    path.write_text(json.dumps(document | changes))
    return path


def test_an_image_is_called_so_that_its_data_set_reads_it(folder: Path) -> None:
    """The image of a%2Epng, which ends like none, is a.png."""
    path = _coco(folder, images=[{"id": 1, "file_name": "a%2Epng", "width": 8, "height": 8}])
    (sample,) = read([Source(path)], Options()).splits["train"]
    assert sample.file == "a.png"


@pytest.mark.parametrize("size", [(-8, 8), (0, 8), (1e300, 1e300), (float("nan"), 8)])
def test_a_size_that_no_image_has_changes_no_box(size: tuple[float, float], folder: Path) -> None:
    image = {"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}
    found = read([Source(_coco(folder, images=[image]))], Options())
    assert found.splits["train"][0].boxes.tolist() == [[0, 0.375, 0.375, 0.5, 0.5]]
    assert found.problems


def test_broken_values_of_a_coco_file_are_shown_in_bounds(folder: Path) -> None:
    deep: object = "x" * 1000
    for _ in range(40):
        deep = [deep] * 2 if _ < 8 else [deep]
    box = {"id": deep, "image_id": deep, "category_id": 1, "bbox": deep}
    good = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4]}
    found = read([Source(_coco(folder, annotations=[box, good]))], Options())
    assert all(len(str(problem)) < 800 for problem in found.problems)
    with pytest.raises(DataError, match="an entry's id is") as caught:
        read([Source(_coco(folder, categories=[{"id": deep, "name": "x"}]))], Options())
    assert len(str(caught.value)) < 800


def test_a_pattern_longer_than_any_path_matches_nothing_at_once() -> None:
    began = time.process_time()
    assert not list(bases.glob(Path("/" + "[" * 100_000)))
    assert time.process_time() - began < 1
