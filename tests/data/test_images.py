"""Image files: whole ones with data behind their end, broken ones, and what becomes of those."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
from datasets import draw_image

from prune.cli import main
from prune.data.frames import fit
from prune.data.images import decode, expect_few_pixels, expect_whole, read_image
from prune.data.store import image_sizes
from prune.data.truncation import is_truncated
from prune.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
ENCODED = {
    "jpeg": cv2.imencode(".jpg", NOISE)[1].tobytes(),
    "progressive": cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes(),
    "restarts": cv2.imencode(".jpg", NOISE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])[1].tobytes(),
    "png": cv2.imencode(".png", NOISE)[1].tobytes(),
}
THUMBNAIL = cv2.imencode(".jpg", NOISE[:8, :8])[1].tobytes()
# A segment that holds a whole JPEG, as cameras write one.
EXIF = b"\xff\xe1" + (len(THUMBNAIL) + 2).to_bytes(2, "big") + THUMBNAIL
WITH_THUMBNAIL = ENCODED["jpeg"][:2] + EXIF + ENCODED["jpeg"][2:]
# Bytes as in a video, with what looks like the start of a JPEG's scan.
VIDEO = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 40 + b"\xff\xda\xff\x00IEND"


@pytest.mark.parametrize("behind", [b"", VIDEO, b"\0" * 5000, THUMBNAIL, b"\n"])
@pytest.mark.parametrize("data", [*ENCODED.values(), WITH_THUMBNAIL], ids=[*ENCODED, "thumbnail"])
def test_whole_image_with_data_behind_its_end_is_whole(data: bytes, behind: bytes) -> None:
    path = Path("a.jpg")
    assert np.array_equal(decode(data + behind, path), decode(data, path))
    expect_whole(data + behind, path)


@pytest.mark.parametrize("data", [*ENCODED.values(), WITH_THUMBNAIL], ids=[*ENCODED, "thumbnail"])
def test_truncated_image_is_found_wherever_it_is_cut(data: bytes) -> None:
    for end in (*range(700, len(data) - 1, 97), len(data) - 2, len(data) - 1):
        assert is_truncated(data[:end]) or end >= len(data) - 4  # a PNG's last checksum
    with pytest.raises(DataError, match="image is truncated"):
        expect_whole(data[: len(data) // 2], Path("a.jpg"))


@pytest.mark.parametrize(
    ("suffix", "size"),
    [
        (".jp2", (48, 64)),  # OpenCV writes no smaller ones
        *(
            (suffix, size)
            for suffix in (".bmp", ".tif", ".webp", ".ppm", ".png", ".jpg")
            for size in ((48, 64), (1, 1), (3, 500))
        ),
    ],
)
def test_every_format_and_size_is_whole_or_broken_as_its_decoder_says(
    suffix: str, size: tuple[int, int]
) -> None:
    image = cv2.resize(NOISE, size[::-1])
    data = cv2.imencode(suffix, image)[1].tobytes()
    expect_whole(data, Path(f"a{suffix}"))
    with pytest.raises(DataError):
        expect_whole(data[: len(data) // 3], Path(f"a{suffix}"))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GIF89a" + b"\0" * 99, "it is a GIF file, whatever its name says"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 99, "it is HEIC"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
    ],
)
def test_what_a_file_is_instead_is_said(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        decode(data, Path("a.jpg"))


def broken(folder: Path) -> None:
    """Break two of six train images and one of val, and put a video behind a third."""
    tiny.data(folder)
    images = folder / "images"
    (images / "train" / "1.png").write_bytes(b"")
    whole = (images / "train" / "2.png").read_bytes()
    (images / "train" / "2.png").write_bytes(whole[: len(whole) // 2])
    (images / "train" / "3.png").write_bytes((images / "train" / "3.png").read_bytes() + VIDEO)
    (images / "val" / "0.png").write_bytes(b"no image")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_training_leaves_broken_images_out_and_counts_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    broken(tmp_path)
    plain = ["--data", "data.yaml", "--cfg", str(tiny.cfg(tmp_path)), "--workers", workers]
    words = [*plain, "--img-size", "64", "--batch-size", "3", "--device", "cpu", "--no-plots"]
    assert main(["train", *words, "--epochs", "2"]) == 0
    told = capsys.readouterr().err
    assert "train: 2 broken images are left out of 6, e.g." in told
    assert "val: 1 broken image is left out of 6, e.g." in told
    assert "train: 4 images, 8 boxes, 0 images without a label file" in told
    assert told.count("left out") == 2
    assert main(["train", *words, "--epochs", "2", "--strict"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "1.png: image file is empty (2 broken images in all; --strict refuses them)" in line


def test_check_and_val_count_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken(tmp_path)
    assert main(["data", "check", "data.yaml", "--json"]) == 0
    splits = json.loads(capsys.readouterr().out)["splits"]
    assert [splits[name]["broken"] for name in ("train", "val")] == [2, 1]
    weights = str(tiny.weights(tmp_path))
    words = ["val", "--weights", weights, "--data", "data.yaml", "--no-plots", "--workers", "0"]
    assert main([*words, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["images"] == 5
    assert "val: 1 broken image is left out of 6" in told.err
    assert main([*words, "--strict"]) == 2


def test_a_split_of_broken_images_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken(tmp_path)
    for path in (tmp_path / "images" / "val").iterdir():
        path.write_bytes(b"no image")
    weights = str(tiny.weights(tmp_path))
    assert main(["val", "--weights", weights, "--data", "data.yaml", "--no-plots"]) == 2
    assert "val: none of the 6 images can be read; " in capsys.readouterr().err
    assert main(["data", "check", "data.yaml"]) == 2
    assert "no image can be read: val" in capsys.readouterr().out


def test_criteria_look_past_a_broken_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken(tmp_path)
    draw_image(tmp_path / "images" / "train" / "9.jpg")
    weights = str(tiny.weights(tmp_path))
    words = ["global", "--weights", weights, "--macs", "0.9", "--criterion", "taylor"]
    assert main([*words, "--data", "data.yaml", "--out", str(tmp_path / "small.pt")]) == 0
    assert "image file is empty; another image takes its place" in capsys.readouterr().err


def _bomb(side: int) -> bytes:
    """Encode a black one-bit PNG: 112 MB of pixels in a few hundred kB, 2.7 GB as 8-bit colour."""
    row = b"\0" + bytes(side // 8)
    packer = zlib.compressobj(9)
    packed = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    parts = (chunk(b"IHDR", header), chunk(b"IDAT", packed), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("read", [decode, expect_whole])
def test_an_image_of_more_pixels_than_are_read_is_refused_undecoded(
    read: Callable[[bytes, Path], object],
) -> None:
    with pytest.raises(DataError, match=r"a\.png: image has more than 178,956,970 pixels"):
        read(_bomb(13_384), Path("a.png"))  # 179,131,456


@pytest.mark.parametrize("target", ["pipe", "device", "folder"])
def test_an_image_that_is_no_regular_file_is_refused_at_once(target: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    if target == "pipe":
        os.mkfifo(path)
    elif target == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for read in (read_image, lambda path: image_sizes([path])):
        with pytest.raises(DataError, match=r"x\.jpg"):
            read(path)


def test_frames_larger_than_images_may_be_are_refused_undecoded() -> None:
    expect_few_pixels(4320, 7680, of="a.mp4")
    with pytest.raises(DataError, match=r"a\.mp4: frames have 16384 x 16384 pixels; at most 178,9"):
        expect_few_pixels(16384.0, 16384.0, of="a.mp4")


@pytest.mark.parametrize("shape", [(1, 70_000), (70_000, 1), (2, 40_000)])
def test_an_image_of_any_proportions_fits_into_its_frame(shape: tuple[int, int]) -> None:
    image, frame = fit(np.zeros((*shape, 3), dtype=np.uint8), (64, 96))
    assert image.shape == (64, 96, 3)
    assert (frame.height, frame.width) == shape
    assert min(frame.scale_x, frame.scale_y) > 0
