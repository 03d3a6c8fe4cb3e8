"""data.yaml in the forms people write it, and images as they come."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from loguru import logger

from prune.data import spec
from prune.data.images import read_image
from prune.errors import DataError, InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two train images, one of them in a folder below, one val image, a file that is none."""
    for name in ("train/b.jpg", "train/sub/a.PNG", "train/notes.md", "val/c.jpg"):
        path = tmp_path / "set" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # what is in them does not matter here
    return tmp_path


@pytest.fixture
def notes() -> Iterator[list[str]]:
    said: list[str] = []
    handle = logger.add(lambda message: said.append(str(message)), format="{message}")
    yield said
    logger.remove(handle)


def yaml(root: Path, text: str) -> Path:
    path = root / "set" / "data.yaml"
    path.write_text(text)
    return path


def found(root: Path, text: str) -> dict[str, list[str]]:
    """Load and return each split's images relative to the images folder."""
    loaded = spec.load(yaml(root, text))
    images = root / "set" / "images"
    return {k: [str(p.relative_to(images)) for p in v] for k, v in loaded.splits.items()}


TRAIN = ["train/b.jpg", "train/sub/a.PNG"]


@pytest.mark.parametrize(
    "train",
    [
        "train: images/train",
        "train: images/train/",
        "train: [images/train/sub, images/train/b.jpg, images/train]",
        "train: images/train/**/*",
        "train: list.txt",
        "train: dotted/list.txt",
        "path: images\ntrain: train",
        "path: ..\ntrain: set/images/train",
    ],
    ids=["folder", "slash", "list", "glob", "file", "dotted", "root", "root-above"],
)
def test_every_way_to_name_a_split_finds_the_same_images(root: Path, train: str) -> None:
    (root / "set" / "list.txt").write_text("images/train/sub/a.PNG\n\nimages/train/b.jpg\n")
    (root / "set" / "dotted").mkdir()
    (root / "set" / "dotted" / "list.txt").write_text(
        "./../images/train/sub/a.PNG\n./../images/train/b.jpg\n"
    )
    loaded = spec.load(yaml(root, f"{train}\nnames: [x]\n"))
    resolved = sorted(path.resolve() for path in loaded.images("train"))
    assert resolved == [(root / "set" / "images" / name).resolve() for name in TRAIN]


def test_absolute_paths_are_taken_as_they_are(root: Path) -> None:
    assert found(root, f"train: {root}/set/images/train\nnames: [x]\n") == {"train": TRAIN}
    assert found(root, f"train: {root}/set/images/train/*.jpg\nnames: [x]\n") == {
        "train": ["train/b.jpg"]
    }


@pytest.mark.parametrize("names", ["[a, 2]", "{0: a, 1: 2}", "{1: 2, 0: a}"])
def test_names_are_a_list_or_numbered(root: Path, names: str) -> None:
    loaded = spec.load(yaml(root, f"train: images/train\nval: images/val\nnames: {names}\nnc: 2\n"))
    assert loaded.names == ("a", "2")
    assert list(loaded.splits) == ["train", "val"]


def test_download_and_unknown_keys_are_ignored_with_a_note(root: Path, notes: list[str]) -> None:
    found(root, "train: images/train\nnames: [x]\ndownload: rm -rf /\nroboflow: 1\n")
    (note,) = notes
    assert "ignored download:, roboflow:" in note


def test_only_the_splits_asked_for_must_be_there(root: Path) -> None:
    path = yaml(root, "train: nowhere\nval: images/val\ntest:\nnames: [x]\n")
    assert list(spec.load(path, splits=("val",)).splits) == ["val"]
    with pytest.raises(DataError, match="no split 'test'"):
        spec.load(path, splits=("val", "test"))


def test_names_alone_need_no_images(root: Path) -> None:
    assert spec.load_names(yaml(root, "train: nowhere\nnames: {0: a, 1: b}\n")) == ("a", "b")


def test_split_that_is_not_there_is_named(root: Path) -> None:
    loaded = spec.load(yaml(root, "train: images/train\nnames: [x]\n"))
    with pytest.raises(DataError, match="has no split 'val'; it has train"):
        loaded.images("val")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [x]\n", "no train:, val: or test:"),
        ("train: nowhere\nnames: [x]\n", "nowhere does not exist"),
        ("train: images\n", "names: must list the classes"),
        ("train: images\nnames: []\n", "names: must list the classes"),
        ("train: images\nnames: classes.names\n", "names: classes.names does not exist"),
        ("train: images\nnames: {a: x, b: y}\n", "names: must be numbered"),
        ("train: images\nnames: {0: a, 2: b}\n", "names: has no class 1; 2 names must be numbered"),
        ("train: images\nnc: two\n", "nc is 'two'; it must be the number of classes"),
        ("train: images\nnames: [x]\nkpt_shape: 17\n", "kpt_shape: is 17; it must be the number"),
        ("train: images\nnames: {1: a}\n", "numbered 0 to 0"),
        ("train: images\nnames: [no]\n", "False in names: is no text; put it in quotes"),
        ("train: images\nnames: [x, x]\n", "'x' twice"),
        ("train: images\nnames: [x]\nnc: 2\n", "nc is 2, but names has 1 entries"),
        ("train: 7\nnames: [x]\n", "train: is 7; it must be a path"),
        ("path: [a]\ntrain: images\nnames: [x]\n", "path: is ['a']; it must be a path"),
        ("train: empty\nnames: [x]\n", "no images in"),
        ("train: images/*.gif\nnames: [x]\n", "images/*.gif does not exist"),
        ("train: empty.txt\nnames: [x]\n", "no images in"),
        ("train: none.txt\nnames: [x]\n", "none.txt does not exist"),
        ("train: binary.txt\nnames: [x]\n", "binary.txt: it is no text"),
        ("train: wrong.txt\nnames: [x]\n", "wrong.txt:1: images/val/d.jpg is no file"),
        ("train: boxed.txt\nnames: [x]\n", "boxes behind a path are not read"),
        ("train: images/train/notes.md\nnames: [x]\n", "no images in"),
        ("train: [\n", "data.yaml:2: broken YAML"),
        ("train: \x01\n", "broken YAML"),
        ("just words\n", "no data set description"),
        ("", "no data set description"),
    ],
)
def test_unusable_yaml_is_one_line_that_says_why(root: Path, text: str, said: str) -> None:
    (root / "set" / "empty").mkdir()
    (root / "set" / "empty.txt").touch()
    (root / "set" / "binary.txt").write_bytes(b"\xff")
    (root / "set" / "wrong.txt").write_text("images/val/d.jpg\nimages/val/e.jpg\n")
    (root / "set" / "boxed.txt").write_text("images/val/c.jpg 1,2,3,4,0\n")
    with pytest.raises(DataError) as error:
        spec.load(yaml(root, text))
    assert said in str(error.value)


def test_missing_or_binary_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read"):
        spec.load(tmp_path / "none.yaml")
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match="is no text file"):
        spec.load(tmp_path / "picture.yaml")


NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg", ".jp2"])
def test_image_is_read_as_opencv_reads_it_and_refused_when_cut(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    assert cv2.imwrite(str(path), NOISE)
    np.testing.assert_array_equal(read_image(path), cv2.imread(str(path)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"a{suffix}: "):
        read_image(path)


@pytest.mark.parametrize("kept", [NOISE[..., 0], NOISE[..., [0, 1, 2, 0]], NOISE.astype("u2") * 9])
def test_grey_alpha_and_deep_images_become_plain_colour(
    tmp_path: Path, kept: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), kept)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8


def test_image_is_turned_by_its_exif_entry(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", NOISE)[1].tobytes()
    # Big-endian TIFF with one entry: tag 0x0112 (orientation), type SHORT, count 1, value 6.
    tiff = bytes.fromhex("4d4d002a000000080001" + "0112000300000001" + "00060000" + "00000000")
    segment = b"Exif\0\0" + tiff
    exif = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    (tmp_path / "a.jpg").write_bytes(jpeg[:2] + exif + jpeg[2:])
    assert read_image(tmp_path / "a.jpg").shape == (64, 48, 3)


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot read"), (b"", "is empty"), (b"GIF89a", "cannot decode")]
)
def test_file_that_is_no_image_is_refused(
    tmp_path: Path, content: bytes | None, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_image(path)
    assert capfd.readouterr().err == ""  # OpenCV says nothing of its own


OTHER_CLASSES = {
    "fewer": (("cat",), "detects 1 classes (cat) but a.yaml has 2 (cat, dog); they must agree"),
    "another order": (("dog", "cat"), "numbers its classes dog, cat but a.yaml cat, dog"),
}


@pytest.mark.parametrize(("names", "said"), OTHER_CLASSES.values(), ids=OTHER_CLASSES)
def test_a_detector_of_other_classes_is_refused(names: tuple[str, ...], said: str) -> None:
    data = spec.DataSpec(Path("a.yaml"), ("cat", "dog"), {})
    with pytest.raises(InputError) as told:
        data.expect_classes(names, of=Path("net.pt"))
    assert said in str(told.value)
    data.expect_classes(("chat", "chien"), of=Path("net.pt"))
    data.expect_classes(("cat", "dog"), of=Path("net.pt"))


@pytest.mark.parametrize(("suffix", "told"), [(".pt", True), (".onnx", False)])
def test_a_checkpoint_of_other_classes_is_answered_with_its_training(
    suffix: str, told: bool
) -> None:
    data = spec.DataSpec(Path("a.yaml"), ("cat", "dog"), {})
    with pytest.raises(InputError) as error:
        data.expect_classes(("cat",), of=Path(f"net{suffix}"))
    assert ("prune train --weights net.pt --data a.yaml" in str(error.value)) == told
