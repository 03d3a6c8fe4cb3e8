"""Label files: what is read, what is refused, what is mended."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune.data import labels
from prune.errors import DataError


def lines(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "a.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("data/images/train/a.jpg", "data/labels/train/a.txt"),
        ("images/set/images/a.b.png", "images/set/labels/a.b.txt"),
        ("flat/a.jpg", "flat/a.txt"),
        ("flat/images.jpg", "flat/images.txt"),
        ("images", "images.txt"),
    ],
    ids=["split", "last-folder", "beside", "file-called-images", "bare"],
)
def test_label_lies_where_yolo_tools_put_it(image: str, label: str) -> None:
    assert labels.label_path(Path(image)) == Path(label).absolute()


def test_missing_file_means_no_boxes(tmp_path: Path) -> None:
    boxes = labels.read(tmp_path / "none.txt", classes=3)
    assert boxes.shape == (0, 5)
    assert boxes.dtype == np.float32


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.1", "4 columns"),
        ("0 0.5 0.5 0.1 0.1 0.9", "6 columns"),
        ("0 0.5 0.5 0.1 x", "'x' is no number"),
        ("0 0.5 0.5 0.1 nan", "'nan' is no finite number"),
        ("inf 0.5 0.5 0.1 0.1", "'inf' is no finite number"),
        ("0.5 0.5 0.5 0.1 0.1", "no whole number"),
        ("3 0.5 0.5 0.1 0.1", "class 3 is out of range; names has 0 to 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is out of range"),
        ("0 1.5 0.5 0.1 0.1", "1.5 is outside 0..1"),
        ("0 0.5 0.5 320 0.1", "320 is outside 0..1"),
        ("0 0.5 0.5 -0.1 0.1", "-0.1 is outside 0..1"),
        ("0 0.1 0.1 0.2 0.2 0.3 1.2", "1.2 is outside 0..1"),
    ],
)
def test_malformed_line_is_refused_by_file_and_line(tmp_path: Path, line: str, said: str) -> None:
    path = lines(tmp_path, f"1 0.5 0.5 0.2 0.2\n\n{line}\n")
    with pytest.raises(DataError) as error:
        labels.read(path, classes=3)
    assert str(error.value).startswith(f"{path}:3: ")
    assert said in str(error.value)


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xff\xfe\x00\xff")
    with pytest.raises(DataError, match="cannot read label file"):
        labels.read(path, classes=1)


def test_polygon_becomes_the_box_around_it(tmp_path: Path) -> None:
    path = lines(tmp_path, "1 0.1 0.2 0.5 0.4 0.3 0.8\n")
    np.testing.assert_allclose(labels.read(path, classes=2), [[1, 0.3, 0.5, 0.4, 0.6]], rtol=1e-6)


def test_box_is_cut_at_the_border(tmp_path: Path) -> None:
    path = lines(tmp_path, "0 0.9 0.5 0.4 0.2\n")  # from 0.7 to 1.1
    found = labels.scan(path, labels.Form(1))
    boxes, problems = found.boxes, found.problems
    np.testing.assert_allclose(boxes, [[0, 0.85, 0.5, 0.3, 0.2]], rtol=1e-6)
    assert [(p.kind, p.line, p.fatal) for p in problems] == [
        ("box reaches out of the picture", 1, False)
    ]


def test_rounding_beyond_the_border_is_not_worth_a_remark(tmp_path: Path) -> None:
    found = labels.scan(lines(tmp_path, "0 0.5 0.5 1.0005 1\n"), labels.Form(1))
    boxes, problems = found.boxes, found.problems
    assert boxes.tolist() == [[0, 0.5, 0.5, 1, 1]]
    assert problems == []


def test_boxes_without_area_and_duplicates_are_dropped(tmp_path: Path) -> None:
    path = lines(tmp_path, "0 .5 .5 0 .2\n0 .5 .5 .2 .2\n0 0.5 0.5 0.20 0.2\n1 .5 .5 .2 .2\n")
    found = labels.scan(path, labels.Form(2))
    boxes, problems = found.boxes, found.problems
    assert boxes[:, 0].tolist() == [0, 1]
    assert [(p.kind, p.line) for p in problems] == [("degenerate box", 1), ("duplicate box", 3)]


def test_scan_goes_on_where_read_stops(tmp_path: Path) -> None:
    found = labels.scan(lines(tmp_path, "bad\n0 .5 .5 .2 .2\n9 0 0 1 1\n"), labels.Form(1))
    boxes, problems = found.boxes, found.problems
    assert len(boxes) == 1
    assert [(p.line, p.fatal) for p in problems] == [(1, True), (3, True)]


# Sizes and centres whose box lies inside the image, as float32.
inside = st.tuples(
    st.integers(0, 79),
    *[st.floats(0.25, 0.75, width=32)] * 2,
    *[st.floats(0.0009765625, 0.5, width=32)] * 2,
)


@settings(deadline=None, max_examples=30)  # each example waits for the disk
@given(rows=st.lists(inside, unique=True, max_size=5))
def test_what_is_written_is_read_back_to_the_bit(
    rows: list[tuple[float, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.txt"
    boxes = np.array(rows, dtype=np.float32).reshape(-1, 5)
    labels.write(path, boxes)
    assert labels.read(path, classes=80).tobytes() == boxes.tobytes()


def test_merged_classes_are_class_0_and_their_doubles_one_box(tmp_path: Path) -> None:
    path = lines(tmp_path, "2 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.4 0.2\n")
    boxes = labels.read(path, classes=1, merged=3)
    assert boxes[:, 0].tolist() == [0, 0]
    assert boxes[:, 3].tolist() == pytest.approx([0.2, 0.4])
    with pytest.raises(DataError, match="class 2 is out of range; names has 0 to 1"):
        labels.read(path, classes=1, merged=2)
