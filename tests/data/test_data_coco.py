"""prune data coco: the same boxes as from VOC, whatever ids and folders the files use."""

import json
from pathlib import Path

import pytest
from datasets import SIZE, coco, draw_image, snapshot, voc, xml

from prune.cli import main
from prune.data import CocoConfig, convert_coco, labels, spec

CATEGORIES = {7: "dog", 3: "cat"}


def box(x: float, y: float, w: float, h: float, **more: object) -> dict[str, object]:
    return {"image_id": 10, "category_id": 3, "bbox": [x, y, w, h]} | more


def one(tmp_path: Path, *annotations: dict[str, object], name: str = "instances_train") -> Path:
    """Write a file with one image, in the layout of the original COCO download."""
    draw_image(tmp_path / "coco" / "train" / "a.png")
    path = tmp_path / "coco" / "annotations" / f"{name}.json"
    return coco(path, ["a.png"], annotations or (box(0, 0, *SIZE),), CATEGORIES)


def convert(tmp_path: Path, *words: str | Path) -> int:
    return main(["data", "coco", *map(str, words), "--out", str(tmp_path / "out" / "d.yaml")])


def read(tmp_path: Path, key: str) -> list[list[float]]:
    rows = labels.read(tmp_path / f"out/d/labels/{key}.txt", classes=9)
    return [[float(value) for value in row] for row in rows]


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], *words: str | Path) -> str:
    before = snapshot(tmp_path)
    assert convert(tmp_path, *words) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert snapshot(tmp_path) == before
    return said.err


def test_same_boxes_come_out_as_from_voc(tmp_path: Path) -> None:
    corners = [("cat", (1, 1, 20, 30)), ("dog", (4, 5, 39, 8))]
    files = {"a": xml(corners), "b": xml([("cat", (2, 2, 9, 9))])}
    source = voc(tmp_path / "voc", files, train="a\n", val="b\n")
    assert main(["data", "voc", str(source), "--out", str(tmp_path / "v.yaml")]) == 0
    here = source / "JPEGImages"
    entries = [box(0, 0, 20, 30), box(3, 4, 36, 4, category_id=7)]
    train = coco(here / "instances_train.json", ["a.png"], entries, CATEGORIES)
    val = coco(here / "instances_val.json", ["b.png"], [box(1, 1, 8, 8)], CATEGORIES)
    assert main(["data", "coco", str(train), str(val), "--out", str(tmp_path / "c.yaml")]) == 0
    made = [{k: v for k, v in snapshot(tmp_path / x).items() if k != "written.json"} for x in "vc"]
    assert made[0] == made[1]
    names = [spec.load(tmp_path / f"{x}.yaml").names for x in "vc"]
    assert names == [("cat", "dog")] * 2  # ids 3 and 7 became 0 and 1


def test_names_that_no_box_has_are_told_beside_those_that_boxes_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(tmp_path, capsys, one(tmp_path), "--names", "Cat")
    assert said.endswith("instances_train.json: no box is of Cat; the boxes are of cat\n")


def test_crowds_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowd = box(0, 0, 9, 9, iscrowd=1, segmentation={"counts": "x", "size": [1, 1]})
    assert convert(tmp_path, one(tmp_path, box(0, 0, 10, 15), crowd, crowd), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [(p["kind"], p["detail"]) for p in document["problems"]] == [
        ("crowd box left out", "cat at (0, 0, 9, 9), annotation 101"),
        ("crowd box left out", "cat at (0, 0, 9, 9), annotation 102"),
        ("class without boxes", "dog"),
    ]
    assert read(tmp_path, "train/a") == [[0, 0.125, 0.25, 0.25, 0.5]]


@pytest.mark.parametrize("place", [".", "images", "..", "../train", "../images/train2017", "train"])
def test_images_are_found_in_the_usual_places(tmp_path: Path, place: str) -> None:
    path = tmp_path / "set" / "annotations" / "instances_train2017.json"
    coco(path, ["a.png"], [box(0, 0, 9, 9)], CATEGORIES)
    draw_image(path.parent / place / "a.png")
    assert convert(tmp_path, path) == 0


def test_images_elsewhere_are_found_when_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = coco(tmp_path / "x/y/train.json", ["a.png"], [box(0, 0, 9, 9)], CATEGORIES)
    draw_image(tmp_path / "far" / "a.png")
    assert "give the images' folder as --images" in refused(tmp_path, capsys, path)
    assert "no image found" in refused(tmp_path, capsys, path, "--images", tmp_path / "x")
    assert convert(tmp_path, path, "--images", tmp_path / "far") == 0


def test_folder_names_the_split_where_the_file_does_not(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        draw_image(tmp_path / split / "a.png")
        coco(tmp_path / split / "_annotations.coco.json", ["a.png"], [box(0, 0, 9, 9)], CATEGORIES)
    files = [tmp_path / split / "_annotations.coco.json" for split in ("test", "valid", "train")]
    assert convert(tmp_path, *files) == 0
    assert list(spec.load(tmp_path / "out/d.yaml").splits) == ["train", "val", "test"]


def test_single_file_without_a_split_is_dealt_out(tmp_path: Path) -> None:
    names = [f"p{i}.png" for i in range(10)]
    for i, name in enumerate(names):
        draw_image(tmp_path / "set" / name, seed=i)
    path = coco(tmp_path / "set/all.json", names, [box(0, 0, 9, 9)], CATEGORIES)
    assert convert(tmp_path, path) == 0
    loaded = spec.load(tmp_path / "out/d.yaml")
    assert [len(loaded.images(split)) for split in spec.SPLITS] == [8, 1, 1]


def test_same_name_in_two_folders_stays_two_images(tmp_path: Path) -> None:
    for i, folder in enumerate("ab"):
        draw_image(tmp_path / "set" / folder / "x.png", seed=i)
    path = tmp_path / "set/train.json"
    coco(path, ["a/x.png", "b/x.png"], [box(0, 0, 9, 9)], CATEGORIES)
    assert convert(tmp_path, path) == 0
    names = [p.name for p in spec.load(tmp_path / "out/d.yaml").images("train")]
    assert names == ["a_x.png", "b_x.png"]


def test_one_image_in_two_files_of_a_split_is_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = one(tmp_path, box(0, 0, 9, 9), name="train_a")
    second = one(tmp_path, box(0, 0, 9, 9), box(1, 1, 5, 5), name="train_b")
    assert convert(tmp_path, first, second) == 0
    assert "note: 1 image is listed twice; the boxes are joined" in capsys.readouterr().err
    assert len(read(tmp_path, "train/a")) == 2


def test_categories_of_one_name_become_one_class(tmp_path: Path) -> None:
    draw_image(tmp_path / "a.png")
    path = coco(
        tmp_path / "train.json",
        ["a.png"],
        [box(0, 0, 9, 9, category_id=0), box(0, 0, 5, 5, category_id=1)],
        {0: "raccoon", 1: "raccoon"},
    )
    assert convert(tmp_path, path) == 0
    assert [row[0] for row in read(tmp_path, "train/a")] == [0, 0]
    assert spec.load(tmp_path / "out/d.yaml").names == ("raccoon",)


def test_odd_annotations_are_told_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one(
        tmp_path,
        box(0, 0, 9, 9, image_id=99),
        box(0, 0, 9, 9, category_id=[]),
        box(5, 5, 0, 9),
        box(30, 0, 20, 9),
        box(1, 1, 5, 5),
    )
    assert convert(tmp_path, path, "--json", "--names", "cat") == 0
    told = [(p["kind"], p["detail"]) for p in json.loads(capsys.readouterr().out)["problems"]]
    assert told == [
        ("annotation of an unknown image", "annotation 100: image_id 99"),
        ("annotation of an unknown category", "annotation 101: category_id []"),
        ("degenerate box", "cat at (5, 5, 5, 14), annotation 102"),
        ("box reaches out of the picture", "cat at (30, 0, 50, 9), annotation 103"),
    ]
    assert len(read(tmp_path, "train/a")) == 2


@pytest.mark.parametrize(
    "bbox",
    [None, [], [1, 2, 3], "1 2 3 4", [1, 2, 3, "four"], [0, 0, float("nan"), 1], [10**400] * 4],
)
def test_box_that_is_not_four_numbers_is_left_out_and_stops_it_if_strict(
    tmp_path: Path, bbox: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one(tmp_path, box(0, 0, 9, 9), box(0, 0, 9, 9) | {"bbox": bbox})
    said = refused(tmp_path, capsys, path, "--strict")
    assert "broken annotation: annotation 101: bbox is" in said
    assert convert(tmp_path, path) == 0
    assert "note: 1 box is broken and left out" in capsys.readouterr().err
    assert len(read(tmp_path, "train/a")) == 1


def test_broken_image_is_left_out_and_stops_it_if_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = one(tmp_path)
    draw_image(tmp_path / "coco/val/b.png")
    val = coco(tmp_path / "coco/annotations/val.json", ["b.png"], [box(0, 0, 9, 9)], CATEGORIES)
    (tmp_path / "coco/train/a.png").write_bytes(b"no picture")
    assert "train/a.png: broken image" in refused(tmp_path, capsys, path, val, "--strict")
    assert convert(tmp_path, path, val) == 0
    assert "note: 1 image is broken and left out" in capsys.readouterr().err
    assert list(spec.load(tmp_path / "out/d.yaml").splits) == ["val"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot read"),
        ("", "train.json:1: broken JSON"),
        ('{"images":\n [}', "train.json:2: broken JSON"),
        ("[" * 100_000, "nested more than 100 levels deep"),
        ("[]", "is not a COCO file: it contains a list"),
        ("{}", "has no list of categories"),
        ('{"categories": [], "images": 3, "annotations": []}', "has no list of images"),
        ('{"categories": [], "images": [{"id": 1}], "annotations": []}', "has no file_name"),
        ('{"categories": [{"id": 1}], "images": [], "annotations": []}', "has no name"),
        ('{"categories": [{"name": "x"}], "images": [], "annotations": []}', "id is None"),
        ('{"categories": [], "images": [], "annotations": []}', "images: is empty"),
    ],
)
def test_file_that_is_no_coco_file_is_one_line(
    tmp_path: Path, text: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.json"
    if text is not None:
        path.write_text(text)
    assert said in refused(tmp_path, capsys, path)


def test_files_that_disagree_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_image(tmp_path / "a.png")
    train = coco(tmp_path / "train.json", ["a.png"], [box(0, 0, 9, 9)], {3: "cat"})
    val = coco(tmp_path / "val.json", ["a.png"], [box(0, 0, 9, 9)], {3: "dog"})
    assert "category 3 is 'dog' here, 'cat' in" in refused(tmp_path, capsys, train, val)
    other = coco(tmp_path / "more.json", ["a.png"], [box(0, 0, 9, 9)], {3: "cat"})
    folder = tmp_path / "plain"  # pytest's own folder is named after this test
    folder.mkdir()
    for path in (train, other):
        path.rename(folder / path.name)
    draw_image(folder / "a.png")
    said = refused(tmp_path, capsys, folder / "train.json", folder / "more.json")
    assert "more.json: the name does not contain its split" in said


def test_nothing_to_learn_from_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no image with a usable box" in refused(tmp_path, capsys, one(tmp_path, box(5, 5, 0, 0)))


def test_numbers_written_as_text_are_numbers(tmp_path: Path) -> None:
    texts: dict[str, object] = {
        "image_id": "10",
        "category_id": "3",
        "bbox": ["0", "0.0", "10", "15.0"],
    }
    path = one(tmp_path, texts | {"iscrowd": "0"}, box(4, 4, 8, 8, iscrowd="1"))
    document = json.loads(path.read_text())
    document["images"][0] |= {"width": str(2 * SIZE[0]), "height": str(2 * SIZE[1])}
    path.write_text(json.dumps(document))
    assert convert(tmp_path, path) == 0
    assert read(tmp_path, "train/a") == [[0, 0.0625, 0.125, 0.125, 0.25]]  # the crowd is left out


def test_the_function_returns_what_the_command_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotation = one(tmp_path, box(-5, 0, 20, 9), box(1, 1, 5, 5))
    assert convert(tmp_path, annotation, "--json") == 0
    printed, logged = capsys.readouterr()
    lines: list[str] = []
    config = CocoConfig(out=tmp_path / "out" / "d.yaml", files=((None, annotation),))
    result = convert_coco(config, report=lines.append)
    assert json.loads(json.dumps(result.document())) == json.loads(printed)
    assert result.problems and lines == logged.splitlines()
