"""prune data voc and coco: public data sets as their makers laid them out, rebuilt small."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from datasets import SIZE, coco, draw_image, xml

from prune.cli import main
from prune.data import annotation, coco_files, labels, notes, spec, voc
from prune.data import coco as coco_module
from prune.data import convert as convert_module

Splits = dict[str, list[str]]

DOG = xml([("dog", (1, 1, 20, 30))])
CAT = xml([("cat", (1, 1, 20, 30))])
CATEGORIES = {1: "cat", 2: "dog"}


def convert(tmp_path: Path, kind: str, *words: str | Path) -> int:
    return main(["data", kind, *map(str, words), "--out", str(tmp_path / "out" / "d.yaml")])


def read(tmp_path: Path, key: str) -> list[list[float]]:
    rows = labels.read(tmp_path / f"out/d/labels/{key}.txt", classes=9)
    return [[float(value) for value in row] for row in rows]


def splits(tmp_path: Path) -> Splits:
    loaded = spec.load(tmp_path / "out/d.yaml")
    return {name: [path.name for path in paths] for name, paths in loaded.splits.items()}


def pairs(root: Path, annotations: str, images: str, stems: str, text: str = CAT) -> None:
    """Write an XML file and an image for each stem."""
    for stem in stems.split():
        path = root / annotations / f"{stem}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        draw_image(root / images / f"{stem}.jpg", seed=sum(stem.encode()))


def kangaroo(root: Path) -> None:
    pairs(root, "annots", "images", "00001 00002 00003")


def pets(root: Path) -> None:
    """Oxford-IIIT pets: masks have the same stems, and macOS files lie among them."""
    for stem in ("Abyssinian_1", "Abyssinian_2", "beagle_1"):
        text = DOG.replace("<annotation>", f"<annotation><filename>{stem}.jpg</filename>")
        pairs(root, "annotations/xmls", "images", stem, text)
        draw_image(root / "annotations/trimaps" / f"{stem}.png")
        (root / "annotations/trimaps" / f"._{stem}.png").write_bytes(b"\x00\x05\x16\x07")
        (root / "annotations/xmls" / f"._{stem}.xml").write_bytes(b"\x00\x05\x16\x07")


def roboflow(root: Path) -> None:
    """XML files beside the images; only valid shows a dog, which comes first in no other split."""
    pairs(root, "train", "train", "a_jpg.rf.01 b_jpg.rf.02")
    pairs(root, "valid", "valid", "c_jpg.rf.03", DOG)
    pairs(root, "test", "test", "d_jpg.rf.04")
    (root / "README.roboflow.txt").write_text("")


def plates(root: Path) -> None:
    pairs(root, "train/annots", "train/images", "1 2")
    pairs(root, "valid/annots", "valid/images", "1", DOG)


def cards(root: Path) -> None:
    """Edje cards: train and test, and nothing to validate on."""
    pairs(root, "images/train", "images/train", " ".join(f"cam{i}" for i in range(10)))
    pairs(root, "images/test", "images/test", "cam20 cam21")


def parts(root: Path) -> None:
    """Splits below one folder of XML files and one of images, with the same stems."""
    for split, text in (("train", CAT), ("val", DOG)):
        pairs(root, f"xmls/{split}", f"imgs/{split}", "1 2", text)


def devkit(root: Path) -> None:
    """VOCdevkit: two years, each with lists of its own."""
    for year, train, val in (("VOC2007", "000001", "000002"), ("VOC2012", "2008_1", "2008_2")):
        pairs(root / year, "Annotations", "JPEGImages", f"{train} {val}")
        lists = root / year / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text(f"{train}\n")
        (lists / "val.txt").write_text(f"{val}\n")


def jupyter(root: Path) -> None:
    kangaroo(root)
    pairs(root, ".ipynb_checkpoints", ".ipynb_checkpoints", "00001-checkpoint")
    pairs(root, "__MACOSX/annots", "__MACOSX/images", "00001")


VOC: dict[str, tuple[Callable[[Path], None], Splits | int, tuple[str, ...]]] = {
    "kangaroo": (kangaroo, 3, ("cat",)),
    "pets": (pets, 3, ("dog",)),
    "roboflow": (
        roboflow,
        {
            "train": ["a_jpg.rf.01.jpg", "b_jpg.rf.02.jpg"],
            "val": ["c_jpg.rf.03.jpg"],
            "test": ["d_jpg.rf.04.jpg"],
        },
        ("cat", "dog"),
    ),
    "license plates": (plates, {"train": ["1.jpg", "2.jpg"], "val": ["1.jpg"]}, ("cat", "dog")),
    "parts": (parts, {"train": ["1.jpg", "2.jpg"], "val": ["1.jpg", "2.jpg"]}, ("cat", "dog")),
    "VOCdevkit": (
        devkit,
        {"train": ["000001.jpg", "2008_1.jpg"], "val": ["000002.jpg", "2008_2.jpg"]},
        ("cat",),
    ),
    "Jupyter and macOS": (jupyter, 3, ("cat",)),
}


@pytest.mark.parametrize("layout", VOC)
def test_voc_layout_is_read_as_it_is(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build, expected, names = VOC[layout]
    build(tmp_path / "set")
    assert convert(tmp_path, "voc", tmp_path / "set") == 0
    assert "left out" not in capsys.readouterr().err
    found = splits(tmp_path)
    assert (
        sum(map(len, found.values())) == expected
        if isinstance(expected, int)
        else found == expected
    )
    loaded = spec.load(tmp_path / "out/d.yaml")
    assert loaded.names == names
    assert all(labels.label_path(p).read_text() for s in found for p in loaded.images(s))


def test_classes_are_numbered_once_for_all_splits(tmp_path: Path) -> None:
    roboflow(tmp_path / "set")
    assert convert(tmp_path, "voc", tmp_path / "set") == 0
    assert read(tmp_path, "train/a_jpg.rf.01")[0][0] == 0
    assert read(tmp_path, "val/c_jpg.rf.03")[0][0] == 1


def test_train_is_divided_where_there_is_no_val_folder_and_test_stays_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cards(tmp_path / "set")
    assert convert(tmp_path, "voc", tmp_path / "set") == 0
    assert "train folder divided into train and val" in capsys.readouterr().err
    found = splits(tmp_path)
    assert [len(found[name]) for name in spec.SPLITS] == [9, 1, 2]
    assert found["test"] == ["cam20.jpg", "cam21.jpg"]


def test_folders_given_one_by_one_are_read_alike(tmp_path: Path) -> None:
    root = tmp_path / "set"
    plates(root)
    options: list[str | Path] = ["--annotations", root / "train/annots", root / "valid/annots"]
    options += ["--images", root / "train/images", "--images", root / "valid/images"]
    expected = {"train": ["1.jpg", "2.jpg"], "val": ["1.jpg"]}
    each: list[list[str | Path]] = [[root], [root / "train", root / "valid"], options]
    for words in each:
        assert convert(tmp_path, "voc", *words) == 0
        assert splits(tmp_path) == expected
        assert read(tmp_path, "val/1")[0][0] == 1


def test_folders_that_are_named_win_over_those_that_would_be_found(tmp_path: Path) -> None:
    root = tmp_path / "set"
    pairs(root, "Annotations", "JPEGImages", "a b c")
    pairs(root, "corrected", "resized", "a b c", DOG)
    words: list[str | Path] = ["--annotations", root / "corrected", "--images", root / "resized"]
    assert convert(tmp_path, "voc", root, *words) == 0
    assert spec.load(tmp_path / "out/d.yaml").names == ("dog",)


def test_voc_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(tmp_path, "voc") == 2
    assert "or --annotations DIR --images DIR" in capsys.readouterr().err


def test_of_two_images_with_one_stem_the_one_named_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    for stem, named in (("a", "a.png"), ("b", "b.jpg"), ("c", "IMG_7.jpg"), ("d", "d.jpg")):
        text = CAT.replace("<annotation>", f"<annotation><filename>{named}</filename>")
        pairs(root, "Annotations", "JPEGImages", stem, text)
    for stem in "abc":
        draw_image(root / "JPEGImages" / f"{stem}.png")
    assert convert(tmp_path, "voc", root, "--split", "1,0,0") == 0
    assert splits(tmp_path) == {"train": ["a.png", "b.jpg", "d.jpg"]}
    err = capsys.readouterr().err
    assert "note: 1 annotation is left out because several images have the name" in err
    assert "note: 2 images have no XML file and are left out" in err


def test_an_image_claimed_by_its_own_xml_is_not_given_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    pairs(root, "annots", "images", "a b")
    copied = DOG.replace("<annotation>", "<annotation><filename>a.jpg</filename>")
    (root / "annots/c.xml").write_text(copied)  # somebody copied a.xml, and c.jpg is not here
    assert convert(tmp_path, "voc", root, "--split", "1,0,0") == 0
    assert spec.load(tmp_path / "out/d.yaml").names == ("cat",)
    assert "note: 1 image is missing; --strict stops instead (e.g. c.xml: a.jpg)" in (
        capsys.readouterr().err
    )


def test_same_stem_in_two_folders_of_a_split_stays_two_images(tmp_path: Path) -> None:
    for folder, text in (("monday", CAT), ("tuesday", DOG)):
        pairs(tmp_path / "set" / folder, "xml", "img", "1 2", text)
    assert convert(tmp_path, "voc", tmp_path / "set", "--split", "1,0,0") == 0
    assert splits(tmp_path)["train"] == [
        "monday_img_1.jpg",
        "monday_img_2.jpg",
        "tuesday_img_1.jpg",
        "tuesday_img_2.jpg",
    ]
    assert [read(tmp_path, f"train/{day}_img_1")[0][0] for day in ("monday", "tuesday")] == [0, 1]


@pytest.mark.parametrize("listed", [True, False], ids=["with XML", "without"])
def test_voc_image_that_no_reader_opens_is_reported_and_not_linked(
    tmp_path: Path, listed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    pairs(root, "Annotations", "JPEGImages", "a b c")
    (root / "JPEGImages/c.jpg").rename(root / "JPEGImages/c.heic")
    if not listed:
        (root / "Annotations/c.xml").unlink()
    assert convert(tmp_path, "voc", root, "--split", "1,0,0") == 0
    out, err = capsys.readouterr()
    assert "note: 1 file is not an image that prune reads" in err
    assert "not an image that prune reads: c.heic" in out
    assert splits(tmp_path) == {"train": ["a.jpg", "b.jpg"]}


def entry(image: int | float | str, category: int | float | str = 1) -> dict[str, object]:
    return {"image_id": image, "category_id": category, "bbox": [0, 0, 10, 15]}


def coco_set(root: Path, file: str, images: str, names: list[str], written: str = "{}") -> Path:
    """Write a COCO file, ids from 10, whose names are `written`, with a box in each image."""
    for i, name in enumerate(names):
        draw_image(root / images / name, seed=i)
    boxes = [entry(10 + i) for i in range(len(names))]
    return coco(root / file, [written.format(name) for name in names], boxes, CATEGORIES)


COCO: dict[str, tuple[str, str, str]] = {
    # name: the file, the images' folder, how file_name writes an image's name
    "COCO": ("annotations/instances_train2017.json", "train2017", "{}"),
    "CVAT": ("annotations/instances_default.json", "images", "{}"),
    "CVAT with subsets": ("annotations/instances_default.json", "images/default", "{}"),
    "datumaro": ("annotations/instances_train.json", "images/train", "{}"),
    "Label Studio": ("result.json", "images", "images/{}"),
    "Label Studio on Windows": ("result.json", "images", "images\\{}"),
    "Label Studio, project folder": ("result.json", "images", "images\\1/{}"),
    "Label Studio, dots": ("result.json", "images", "images/../{}"),
    "Label Studio 1.16": ("result.json", "images", "..\\..\\label-studio\\media\\upload\\4\\{}"),
    "Label Studio, local files": ("result.json", "images", "/data/local-files/?d=mine/{}"),
    "VIA": ("via_export_coco.json", ".", "{}"),
    "labelme on Windows": ("annotations.json", "JPEGImages", "JPEGImages\\{}"),
    "a drive of Windows": ("train.json", "images", "C:\\Users\\me\\images\\{}"),
    "FiftyOne elsewhere": ("labels.json", "images", "/home/me/fiftyone/data/{}"),
    "a bucket": ("train.json", "images", "s3://bucket/some%20folder/{}"),
    "the web": ("train.json", "images", "https://example.org/up/{}?token=1"),
}


@pytest.mark.parametrize("layout", COCO)
def test_coco_layout_is_read_as_it_is(
    tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, images, written = COCO[layout]
    path = coco_set(tmp_path / "set", file, images, ["a b.png", "c.png", "d.png"], written)
    assert convert(tmp_path, "coco", path) == 0
    found = [name for names in splits(tmp_path).values() for name in names]
    assert sorted(found) == ["a b.png", "c.png", "d.png"]
    err = capsys.readouterr().err
    assert err.count("found by the bare name") <= 1
    assert "missing" not in err


def roboflow_coco(root: Path) -> list[Path]:
    """Roboflow puts a category in front that no box has; the others name it as their parent."""
    made = []
    for split in ("train", "valid", "test"):
        draw_image(root / split / f"{split}.png", seed=len(split))
        path = root / split / "_annotations.coco.json"
        coco(path, [f"{split}.png"], [entry(10, 2)], {})
        document = json.loads(path.read_text())
        document["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "animals"},
            {"id": 2, "name": "dog", "supercategory": "animals"},
        ]
        path.write_text(json.dumps(document))
        made.append(path)
    return made


@pytest.mark.parametrize("whole", [True, False], ids=["folder", "files"])
def test_roboflow_category_without_boxes_is_left_out(
    tmp_path: Path, whole: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    files = roboflow_coco(tmp_path / "set")
    assert convert(tmp_path, "coco", *([tmp_path / "set"] if whole else files)) == 0
    assert spec.load(tmp_path / "out/d.yaml").names == ("cat", "dog")
    assert splits(tmp_path) == {"train": ["train.png"], "val": ["valid.png"], "test": ["test.png"]}
    assert read(tmp_path, "train/train")[0][0] == 1
    assert "animals, id 0, which no box has" in capsys.readouterr().err


def test_category_0_with_boxes_stays(tmp_path: Path) -> None:
    files = roboflow_coco(tmp_path / "set")
    files[0].write_text(files[0].read_text().replace('"category_id": 2', '"category_id": 0'))
    assert convert(tmp_path, "coco", *files) == 0
    assert spec.load(tmp_path / "out/d.yaml").names == ("animals", "cat", "dog")


def test_split_is_said_where_names_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    first = coco_set(root, "first.json", ".", ["a.png"])
    second = coco_set(root, "second.json", ".", ["b.png"])
    assert convert(tmp_path, "coco", first, second) == 2
    assert "write it in front, e.g. train=a.json val=b.json" in capsys.readouterr().err
    assert convert(tmp_path, "coco", f"valid={second}", f"train={first}") == 0
    assert splits(tmp_path) == {"train": ["a.png"], "val": ["b.png"]}
    assert convert(tmp_path, "coco", first, f"train={first}") == 2
    assert "is given twice" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        convert(tmp_path, "coco", f"trian={first}")
    assert "train=, val= or test=" in capsys.readouterr().err


def test_files_that_number_the_same_categories_differently_are_matched_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_image(tmp_path / "a.png")
    train = coco(tmp_path / "train.json", ["a.png"], [entry(10)], {1: "cat", 2: "dog"})
    val = coco(tmp_path / "val.json", ["a.png"], [entry(10)], {1: "dog", 2: "cat"})
    assert convert(tmp_path, "coco", train, val) == 0
    assert "numbers the categories differently; the names count" in capsys.readouterr().err
    assert [read(tmp_path, f"{split}/a")[0][0] for split in ("train", "val")] == [0, 1]


def test_two_images_with_one_id_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = coco_set(tmp_path / "set", "train.json", ".", ["a.png", "b.png"])
    path.write_text(path.read_text().replace('"id": 11', '"id": 10'))
    assert convert(tmp_path, "coco", path) == 2
    assert "two images have id 10: a.png and b.png" in capsys.readouterr().err


@pytest.mark.parametrize("other", [11, 10], ids=["another id", "the same id"])
def test_one_image_listed_twice_is_joined(
    tmp_path: Path, other: int, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_image(tmp_path / "a.png")
    boxes = [entry(10), entry(other) | {"bbox": [1, 1, 9, 9]}]
    path = coco(tmp_path / "train.json", ["a.png", "a.png"], boxes, CATEGORIES)
    path.write_text(path.read_text().replace('"id": 11', f'"id": {other}'))
    assert convert(tmp_path, "coco", path) == 0
    assert len(read(tmp_path, "train/a")) == 2
    assert "note: 1 image is listed twice; the boxes are joined" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "category"), [("10", "1"), (10.0, 1.0), ("10.0", "1.0"), (" 10 ", 1), ("010", "01")]
)
def test_ids_are_compared_as_whole_numbers(
    tmp_path: Path, image: float | str, category: float | str
) -> None:
    draw_image(tmp_path / "a.png")
    path = coco(tmp_path / "train.json", ["a.png"], [entry(image, category)], CATEGORIES)
    assert convert(tmp_path, "coco", path) == 0
    assert read(tmp_path, "train/a") == [[0, 0.125, 0.25, 0.25, 0.5]]


def test_ids_that_are_not_numbers_are_compared_as_text(tmp_path: Path) -> None:
    draw_image(tmp_path / "a.png")
    path = coco(tmp_path / "train.json", ["a.png"], [entry("a.png123")], CATEGORIES)
    path.write_text(path.read_text().replace('"id": 10,', '"id": "a.png123",'))
    assert convert(tmp_path, "coco", path) == 0
    assert len(read(tmp_path, "train/a")) == 1


def test_a_bare_name_that_two_files_have_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "images"
    for name in ("mon/a.png", "tue/a.png", "tue/b.png"):
        draw_image(root / name, seed=len(name))
    names = ["D:\\x\\a.png", "D:\\x\\b.png", "D:\\x\\mon\\a.png"]
    boxes = [entry(10), entry(11), entry(12)]
    path = coco(tmp_path / "train.json", names, boxes, CATEGORIES)
    assert convert(tmp_path, "coco", path, "--images", root) == 0
    err = capsys.readouterr().err
    assert "note: 2 images are not at the path given and found by the bare name" in err
    assert "note: 1 annotation is left out because several images have the name" in err
    assert splits(tmp_path) == {"train": ["a.png", "b.png"]}


def test_a_missing_image_is_not_replaced_by_one_of_another_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "images"
    for name in ("train/a.png", "val/b.png"):
        draw_image(root / name)
    names = ["train/a.png", "train/b.png"]
    path = coco(tmp_path / "train.json", names, [entry(10), entry(11)], CATEGORIES)
    assert convert(tmp_path, "coco", path, "--images", root) == 0
    assert splits(tmp_path) == {"train": ["a.png"]}
    assert "note: 1 image is missing" in capsys.readouterr().err


def test_coco_image_that_no_reader_opens_is_reported_and_not_linked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = coco_set(tmp_path, "train.json", "images", ["a.png", "c.png"])
    (tmp_path / "images/c.png").rename(tmp_path / "images/c.gif")
    path.write_text(path.read_text().replace("c.png", "c.gif"))
    assert convert(tmp_path, "coco", path) == 0
    out, err = capsys.readouterr()
    assert "note: 1 file is not an image that prune reads" in err
    assert "not an image that prune reads: c.gif" in out
    assert splits(tmp_path) == {"train": ["a.png"]}


@pytest.mark.parametrize("bbox", [None, []])
def test_a_box_that_is_not_written_is_taken_around_the_polygons(
    tmp_path: Path, bbox: object, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_image(tmp_path / "a.png")
    polygons = [[0, 0, 10, 0, 10, 5], [2, 5, 3, 15, 4, 5]]
    box = entry(10) | {"bbox": bbox, "segmentation": polygons}
    path = coco(tmp_path / "train.json", ["a.png"], [box], CATEGORIES)
    assert convert(tmp_path, "coco", path) == 0
    assert read(tmp_path, "train/a") == [[0, 0.125, 0.25, 0.25, 0.5]]
    assert "note: 1 box is missing and taken around the outline" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "count"), [([], 1), (["--skip-crowds"], 1), (["--keep-crowds"], 2)], ids=str
)
def test_crowds_are_left_out_unless_kept(tmp_path: Path, words: list[str], count: int) -> None:
    draw_image(tmp_path / "a.png")
    boxes = [entry(10), entry(10) | {"iscrowd": 1, "bbox": [0, 0, 40, 30]}]
    path = coco(tmp_path / "train.json", ["a.png"], boxes, CATEGORIES)
    assert convert(tmp_path, "coco", path, *words) == 0
    assert len(read(tmp_path, "train/a")) == count


@pytest.mark.parametrize(
    ("words", "count", "said"),
    [
        ([], 2, "note: 1 difficult box kept; --skip-difficult leaves them out (e.g. a.xml:4: cat"),
        (["--keep-difficult"], 2, "note: 1 difficult box kept"),
        (["--skip-difficult"], 1, "note: 1 difficult box left out; --keep-difficult keeps them"),
    ],
    ids=["default", "keep", "skip"],
)
def test_difficult_boxes_are_counted(
    tmp_path: Path,
    words: list[str],
    count: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("cat", (1.0, 1.0, 20.0, 30.0)), ("cat", (5.0, 5.0, 20.0, 30.0))]
    easy, hard = xml(rows), "</name><difficult>1</difficult>"
    text = hard.join(easy.rsplit("</name>", 1))
    pairs(tmp_path / "set", "Annotations", "JPEGImages", "a", text)
    assert convert(tmp_path, "voc", tmp_path / "set", "--split", "1,0,0", *words) == 0
    assert len(read(tmp_path, "train/a")) == count
    assert said in capsys.readouterr().err


def test_boxes_count_is_the_area_a_person_drew(tmp_path: Path) -> None:
    """The whole image in every format is (0.5, 0.5, 1, 1)."""
    pairs(tmp_path / "set", "annots", "images", "a", xml([("cat", (1, 1, *SIZE))]))
    assert convert(tmp_path, "voc", tmp_path / "set", "--split", "1,0,0") == 0
    np.testing.assert_allclose(read(tmp_path, "train/a"), [[0, 0.5, 0.5, 1, 1]])


def test_several_image_folders_are_searched_and_a_name_in_two_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, name in enumerate(("x/a.png", "x/b.png", "y/b.png", "y/c.png", "x/d.png")):
        draw_image(tmp_path / name, seed=i)
    boxes = [entry(10 + i) for i in range(4)]
    names = ["a.png", "b.png", "c.png", "d.png"]
    path = coco(tmp_path / "json/train.json", names, boxes, CATEGORIES)
    words: list[str | Path] = ["--images", tmp_path / "x", "--images", tmp_path / "y"]
    assert convert(tmp_path, "coco", path, *words) == 0
    assert splits(tmp_path) == {"train": ["a.png", "c.png", "d.png"]}
    assert "note: 1 annotation is left out because several images" in capsys.readouterr().err


def test_an_inner_folder_says_the_split_where_an_outer_one_has_such_a_word(tmp_path: Path) -> None:
    pairs(tmp_path / "set/test_data/train", ".", ".", "a b")
    pairs(tmp_path / "set/test_data/valid", ".", ".", "c")
    assert convert(tmp_path, "voc", tmp_path / "set") == 0
    assert splits(tmp_path) == {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"]}


def test_what_lies_beside_a_devkit_is_not_lost(tmp_path: Path) -> None:
    devkit(tmp_path / "set")
    pairs(tmp_path / "set" / "own", "annots", "images", "x1 x2")
    assert convert(tmp_path, "voc", tmp_path / "set") == 0
    assert sum(map(len, splits(tmp_path).values())) == 6


@pytest.mark.parametrize("entry", ["{0}", "JPEGImages/{0}.jpg Annotations/{0}.xml", "{0}.jpg"])
def test_lists_beside_main_and_of_paddle_are_read(tmp_path: Path, entry: str) -> None:
    root = tmp_path / "set"
    pairs(root, "Annotations", "JPEGImages", "a b c")
    (root / "ImageSets").mkdir()
    (root / "ImageSets/train.txt").write_text(f"{entry.format('a')}\n{entry.format('c')}\n")
    (root / "ImageSets/val.txt").write_text(f"{entry.format('b')}\n")
    assert convert(tmp_path, "voc", root) == 0
    assert splits(tmp_path) == {"train": ["a.jpg", "c.jpg"], "val": ["b.jpg"]}


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_names_that_differ_in_case_or_accents_alone_are_found(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "set"
    source = root
    if kind == "voc":
        pairs(root, "annots", "images", "Cafe\u0301 IMG_1")  # macOS splits accents
        (root / "images/Cafe\u0301.jpg").rename(root / "images/Caf\u00e9.jpg")
        (root / "images/IMG_1.jpg").rename(root / "images/img_1.JPG")
    else:
        for name in ("Caf\u00e9.jpg", "img_1.JPG"):
            draw_image(root / "images" / name)
        boxes = [entry(10), entry(11)]
        source = coco(root / "train.json", ["Cafe\u0301.jpg", "IMG_1.jpg"], boxes, CATEGORIES)
    assert convert(tmp_path, kind, source, "--split", "1,0,0") == 0
    assert len(splits(tmp_path)["train"]) == 2


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_boxes_in_fractions_are_refused(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "set"
    if kind == "voc":
        pairs(source, "annots", "images", "a b", xml([("cat", (0.25, 0.25, 0.75, 0.75))]))
    else:
        draw_image(source / "a.png")
        box = entry(10) | {"bbox": [0.25, 0.25, 0.5, 0.5]}
        source = coco(source / "train.json", ["a.png"], [box], CATEGORIES)
    assert convert(tmp_path, kind, source) == 2
    assert "boxes must be in pixels, not in fractions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "kind", "text", "said"),
    [
        ("via.json", "coco", {"_via_img_metadata": {}}, "a project of VIA, export it as COCO"),
        ("a.json", "coco", {"shapes": [], "imagePath": "a.jpg"}, "a file of labelme, export it"),
        ("tasks.json", "coco", [{"data": {}}], "it contains a list; export it as COCO"),
        ("data.yaml", "voc", {"names": ["a"]}, "used as it is: prune data check FILE"),
        ("train.json", "voc", {"images": []}, "prune data coco"),
    ],
)
def test_other_formats_are_named(
    tmp_path: Path,
    file: str,
    kind: str,
    text: object,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "set" / file
    path.parent.mkdir()
    path.write_text(json.dumps(text))
    assert convert(tmp_path, kind, path if kind == "coco" else path.parent) == 2
    assert said in capsys.readouterr().err


def test_cvat_xml_of_its_own_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "set"
    draw_image(root / "images/a.png")
    (root / "annotations.xml").write_text("<annotations><image/></annotations>")
    assert convert(tmp_path, "voc", root) == 2
    assert "this is CVAT's own format" in capsys.readouterr().err


def test_class_names_that_differ_in_case_alone_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs(tmp_path / "set", "annots", "images", "a", DOG.replace("dog", "Cat"))
    pairs(tmp_path / "set", "annots", "images", "b")
    assert convert(tmp_path, "voc", tmp_path / "set") == 0
    assert "only in upper and lower case (e.g. set: Cat and cat)" in capsys.readouterr().err


def test_a_size_that_no_resizing_gives_is_a_wrong_entry(tmp_path: Path) -> None:
    text = xml([("cat", (1, 1, 20, 30))], size=(40 * 10**9, 30 * 10**9))
    pairs(tmp_path / "set", "annots", "images", "a", text)
    assert convert(tmp_path, "voc", tmp_path / "set", "--split", "1,0,0") == 0
    assert read(tmp_path, "train/a") == [[0, 0.25, 0.5, 0.5, 1]]


@pytest.mark.parametrize("name", ["\udcff.png", "a" * 300 + ".png"], ids=["surrogate", "long"])
def test_names_that_no_file_has_are_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = coco(tmp_path / "train.json", [name], [entry(10)], CATEGORIES)
    assert convert(tmp_path, "coco", path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_every_kind_of_problem_has_a_sentence() -> None:
    kinds = {
        value
        for module in (annotation, convert_module, voc, coco_module, coco_files)
        for name, value in vars(module).items()
        if name[0] != "_" and name.isupper() and isinstance(value, str) and " " in value
    }
    assert kinds <= notes.SENTENCES.keys()


def test_links_to_folders_do_not_double_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kangaroo(tmp_path / "set")
    (tmp_path / "set/images/up").symlink_to(tmp_path / "set")
    (tmp_path / "set/more").symlink_to(tmp_path / "set/images")
    root = tmp_path / "set"
    for words in ([root], [root / "annots", root / "images"]):
        assert convert(tmp_path, "voc", *words) == 0
        assert sum(map(len, splits(tmp_path).values())) == 3
        assert "twice" not in capsys.readouterr().err


def test_an_image_in_two_splits_is_reported_and_dealt_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = coco_set(tmp_path, "train.json", ".", ["a.png", "b.png", "c.png"])
    val = coco_set(tmp_path, "val.json", ".", ["a.png"])
    assert convert(tmp_path, "coco", train, val) == 0
    assert "note: 1 image is in two splits" in capsys.readouterr().err
    assert convert(tmp_path, "coco", train, val, "--split", "0.7,0.3,0") == 0
    assert "two splits" not in capsys.readouterr().err
    assert sum(map(len, splits(tmp_path).values())) == 3


def test_annotations_without_a_suffix_are_found(tmp_path: Path) -> None:
    """Stanford Dogs; some of its files have a placeholder for a name."""
    root = tmp_path / "set"
    text = DOG.replace("<annotation>", "<annotation>\n\t<filename>%s</filename>")
    for breed in ("n02085620-Chihuahua", "n02085782-Japanese_spaniel"):
        pairs(root, f"Annotation/{breed}", f"Images/{breed}", f"{breed[:9]}_1 {breed[:9]}_2", text)
    for path in root.glob("Annotation/*/*.xml"):
        path.rename(path.with_suffix(""))
    assert convert(tmp_path, "voc", root, "--split", "1,0,0") == 0
    assert len(splits(tmp_path)["train"]) == 4


@pytest.mark.parametrize("folder", ["images/train2017", "data", "imgs", "train_images"])
def test_images_lie_in_folders_of_usual_names(tmp_path: Path, folder: str) -> None:
    path = coco_set(tmp_path / "set", "annotations/train.json", f"../set/{folder}", ["a.png"])
    draw_image(tmp_path / "set/images/val2017/a.png", seed=9)
    assert convert(tmp_path, "coco", path) == 0
    (link,) = (tmp_path / "out/d/images/train").iterdir()
    assert link.resolve() == (tmp_path / "set" / folder / "a.png").resolve()


def test_a_url_stands_for_a_name_that_is_not_given(tmp_path: Path) -> None:
    path = coco_set(tmp_path, "lvis_v1_train.json", "train2017", ["1.jpg", "2.jpg"])
    url = '"coco_url": "http://images.cocodataset.org/train2017/'
    path.write_text(path.read_text().replace('"file_name": "', url))
    assert convert(tmp_path, "coco", path) == 0
    assert splits(tmp_path) == {"train": ["1.jpg", "2.jpg"]}


def test_shares_given_win_over_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cards(tmp_path / "set")
    assert convert(tmp_path, "voc", tmp_path / "set", "--split", "0.5,0.25,0.25") == 0
    assert [len(names) for names in splits(tmp_path).values()] == [6, 3, 3]
    assert capsys.readouterr().err == ""


def test_folders_may_stand_in_a_config_file(tmp_path: Path) -> None:
    root = tmp_path / "set"
    plates(root)
    config = tmp_path / "voc.yaml"
    config.write_text(
        f"annotations: [{root}/train/annots, {root}/valid/annots]\n"
        f"images: [{root}/train/images, {root}/valid/images]\nskip-difficult: true\n"
    )
    assert convert(tmp_path, "voc", "--config", config) == 0
    assert splits(tmp_path) == {"train": ["1.jpg", "2.jpg"], "val": ["1.jpg"]}


@pytest.mark.parametrize("turned", [False, True], ids=["fewer second", "fewer first"])
def test_a_file_may_lack_categories_and_number_the_others_anew(
    tmp_path: Path, turned: bool
) -> None:
    draw_image(tmp_path / "a.png")
    every, some = {1: "cat", 2: "cow", 3: "dog"}, {1: "cat", 2: "dog"}
    files = [("train.json", every, 3), ("val.json", some, 2)]
    for name, categories, dog in files:
        coco(tmp_path / name, ["a.png"], [entry(10, dog)], categories)
    words = [tmp_path / name for name, _, _ in (reversed(files) if turned else files)]
    assert convert(tmp_path, "coco", *words) == 0
    names = spec.load(tmp_path / "out/d.yaml").names
    assert names == (("cat", "dog", "cow") if turned else ("cat", "cow", "dog"))
    for split in ("train", "val"):
        assert read(tmp_path, f"{split}/a")[0][0] == names.index("dog")


def test_odd_ids_and_urls_are_no_accident(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_image(tmp_path / "a.png")
    boxes = [entry(10), entry(10) | {"id": "\udc80", "bbox": [0, 0, 0, 0]}]
    path = coco(tmp_path / "train.json", ["a.png", "https://[b/x.png"], boxes, CATEGORIES)
    assert convert(tmp_path, "coco", path) == 0
    out, err = capsys.readouterr()
    assert (out + err).isascii()
    assert "note: 1 image is missing" in err
