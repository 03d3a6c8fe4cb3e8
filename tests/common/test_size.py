"""One value for the size of an image: height first, a square as it was always written."""

from pathlib import Path

import pytest

from prune.cli import _hyphens, main, read
from prune.common.size import Size
from prune.errors import CfgError
from prune.models.darknet import build
from prune.models.image_size import image_size


@pytest.mark.parametrize("size", [Size(320, 320), Size(288, 352)], ids=str)
def test_what_a_file_holds_is_read_back(size: Size) -> None:
    assert Size.read(size.plain) == size
    assert Size.of(tuple(size)) == size  # type: ignore[arg-type]  # of two
    assert Size.read([int(word) for word in size.words]) == size


def test_squares_print_as_one_number_and_others_say_their_order() -> None:
    assert (str(Size.of(320)), Size.of(320).described) == ("320", "320 pixels")
    assert str(Size(288, 352)) == "288 x 352"
    assert Size(288, 352).described == "288 x 352 pixels (height x width)"
    assert (Size.of(320).plain, Size(288, 352).plain) == (320, [288, 352])


@pytest.mark.parametrize("value", [None, "320", 3.5, True, [], [1, 2, 3], [64, "64"], {"h": 1}])
def test_what_is_no_size_is_not_read_as_one(value: object) -> None:
    assert Size.read(value) is None


def test_sides_are_raised_to_multiples_one_by_one() -> None:
    assert Size(300, 352).raised(32) == (320, 352)
    assert Size(0, 1).raised(8) == (8, 8)
    assert Size(64, 96).fits(32)
    assert not Size(64, 90).fits(32)
    assert not Size(0, 64).fits(32)


def test_a_size_is_the_shape_of_a_batch() -> None:
    assert Size(64, 96).batch(2) == (2, 3, 64, 96)


def test_a_size_beyond_every_machine_says_which_limit_it_is_above() -> None:
    assert not Size(1536, 1536).excess(16)
    assert "at most 16384 pixels per side" in Size(2**40, 32).excess()
    assert "1 x 3 x 16384 x 16384 are more" in Size.of(16384).excess()
    assert "4096 x 3 x 640 x 640 are more" in Size.of(640).excess(4096)


@pytest.mark.parametrize("line", ["width=100000", "height=16384"])
def test_a_cfg_for_larger_images_than_there_are_is_refused(line: str) -> None:
    net = build(
        f"[net]\n{line}\n[convolutional]\nfilters=6\nactivation=linear\n"
        "[yolo]\nanchors=8,8\nclasses=1\n",
        source="x.cfg",
    )
    with pytest.raises(CfgError, match=r"x.cfg, line 1, .net.: names images of .* at most"):
        image_size(net)


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        (["--img-size", "64"], Size(64, 64)),
        (["--img-size", "64", "96"], Size(64, 96)),
        (["--img_size", "64", "96"], Size(64, 96)),
        (["--imgsz", "64", "96"], Size(64, 96)),
        (["--img", "64", "64"], Size(64, 64)),
        (["--img=64", "96"], Size(64, 96)),
        (["--img-size", "64x96"], Size(64, 96)),
        (["--img-size", "64,96"], Size(64, 96)),
        (["--img-size", "64 96"], Size(64, 96)),
        (["--img-size", "[64, 96]"], Size(64, 96)),
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [False, True], ids=["behind", "before"])
def test_one_or_two_numbers_leave_the_file_behind_them_alone(
    typed: list[str], size: Size, first: bool
) -> None:
    words = [*typed, "net.pt"] if first else ["net.pt", *typed]
    args = read("show", [_hyphens(word) for word in words])
    assert (args.img_size, str(args.file)) == (size, "net.pt")
    assert "img_size" in args.typed


@pytest.mark.parametrize("line", ["img-size: [64, 96]", "img_size: 64 96", "imgsz: 64x96"])
def test_a_config_file_holds_one_number_or_two(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{line}\n")
    assert read("show", ["--config", str(path), "net.pt"]).img_size == Size(64, 96)
    assert read("show", ["net.pt", "--img", "32", "--config", str(path)]).img_size == Size(32, 32)


@pytest.mark.parametrize(
    "typed", ["0", "64 0", "-64", "64.5", "64 64 64", "wide", "64x", "٦٤", "64 16385"]
)
def test_what_is_no_size_is_refused_with_an_example(
    typed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["show", "net.pt", "--img-size", *typed.split()])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said.count("\n") == 1
    assert "e.g. 320 or 288 352" in said
