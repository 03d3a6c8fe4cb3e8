"""prune data voc: boxes land where VOC put them, sources stay, broken things stop it."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import SIZE, draw_image, snapshot, voc, xml

from prune.cli import main
from prune.data import labels, spec

ONE = xml([("cat", (1, 1, *SIZE))])
REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


def three(folder: Path) -> Path:
    """Three images with cats and a dog, dealt out by lists."""
    files = {
        "a": xml([("dog", (5, 4, 14, 9)), ("cat", (1, 1, 40, 30))]),
        "b": xml([("cat", (2, 3, 4, 5))]),
        "c": xml([]),
    }
    return voc(folder, files, train="a\n", val="b  1\n", test="c\n")


def files(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def convert(folder: Path, *more: str) -> int:
    return main(["data", "voc", str(folder), "--out", str(folder.parent / "out" / "d.yaml"), *more])


def boxes(tmp_path: Path, key: str) -> list[list[float]]:
    rows = labels.read(tmp_path / f"out/d/labels/{key}.txt", classes=9)
    return [[float(value) for value in row] for row in rows]


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Convert what cannot be converted; return the one line it says."""
    before = snapshot(folder.parent)
    assert convert(folder, *more) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("prune: ")
    assert said.err.count("\n") == 1
    assert snapshot(folder.parent) == before
    assert not (folder.parent / "out" / "d.yaml").exists()
    return said.err


def test_boxes_count_pixels_from_one_and_include_the_last(tmp_path: Path) -> None:
    assert convert(three(tmp_path / "voc")) == 0
    np.testing.assert_allclose(
        boxes(tmp_path, "train/a"),
        [
            [1, (4 + 14) / 2 / 40, (3 + 9) / 2 / 30, 10 / 40, 6 / 30],  # ten by six pixels
            [0, 0.5, 0.5, 1, 1],  # 1..width is the whole image
        ],
        rtol=1e-6,
    )


def test_result_is_a_data_set_and_the_source_is_untouched(tmp_path: Path) -> None:
    source = three(tmp_path / "voc")
    before = snapshot(source)
    assert convert(source) == 0
    assert snapshot(source) == before
    loaded = spec.load(tmp_path / "out" / "d.yaml")
    assert loaded.names == ("cat", "dog")
    assert {k: [p.name for p in v] for k, v in loaded.splits.items()} == {
        "train": ["a.png"],
        "val": ["b.png"],
        "test": ["c.png"],
    }
    assert labels.label_path(loaded.images("test")[0]).read_text() == ""  # background
    assert "nc: 2" in (tmp_path / "out" / "d.yaml").read_text()


def test_links_outlive_a_move_of_the_whole_project(tmp_path: Path) -> None:
    source = three(tmp_path / "project" / "voc")
    assert convert(source) == 0
    (tmp_path / "project").rename(tmp_path / "moved")
    link = tmp_path / "moved/out/d/images/train/a.png"
    assert link.is_symlink()
    assert link.read_bytes() == (tmp_path / "moved/voc/JPEGImages/a.png").read_bytes()


def test_copies_stand_alone(tmp_path: Path) -> None:
    source = three(tmp_path / "voc")
    original = (source / "JPEGImages/a.png").read_bytes()
    assert convert(source, "--copy") == 0
    source.rename(tmp_path / "gone")
    copied = tmp_path / "out/d/images/train/a.png"
    assert not copied.is_symlink()
    assert copied.read_bytes() == original


def test_second_run_replaces_the_first(tmp_path: Path) -> None:
    source = three(tmp_path / "voc")
    assert convert(source, "--copy") == 0
    (source / "Annotations/a.xml").write_text(ONE)
    assert convert(source) == 0
    assert boxes(tmp_path, "train/a") == [[0, 0.5, 0.5, 1, 1]]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["d", "d.yaml"]


def test_run_that_is_cut_short_leaves_the_old_data_set_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    source = three(tmp_path / "voc")
    assert convert(source) == 0
    before = files(tmp_path / "out")
    voc(tmp_path / "voc", {"e": xml([("cow", (5, 4, 14, 9))])}, train="e\n")
    # Between the renames of the folder and the yaml, which is the last; and amid the filling.
    for place in ("pathlib.Path.replace", "prune.data.yolo._place"):
        with monkeypatch.context() as patched:
            patched.setattr(place, stop)
            assert convert(source) == 130
        assert files(tmp_path / "out") == before
    assert convert(source) == 0
    assert files(tmp_path / "out") != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("d/labels/train/a.txt", "was changed since prune data wrote it"),
        ("d/labels/train/mine.txt", "was not written by prune data"),
        ("d.yaml", "d.yaml was not written by prune data"),
        ("d/written.json", "written.json:1: broken JSON"),
    ],
    ids=["edited-label", "own-label", "own-yaml", "no-record"],
)
def test_nothing_that_a_person_made_is_replaced(
    tmp_path: Path, change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = three(tmp_path / "voc")
    assert convert(source) == 0
    capsys.readouterr()
    (tmp_path / "out" / change).write_text("0 0.1 0.1 0.1 0.1\n")
    before = snapshot(tmp_path)
    assert convert(source) == 2
    assert said in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_folder_of_someone_else_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out/d").mkdir(parents=True)
    (tmp_path / "out/d/thesis.tex").touch()
    assert "thesis.tex was not written by" in refused(three(tmp_path / "voc"), capsys)


def test_names_fix_the_order_and_leave_others_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(three(tmp_path / "voc"), "--names", "cow,cat", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["names"] == ["cow", "cat"]
    assert document["splits"]["train"]["boxes"] == {"cow": 0, "cat": 1}
    assert {(p["kind"], p["detail"]) for p in document["problems"]} == {
        ("class left out", "dog, 1 boxes"),
        ("class without boxes", "cow"),
    }
    assert boxes(tmp_path, "train/a") == [[1, 0.5, 0.5, 1, 1]]


def test_difficult_boxes_stay_unless_told(tmp_path: Path) -> None:
    hard = xml([("cat", (1, 1, *SIZE))], more="<difficult>1</difficult>")
    source = voc(tmp_path / "voc", {"a": hard, "b": ONE}, train="a\n", val="b\n")
    assert convert(source) == 0
    assert len(boxes(tmp_path, "train/a")) == 1
    assert convert(source, "--skip-difficult") == 0
    assert len(boxes(tmp_path, "train/a")) == 0


def test_seeded_split_is_the_same_twice_and_another_for_another_seed(tmp_path: Path) -> None:
    source = voc(tmp_path / "voc", {f"p{i}": ONE for i in range(20)})
    dealt = []
    for seed in ("0", "0", "1"):
        assert convert(source, "--split", "0.6,0.3,0.1", "--seed", seed) == 0
        loaded = spec.load(tmp_path / "out" / "d.yaml")
        dealt.append({k: [p.name for p in v] for k, v in loaded.splits.items()})
    assert dealt[0] == dealt[1] != dealt[2]
    assert [len(files) for files in dealt[0].values()] == [12, 6, 2]


def test_trainval_is_dealt_out_and_test_stays_apart(tmp_path: Path) -> None:
    files = {f"p{i:02}": ONE for i in range(22)}
    both, test = "\n".join(list(files)[:18]), "\n".join(list(files)[18:])
    assert convert(voc(tmp_path / "voc", files, trainval=both, test=test)) == 0
    loaded = spec.load(tmp_path / "out" / "d.yaml")
    assert [len(loaded.images(name)) for name in spec.SPLITS] == [16, 2, 4]
    assert [p.stem for p in loaded.images("test")] == list(files)[18:]


def test_split_given_wins_over_the_lists(tmp_path: Path) -> None:
    assert convert(three(tmp_path / "voc"), "--split", "2,1,0") == 0
    loaded = spec.load(tmp_path / "out" / "d.yaml")
    assert {name: len(files) for name, files in loaded.splits.items()} == {"train": 2, "val": 1}


@pytest.mark.parametrize("entry", ["{}", "{} -1", "{}   1", "{}.png", "JPEGImages/{}.png  0"])
def test_lists_name_stems_or_files_with_or_without_marks(tmp_path: Path, entry: str) -> None:
    files = {stem: ONE for stem in ("blood cell 1", "blood cell", "c.d")}
    train, val = (entry.format(stem) + "\n" for stem in ("blood cell 1", "c.d"))
    assert convert(voc(tmp_path / "voc", files, train=train, val=val)) == 0
    loaded = spec.load(tmp_path / "out" / "d.yaml")
    named = {split: [path.stem for path in paths] for split, paths in loaded.splits.items()}
    assert named == {"train": ["blood cell 1"], "val": ["c.d"]}


def test_lists_of_other_images_are_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(voc(tmp_path / "voc", {"a": ONE}, train="x\n", val="y\n")) == 2
    assert "ImageSets/Main name no image of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_images_folder_and_flat_folder_work_too(tmp_path: Path) -> None:
    source = three(tmp_path / "voc")
    (source / "JPEGImages").rename(source / "images")
    assert convert(source) == 0
    for path in [*source.glob("images/*"), *source.glob("Annotations/*")]:
        path.rename(source / path.name)
    assert convert(source) == 0
    assert len(boxes(tmp_path, "train/a")) == 2


def test_a_size_of_hundreds_of_digits_is_told_shortly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = three(tmp_path / "voc")
    (source / "Annotations/a.xml").write_text(xml([("cat", (1, 1, 5, 5))], size=(10**200, 30)))
    assert convert(source) == 0
    told = capsys.readouterr()
    assert "a whole number of about 201 digits" in told.err
    assert "0" * 100 not in told.out + told.err


def test_everything_odd_is_told_with_file_and_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = [("cat", (7, 7, 7, 7)), ("cat", (30, 3, 60, 9)), ("cat", (50, 3, 60, 9))]
    files = {
        "a": xml([*odd, ("cat", (1, 1, 9, 9)), ("cat", (1, 1, 9, 9))]),
        "b": xml([("cat", (0, 0, 40, 30))], size=None),
        "c": xml([("cat", (1, 1, 5, 5))], size=(30, 30)),
        "d": ONE,
    }
    source = voc(tmp_path / "voc", files, train="a\nc\nghost\n", val="b\n")
    draw_image(source / "JPEGImages/lone.png", seed=9)
    (source / "Annotations/lost.xml").write_text(ONE)
    assert convert(source, "--json") == 0
    told = json.loads(capsys.readouterr().out)["problems"]
    assert [(p["kind"], Path(p["file"]).name, p["line"]) for p in told] == [
        ("image missing", "lost.xml", None),
        ("image without XML", "lone.png", None),
        ("listed without image or XML", "train.txt", 3),
        ("in no split list", "d.xml", None),
        ("degenerate box", "a.xml", 3),
        ("box reaches out of the picture", "a.xml", 4),
        ("box outside the picture", "a.xml", 5),
        ("duplicate box", "a.xml", 7),
        ("image size differs", "c.xml", None),
        ("image size missing", "b.xml", None),
    ]
    assert not any(p["fatal"] for p in told)
    np.testing.assert_allclose(
        boxes(tmp_path, "train/a"),
        [[0, 34.5 / 40, 5.5 / 30, 11 / 40, 7 / 30], [0, 4.5 / 40, 4.5 / 30, 9 / 40, 9 / 30]],
        rtol=1e-6,
    )
    assert boxes(tmp_path, "val/b") == [[0, 0.5, 0.5, 1, 1]]  # a pixel over is no remark


@pytest.mark.parametrize(
    ("claimed", "size"),
    [((80, 60), (80, 60)), ((50, 30), SIZE)],
    ids=["resized", "wrong"],
)
def test_boxes_fit_the_size_claimed_only_when_the_image_was_resized(
    tmp_path: Path, claimed: tuple[int, int], size: tuple[int, int]
) -> None:
    text = xml([("cat", (1, 1, 10, 10))], size=claimed)
    assert convert(voc(tmp_path / "voc", {"a": text, "b": ONE}, train="a\n", val="b\n")) == 0
    (box,) = boxes(tmp_path, "train/a")
    np.testing.assert_allclose(box[3:], [10 / size[0], 10 / size[1]], rtol=1e-6)


def test_a_made_up_size_is_described_in_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = xml([("cat", (1, 1, 10, 10))], size=(10**300, 10**300))
    convert(voc(tmp_path / "voc", {"a": text, "b": ONE}, train="a\n", val="b\n"))
    long = "a whole number of about 301 digits"
    assert f"{long} by {long} where the image has" in " ".join(capsys.readouterr().out.split())


BOMB = (
    '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>\n<annotation><filename>&y;</filename>'
    "</annotation>"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<annotation>\n<object>\n</annotation>", "a.xml:3: broken XML: mismatched tag"),
        ("", "a.xml:1: broken XML"),
        ("{}", "a.xml:1: broken XML"),
        (BOMB, "a.xml: broken XML: refused as unsafe: EntitiesForbidden"),
        ("<html>\n</html>", "a.xml:1: broken XML: the root is <html>"),
        (xml([("cat", (1, 1, 2, 2))]).replace("<xmax>2", "<xmax>two"), "a.xml:3: broken XML"),
        (xml([("cat", (1, 1, 2, 2))]).replace("<xmax>2", "<xmax>nan"), "'nan', not a number"),
        (xml([("cat", (1, 1, 2, 2))]).replace("bndbox", "polygon"), "cat has no <bndbox>"),
        (xml([("cat", (1, 1, 2, 2))]).replace("xmin", "left"), "<bndbox> has no <xmin>"),
        (xml([(" ", (1, 1, 2, 2))]), "an object has no <name>"),
    ],
)
def test_broken_xml_is_left_out_with_its_image_and_stops_it_if_strict(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = voc(tmp_path / "voc", {"a": text, "b": ONE, "c": ONE}, train="a\nb\n", val="c\n")
    assert said in refused(source, capsys, "--strict")
    assert convert(source, "--json") == 0
    out, err = capsys.readouterr()
    assert err.startswith("note: 1 XML file is broken; the image is left out; --strict stops")
    assert [(p["kind"], p["fatal"]) for p in json.loads(out)["problems"]] == [("broken XML", False)]
    assert not (tmp_path / "out/d/images/train/a.png").exists()


def test_broken_images_are_left_out_counted_and_stop_it_if_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = three(tmp_path / "voc")
    whole = (source / "JPEGImages/c.png").read_bytes()
    (source / "JPEGImages/c.png").write_bytes(whole[:500])
    (source / "JPEGImages/b.png").write_bytes(b"")
    said = refused(source, capsys, "--strict")
    assert "JPEGImages/b.png: broken image: " in said
    assert "(and 1 more; without --strict such files are left out)" in said
    for words in ([], ["--skip-broken"]):
        assert convert(source, "--split", "1,0,0", *words) == 0
        out, err = capsys.readouterr()
        assert "note: 2 images are broken and left out; --strict stops instead (e.g. b.png" in err
        assert "c.png: broken image" in out
        assert "stops training" not in out
        assert [p.stem for p in spec.load(tmp_path / "out/d.yaml").images("train")] == ["a"]


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (
            "Annotations",
            "no XML files in it or below; name the folders: --annotations DIR --images",
        ),
        (
            "JPEGImages",
            "no images in it or below; name the folders: --annotations DIR --images DIR",
        ),
        ("", "is not a folder"),
    ],
)
def test_folder_with_nothing_to_convert_is_refused(
    tmp_path: Path, gone: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = three(tmp_path / "voc")
    (source / gone).rename(tmp_path / "elsewhere")
    assert said in refused(source, capsys)


def test_data_without_a_single_box_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = voc(tmp_path / "voc", {"a": xml([("cat", (3, 3, 3, 3))]), "b": xml([])})
    assert "no image with a usable box; first problem:" in refused(source, capsys)


def test_names_that_no_box_has_are_told_beside_those_that_boxes_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(three(tmp_path / "voc"), capsys, "--names", "Cat,Dog")
    assert said.endswith("voc: no box is of Cat, Dog; the boxes are of cat, dog\n")


def test_a_set_that_replaces_an_earlier_one_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, yaml = three(tmp_path / "voc"), tmp_path / "out" / "d.yaml"
    assert convert(source) == 0
    assert "replaced" not in capsys.readouterr().err
    assert convert(source, "--split", "0.4,0.3,0.3") == 0
    assert capsys.readouterr().err == f"note: {yaml}, made earlier, is replaced\n"


def test_too_few_images_for_the_shares_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = voc(tmp_path / "voc", {"a": ONE, "b": ONE})
    assert "2 images are too few" in refused(source, capsys, "--split", "0.8,0.1,0.1")


@pytest.mark.parametrize("out", ["voc/data.yaml", "voc/Annotations/d.yaml", "out/d", "voc"])
def test_target_in_the_source_or_without_yaml_is_refused(
    tmp_path: Path, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = three(tmp_path / "voc")
    before = snapshot(tmp_path)
    assert main(["data", "voc", str(source), "--out", str(tmp_path / out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        ["--split", "0.8,0.2"],
        ["--split", "a,b,c"],
        ["--split", "nan,1,1"],
        ["--split", "0,1,1"],
        ["--split", "-1,1,1"],
        ["--names", "a,a"],
        ["--names", "a,,b"],
        ["--seed", "-1"],
    ],
)
def test_option_out_of_range_is_refused(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        convert(three(tmp_path / "voc"), *words)
    assert stopped.value.code == 2


@pytest.mark.parametrize(
    ("name", "boxes", "degenerate"), [("bccd", 4886, 2), ("raccoon", 217, 0)], ids=str
)
def test_real_sets_come_over_whole(
    tmp_path: Path, name: str, boxes: int, degenerate: int, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (REAL / name).is_dir():
        pytest.skip("the real pictures are not here; the tiny sets above cover the same ground")
    assert main(["data", "voc", str(REAL / name), "--out", f"{tmp_path}/d.yaml", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    counts = document["splits"].values()
    assert sum(sum(count["boxes"].values()) for count in counts) == boxes
    assert [p["kind"] for p in document["problems"]] == ["degenerate box"] * degenerate


@pytest.mark.parametrize("encoding", ["GBK", "gb2312", "Shift_JIS", "big5", "EUC-KR", "utf-16"])
def test_xml_is_read_in_the_encoding_it_declares(tmp_path: Path, encoding: str) -> None:
    source = three(tmp_path / "voc")
    text = xml([("犬", (1, 1, 40, 30))])
    path = source / "Annotations" / "a.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>\n{text}'.encode(encoding))
    assert convert(source) == 0
    assert spec.load(tmp_path / "out" / "d.yaml").names == ("cat", "犬")


@pytest.mark.parametrize("encoding", ["gbk", "gb-none", "euc-none"])
def test_xml_that_is_not_in_the_encoding_it_declares_is_broken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str
) -> None:
    source = three(tmp_path / "voc")
    path = source / "Annotations" / "b.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?>\n<a'.encode() + b"\xff>")
    assert convert(source, "--split", "1,0,0") == 0
    assert "1 XML file is broken" in capsys.readouterr().err
