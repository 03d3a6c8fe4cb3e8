"""prune data shapes: the same images for the same seed, boxes that fit the shapes."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import snapshot

from prune.cli import main
from prune.data import ShapesConfig, check_data, draw_shapes, shapes, spec
from prune.data.check import check


def make(out: Path, *words: str) -> int:
    return main(["data", "shapes", "--out", str(out), "--images", "20", "--size", "64", *words])


def test_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    assert make(tmp_path / "a" / "s.yaml") == 0
    assert make(tmp_path / "b" / "s.yaml") == 0
    assert make(tmp_path / "c" / "s.yaml", "--seed", "1") == 0
    first, again, other = (snapshot(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert first != other


def test_result_is_a_sound_data_set_of_three_classes(tmp_path: Path) -> None:
    assert make(tmp_path / "s.yaml") == 0
    report = check(tmp_path / "s.yaml")
    assert report.problems == ()
    assert report.spec.names == ("circle", "square", "triangle")
    assert [count.images for count in report.counts.values()] == [14, 4, 2]


def test_second_run_replaces_the_first(tmp_path: Path) -> None:
    assert make(tmp_path / "s.yaml") == 0
    assert make(tmp_path / "s.yaml", "--split", "1,1,0") == 0
    splits = spec.load(tmp_path / "s.yaml").splits
    assert {name: len(files) for name, files in splits.items()} == {"train": 10, "val": 10}


def test_more_images_start_with_the_same_ones() -> None:
    few, many = (shapes.samples(n, size=64, seed=3) for n in (10, 40))
    for one, other in zip(few["train"], many["train"], strict=False):
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_every_class_and_several_sizes_occur() -> None:
    boxes = np.concatenate(
        [sample.boxes for sample in shapes.samples(40, size=96, seed=0)["train"]]
    )
    assert set(boxes[:, 0]) == {0, 1, 2}
    assert boxes[:, 3:].min() < 0.2
    assert boxes[:, 3:].max() > 0.35
    assert (boxes[:, 1:3] - boxes[:, 3:] / 2 >= -1e-6).all()
    assert (boxes[:, 1:3] + boxes[:, 3:] / 2 <= 1 + 1e-6).all()


@pytest.mark.parametrize("number", range(3), ids=shapes.SHAPES)
def test_box_is_the_tightest_around_what_is_drawn(number: int) -> None:
    rng = np.random.default_rng(number)
    outline = 50 + 20 * tuple(shapes.SHAPES.values())[number](rng)
    mask = shapes._mask(outline, 100)
    cx, cy, w, h = (100 * value for value in shapes._box(mask))
    low, high = outline.min(axis=0), outline.max(axis=0)
    drawn = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
    np.testing.assert_allclose(drawn, [*low, *high], atol=1.0)  # pixels are whole


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "16"], "size is 16"),
        (["--images", "1"], "1 images are too few"),
        (["--split", "1,0,0"], "too few for train and val"),
    ],
)
def test_too_little_to_draw_is_refused(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert make(tmp_path / "s.yaml", *words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_unwritable_target_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert make(tmp_path / "file" / "s.yaml") == 2
    said = capsys.readouterr()
    assert said.err.startswith("prune: cannot write")
    assert said.err.count("\n") == 1


def test_the_function_returns_what_the_command_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shapes.yaml"
    words = ["--out", str(out), "--images", "12", "--size", "48", "--json"]
    assert main(["data", "shapes", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    result = draw_shapes(ShapesConfig(out, images=12, size=48))
    assert json.loads(json.dumps(result.document())) == printed
    checked = check_data(out)
    assert not checked.fatal
    assert main(["data", "check", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(checked.document()))
