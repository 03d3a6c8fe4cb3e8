"""The command detect, on a network that finds every square."""

import itertools
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import squares

from prune import checkpoint
from prune.cli import main
from prune.data import labels
from prune.data.images import Image
from prune.errors import DataError
from prune.evaluate import DetectConfig, detect, sources
from prune.evaluate.predict import Found
from prune.export.onnx import export
from prune.models.darknet import build

PICTURES = len(squares.SPLIT)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Return the command's words with a checkpoint, a folder of images and one for runs."""
    squares.data(tmp_path)
    weights = squares.save(tmp_path / "net.pt")
    places = ["--weights", str(weights), "--source", str(tmp_path / "images" / "val")]
    return ["detect", *places, "--project", str(tmp_path / "runs"), "--device", "cpu"]


def boxes_of(document: dict[str, list[dict[str, object]]]) -> list[tuple[object, object]]:
    """Return (class, corners) of one image's boxes, in a fixed order."""
    return sorted((box["class"], box["xyxy"]) for box in document["boxes"])


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_json_names_every_square(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    export(squares.network(), tmp_path / "net.onnx", names=squares.NAMES, imgsz=(64, 64))
    weights = str(tmp_path / f"net{suffix}")
    assert main([*words, "--weights", weights, "--json", "--nosave"]) == 0
    documents = json.loads(capsys.readouterr().out)
    for document, truth in zip(documents, squares.SPLIT, strict=True):
        assert boxes_of(document) == sorted((s[0], squares.corners(s)) for s in truth)
    box = documents[0]["boxes"][0]
    assert set(box) == {"xyxy", "class", "name", "confidence"}
    assert box["name"] == squares.NAMES[box["class"]]
    assert not (tmp_path / "runs").exists()


def test_images_are_written_with_boxes(words: list[str], tmp_path: Path) -> None:
    assert main(words) == 0
    folder = tmp_path / "runs" / "exp"
    assert (folder / "run.json").is_file()
    for number, truth in enumerate(squares.SPLIT):
        source, drawn = (
            cv2.imread(str(place / f"{number}.png"))
            for place in (tmp_path / "images" / "val", folder)
        )
        assert source is not None and drawn is not None
        assert np.array_equal(source, drawn) == (not truth)


def test_text_files_are_the_labels(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--save-txt", "--nosave"]) == 0
    for number in range(PICTURES):
        written = labels.read(tmp_path / "runs" / "exp" / "labels" / f"{number}.txt", classes=2)
        truth = labels.read(tmp_path / "labels" / "val" / f"{number}.txt", classes=2)
        order = [np.lexsort(rows.T) for rows in (written, truth)]
        np.testing.assert_allclose(written[order[0]], truth[order[1]], atol=1e-5)


def test_text_files_hold_confidences_on_request(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--save-conf", "--nosave"]) == 0
    (line,) = (tmp_path / "runs" / "exp" / "labels" / "1.txt").read_text().splitlines()
    assert float(line.split()[5]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("classes", [["1"], ["blue"], ["blue,1"]], ids=["number", "name", "both"])
def test_only_the_classes_asked_for(
    words: list[str], capsys: pytest.CaptureFixture[str], classes: list[str]
) -> None:
    assert main([*words, "--json", "--nosave", "--classes", *classes]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert {box["name"] for document in documents for box in document["boxes"]} == {"blue"}


def test_old_habit_is_taken_with_a_note(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--pd", "--nosave"]) == 0
    out, err = capsys.readouterr()
    assert "--pd is not needed" in err
    assert "0.png: 1 red, 1 blue" in out and "2.png: nothing" in out


def film(path: Path, codec: str = "mp4v") -> Path:
    """Write a video of six frames in which the red square moves on."""
    size = squares.draw_image([]).shape[1::-1]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 5, size)
    for column in range(6):
        writer.write(squares.draw_image([(0, 2, column)]))
    writer.release()
    return path


def test_video_goes_frame_by_frame(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = film(tmp_path / "film.mp4")
    assert main([*words, "--source", str(source), "--json", "--save-txt"]) == 0
    documents = json.loads(capsys.readouterr().out)
    assert [document["frame"] for document in documents] == list(range(6))
    for column, document in enumerate(documents):
        assert boxes_of(document) == [(0, squares.corners((0, 2, column)))]
    written = tmp_path / "runs" / "exp" / "film.mp4"
    reel = sources.opened(sources.find(str(written))[0])
    assert len(list(reel.images)) == 6 and reel.rate == 5
    assert (written.parent / "labels" / "film_000005.txt").is_file()


def test_a_video_that_was_cut_short_is_told(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = film(tmp_path / "film.avi", "MJPG")
    frames = [found.start() for found in re.finditer(b"00dc", source.read_bytes())]
    os.truncate(source, frames[3])
    assert main([*words, "--source", str(source)]) == 0
    assert "its header promises 6 frames, and " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["picture.jpg", "film.mp4"])
@pytest.mark.parametrize("content", [b"", b"neither"], ids=["empty", "broken"])
def test_broken_file_is_one_line_and_nothing_written(
    words: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert main([*words, "--source", str(path), "--json"]) == 2
    out, err = capfd.readouterr()
    assert name in err and len(err.splitlines()) == 1
    assert not out
    assert not list((tmp_path / "runs").glob("*"))


def test_broken_image_does_not_stop_the_others(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "val" / "1.png").write_bytes(b"no picture")
    assert main([*words, "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)) == PICTURES - 1
    assert len([line for line in err.splitlines() if line.startswith("prune: ")]) == 1
    assert f"note: 1 of {PICTURES} sources could not be read" in err
    assert main([*words, "--json", "--strict", "--name", "strict"]) == 2
    assert not (tmp_path / "runs" / "exp" / "1.png").exists()
    assert (tmp_path / "runs" / "exp" / "3.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--source", "nowhere"], "no such file or match: nowhere"),
        (["--source", "*.jpg"], "no such file or match: *.jpg"),
        (["--source", "."], "no images or videos in ."),
        (["--source", "net.pdf"], "neither an image nor a video"),
        (["--source", "net.txt"], "1 of 1 lines name no image, video or stream"),
        (["--source", "7"], "cannot open camera 7"),
        (["--source", "rtsp://me:secret@127.0.0.1:9/x"], "cannot open rtsp://127.0.0.1:9/x"),
        (["--source", "http://127.0.0.1:9/a.jpg"], "cannot open http://127.0.0.1:9/a.jpg"),
        (["--source", "rtsp://me:p@ss@127.0.0.1:9/x"], "cannot open rtsp://127.0.0.1:9/x"),
        (["--source", "pipe"], "cannot read pipe: it is a pipe; a regular file is needed"),
        (["--source", os.devnull], "it is a device; a regular file is needed"),
        (["--source", " "], "the source is empty"),
        (["--source", "ftp://127.0.0.1/a.jpg"], "a URL begins with one of http://"),
        (["--source", "x" * 300], "File name too long"),
        (["--classes", "green"], "class 'green' is unknown"),
        (["--classes", ""], "--classes '' names no class"),
        (["--classes", ",", " "], "names no class"),
        (["--conf-thres", "2"], "confidence threshold is 2"),
        (["--weights", "net.txt"], "net.txt"),
        (["--weights", "grey.pt"], "[net] channels: is 1; images are RGB"),
    ],
    ids=[
        *("path", "glob", "folder", "file", "list", "camera", "stream", "web"),
        *("password", "pipe", "device", "empty", "scheme", "length"),
        *("class", "no class", "only commas", "confidence", "weights", "grey"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_written(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    change: list[str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "net.txt").write_text("no weights")
    (tmp_path / "empty" / "net.pdf").write_text("no image")
    os.mkfifo(tmp_path / "empty" / "pipe")
    grey = build(squares.CFG.replace("channels=3", "channels=1"))
    taken = checkpoint.capture(grey, names=squares.NAMES, imgsz=squares.SIZE)
    checkpoint.save(taken, tmp_path / "empty" / "grey.pt")
    monkeypatch.chdir(tmp_path / "empty")
    assert main([*words, *change]) == 2
    err = capfd.readouterr().err
    assert message in err and len(err.splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*"))


def test_folder_without_images_of_its_own_is_searched(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What other programs keep under names with a dot is left out."""
    for hidden in ("images/.trash/9.png", "images/val/._0.png", "images/@eaDir/0.jpg"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"no image")
    assert main([*words, "--source", str(tmp_path / "images"), "--nosave"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"6 boxes in {PICTURES} images"
    assert f"itself has no images; its sub-folders have {PICTURES}" in err


def test_sub_folders_of_a_folder_with_images_are_left_out_with_a_note(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tmp_path / "images" / "val" / "0.png", tmp_path / "images")
    assert main([*words, "--source", str(tmp_path / "images"), "--nosave"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "2 boxes in 1 image"
    assert f"{PICTURES} more in the sub-folders" in err and "/**/*" in err


def test_list_names_sources_from_the_working_folder_or_beside_it(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film(tmp_path / "film.mp4")
    listing = tmp_path / "list.txt"
    listing.write_text("\ufeff# mine\nimages/val/0.png\n\nval/1.png\nfilm.mp4\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "images")  # val/1.png is there, the others are beside the list
    assert main([*words, "--source", str(listing)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "9 boxes in 2 images and 6 frames"
    written = {path.name for path in (tmp_path / "runs" / "exp").iterdir()}
    assert written >= {"0.png", "1.png", "film.mp4"}
    listing.write_text("images/val/0.png\nimages/val/0.pgn\nlist.txt\n")
    with pytest.raises(DataError, match=r"2 of 3 lines .* line 2: images/val/0\.pgn"):
        sources.find(str(listing))


def test_nothing_found_says_how_sure_the_surest_box_was(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A square half as bright: objectness and class are sigmoid(40 * 128 / 255 - 20) = 0.52."""
    dim = tmp_path / "dim.png"
    cv2.imwrite(str(dim), squares.draw_image([(0, 1, 1)]) // 255 * 128)
    shy = [*words, "--source", str(dim), "--conf-thres", "0.5", "--nosave"]
    assert main(shy) == 0
    told = "0 boxes in 1 image; the highest confidence of any box was 0.27, and the threshold is 0"
    assert capsys.readouterr().out.splitlines()[-1].startswith(told)
    assert main([*shy, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)[0]["boxes"] == [] and told in err


def test_fewer_boxes_than_there_are_are_noted(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--max-det", "2", "--nosave"]) == 0
    out, err = capsys.readouterr()
    assert f"5 boxes in {PICTURES} images" in out
    assert "an image has 2 boxes, the maximum; --max-det allows more" in err


def test_ctrl_c_ends_a_stream_and_keeps_its_video(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def endless() -> Iterator[Image]:
        for number in itertools.count():
            if number == 3:
                os.kill(os.getpid(), signal.SIGINT)
            yield squares.draw_image([(0, 2, 1)])

    monkeypatch.setitem(sources.OPENERS, "stream", lambda _: sources.Reel(endless(), rate=5))
    source = ["--source", "rtsp://me:secret@camera.example:554/live", "--save-txt"]
    assert main([*words, *source]) == 130
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "4 boxes in 4 frames"
    folder = tmp_path / "runs" / "exp"
    reel = sources.opened(sources.find(str(folder / "live.mp4"))[0])
    assert len(list(reel.images)) == 4
    assert len(list((folder / "labels").iterdir())) == 4
    told = out + err + (folder / "run.json").read_text() + (folder / "opt.yaml").read_text()
    assert "camera.example" in told and "secret" not in told


@pytest.fixture
def server() -> Iterator[str]:
    """Serve an image without a suffix behind a password, a page, and a stream of 3 images."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            jpeg = cv2.imencode(".jpg", squares.draw_image([(0, 2, 1)]))[1].tobytes()
            page = ("text/html", b"<html></html>")
            part = b"--next\r\nContent-Type: image/jpeg\r\n"
            part += f"Content-Length: {len(jpeg)}\r\n\r\n".encode() + jpeg + b"\r\n"
            stream = ("multipart/x-mixed-replace; boundary=next", 3 * part)
            known = {"/snapshot": ("image/jpeg", jpeg), "/page": page, "/stream.mjpg": stream}
            path = self.path.partition("?")[0]
            allowed = self.headers["Authorization"] == "Basic bWU6c2VjcmV0" or path != "/snapshot"
            self.send_response(401 if not allowed else 200 if path in known else 404)
            kind, body = known.get(path, page)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.mark.parametrize(
    ("url", "last", "written"),
    [
        ("http://me:secret@{}/snapshot?size=1", "1 box in 1 image", "snapshot.jpg"),
        ("http://{}/stream.mjpg", "3 boxes in 3 frames", "stream.mp4"),
        ("http://{}/page", "is a web page", ""),
        ("http://{}/snapshot", "401", ""),
        ("http://{}/a.jpg", "404", ""),
    ],
    ids=["image", "stream", "page", "no password", "missing"],
)
def test_web_server_gives_images_and_streams(
    words: list[str],
    tmp_path: Path,
    server: str,
    capfd: pytest.CaptureFixture[str],
    url: str,
    last: str,
    written: str,
) -> None:
    status = main([*words, "--source", url.format(server)])
    out, err = capfd.readouterr()
    assert status == (0 if written else 2)
    if written:
        assert out.splitlines()[-1] == last
        assert (tmp_path / "runs" / "exp" / written).is_file()
    else:
        assert last in err and len(err.splitlines()) == 1
        assert not list((tmp_path / "runs").glob("*"))


def test_glob_finds_images_in_subfolders(tmp_path: Path) -> None:
    squares.data(tmp_path)
    assert len(sources.find(f"{tmp_path}/**/*.png")) == PICTURES
    with pytest.raises(DataError, match="no such file or match"):
        sources.find(f"{tmp_path}/*.png")


def test_files_of_one_stem_do_not_overwrite_each_other() -> None:
    paths = [Path(name) for name in ("a.jpg", "a.png", "x/b.jpg", "y/b.jpg", "c.jpg")]
    assert sources.stems(paths) == ["a_jpg", "a_png", "b_jpg", "b_jpg_2", "c"]
    paths = [Path(name) for name in ("x/1.jpg", "y/1.jpg", "z/1_jpg_2.jpg")]
    assert sources.stems(paths) == ["1_jpg", "1_jpg_2", "1_jpg_2_2"]


def test_the_function_returns_what_the_command_prints(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images" / "val" / "1.png").write_bytes(b"no image")
    assert main([*words, "--json", "--nosave"]) == 0
    printed = json.loads(capsys.readouterr().out)
    lines: list[str] = []
    config = DetectConfig(
        source=str(tmp_path / "images" / "val"),
        weights=tmp_path / "net.pt",
        project=tmp_path / "direct",
        device="cpu",
    )
    result = detect(config, report=lines.append)
    assert result.document() == printed
    assert (result.images, result.sources, result.failed) == (PICTURES - 1, PICTURES, 1)
    assert result.boxes == sum(len(one["boxes"]) for one in printed)
    assert result.folder == tmp_path / "direct" / "exp"
    assert lines[-1] == f"written to {result.folder}"
    assert "1.png" in lines[0]
    assert capsys.readouterr().out == ""


def test_boxes_that_are_passed_on_are_not_collected(words: list[str], tmp_path: Path) -> None:
    found: list[Found] = []
    config = DetectConfig(words[4], weights=tmp_path / "net.pt", nosave=True, device="cpu")
    result = detect(config, each=found.append)
    assert len(found) == result.images == PICTURES
    assert result.detections == () and result.folder is None
