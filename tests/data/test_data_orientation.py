"""Boxes drawn before an image's EXIF orientation was applied land where the object is."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from datasets import coco, xml
from PIL import Image

from prune.cli import main
from prune.data import labels
from prune.data.images import read_image
from prune.data.orientation import turn

STORED = (64, 48)  # width and height in the file
BOX = (8, 10, 40, 30)  # left, top, right, bottom of a white object in the stored image
SWAPPING = (5, 6, 7, 8)


def photo(path: Path, entry: int, size: tuple[int, int] = STORED) -> np.ndarray:
    """Write a JPEG with a white object and an EXIF entry; return it as it is displayed."""
    width, height = size
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    left, top, right, bottom = BOX
    pixels[top:bottom, left:right] = 255
    exif = Image.Exif()
    exif[0x0112] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95, exif=exif)
    return read_image(path)


def bright(image: np.ndarray) -> tuple[float, float, float, float]:
    """Return left, top, right, bottom of what is white in an image."""
    ys, xs = np.nonzero(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) > 127)
    return float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1)


def as_row(image: np.ndarray) -> list[float]:
    """Return the label (class 0) of what is white in an image."""
    height, width = image.shape[:2]
    left, top, right, bottom = bright(image)
    return [
        0,
        (left + right) / 2 / width,
        (top + bottom) / 2 / height,
        (right - left) / width,
        (bottom - top) / height,
    ]


def voc(root: Path, stem: str, claimed: tuple[int, int] | None) -> None:
    left, top, right, bottom = BOX
    path = root / "Annotations" / f"{stem}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(xml([("cat", (left + 1, top + 1, right, bottom))], size=claimed))


def convert(tmp_path: Path, kind: str, source: Path, *words: str) -> int:
    return main(["data", kind, str(source), "--out", str(tmp_path / "out/d.yaml"), *words])


def label(tmp_path: Path, stem: str) -> list[float]:
    (row,) = labels.read(tmp_path / f"out/d/labels/train/{stem}.txt", classes=1)
    return [float(value) for value in row]


@pytest.mark.parametrize("entry", range(1, 9))
def test_a_box_is_turned_as_reading_turns_the_image(tmp_path: Path, entry: int) -> None:
    assert turn(BOX, STORED, entry) == bright(photo(tmp_path / "a.jpg", entry))


@pytest.mark.parametrize("entry", SWAPPING)
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_boxes_in_the_stored_size_are_turned_with_the_image(
    tmp_path: Path, entry: int, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    shown = photo(root / "JPEGImages/a.jpg", entry)
    voc(root, "a", STORED)
    source = root
    if kind == "coco":
        left, top, right, bottom = BOX
        box = {"image_id": 10, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
        source = coco(root / "JPEGImages/train.json", ["a.jpg"], [box], {1: "cat"})
        text = source.read_text().replace('"width": 40, "height": 30', '"width": 64, "height": 48')
        source.write_text(text)
    assert convert(tmp_path, kind, source, "--split", "1,0,0") == 0
    np.testing.assert_allclose(label(tmp_path, "a"), as_row(shown), atol=1e-6)
    assert "note: 1 image was annotated without regard to the EXIF orientation" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("scale", [1, 2])
def test_boxes_in_the_displayed_size_stay(
    tmp_path: Path, scale: int, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "set/JPEGImages/a.jpg", 6)
    voc(tmp_path / "set", "a", (48 * scale, 64 * scale))
    assert convert(tmp_path, "voc", tmp_path / "set", "--split", "1,0,0") == 0
    expected = [0, 24 / 48 / scale, 20 / 64 / scale, 32 / 48 / scale, 20 / 64 / scale]
    np.testing.assert_allclose(label(tmp_path, "a"), expected, rtol=1e-6)
    assert "EXIF" not in capsys.readouterr().err


@pytest.mark.parametrize("claimed", [(48, 64), (96, 128)], ids=["exact", "resized"])
def test_a_swapped_size_without_exif_leaves_the_image_out(
    tmp_path: Path, claimed: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "set"
    for stem in "ab":
        photo(root / f"JPEGImages/{stem}.jpg", 1)
    voc(root, "a", STORED)
    voc(root, "b", claimed)
    assert convert(tmp_path, "voc", root, "--split", "1,0,0") == 0
    assert "note: 1 image is left out because width and height are swapped" in (
        capsys.readouterr().err
    )
    assert [path.name for path in (tmp_path / "out/d/images/train").iterdir()] == ["a.jpg"]
    assert convert(tmp_path, "voc", root, "--split", "1,0,0", "--strict") == 2


@pytest.mark.parametrize("entry", [2, 3, 4])
@pytest.mark.parametrize("claimed", [STORED, None], ids=["size", "no size"])
def test_where_the_size_does_not_show_it_the_other_images_decide(
    tmp_path: Path,
    entry: int,
    claimed: tuple[int, int] | None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "set"
    shown = photo(root / "JPEGImages/half.jpg", entry)
    voc(root, "half", claimed)
    assert convert(tmp_path, "voc", root, "--split", "1,0,0", "--json") == 0
    out, err = capsys.readouterr()
    assert [p["kind"] for p in json.loads(out)["problems"]] == [
        "boxes taken as drawn after the EXIF entry"
    ]
    assert "taken as drawn on the image as it is displayed" in err
    np.testing.assert_allclose(
        label(tmp_path, "half"), [0, 24 / 64, 20 / 48, 32 / 64, 20 / 48], rtol=1e-6
    )
    photo(root / "JPEGImages/quarter.jpg", 8)  # its size shows that the tool ignored EXIF
    voc(root, "quarter", STORED)
    assert convert(tmp_path, "voc", root, "--split", "1,0,0") == 0
    assert "as those of the other turned images are" in capsys.readouterr().err
    np.testing.assert_allclose(label(tmp_path, "half"), as_row(shown), atol=1e-6)


def test_a_damaged_exif_entry_is_none(tmp_path: Path) -> None:
    root = tmp_path / "set"
    photo(root / "JPEGImages/a.jpg", 1)
    path = root / "JPEGImages/a.jpg"
    path.write_bytes(path.read_bytes().replace(b"Exif\x00\x00MM\x00*", b"Exif\x00\x00MM\x00!", 1))
    voc(root, "a", STORED)
    assert convert(tmp_path, "voc", root, "--split", "1,0,0") == 0
    np.testing.assert_allclose(
        label(tmp_path, "a"), [0, 24 / 64, 20 / 48, 32 / 64, 20 / 48], rtol=1e-6
    )


def test_boxes_beyond_the_stored_size_show_that_only_the_size_is_the_stored_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Label Studio exports the stored size beside boxes of the displayed image."""
    names = ["a.jpg", "b.jpg"]
    for name in names:
        photo(tmp_path / "images" / name, 6)  # 48 x 64 as displayed
    rows = [(10, [4, 50, 20, 12]), (11, [4, 6, 20, 12])]  # the first reaches down to 62
    boxes = [{"image_id": key, "category_id": 1, "bbox": bbox} for key, bbox in rows]
    source = coco(tmp_path / "result.json", names, boxes, {1: "cat"})
    text = source.read_text().replace('"width": 40, "height": 30', '"width": 64, "height": 48')
    source.write_text(text)
    assert convert(tmp_path, "coco", source, "--split", "1,0,0") == 0
    assert "note: 2 images have the size of the image before its EXIF" in capsys.readouterr().err
    for name, top in (("a", 50), ("b", 6)):
        expected = [0, 14 / 48, (top + 6) / 64, 20 / 48, 12 / 64]
        np.testing.assert_allclose(label(tmp_path, name), expected, rtol=1e-6)
