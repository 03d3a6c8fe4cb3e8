"""The command val, on a network that finds every square."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import squares

from prune import checkpoint
from prune.cli import main
from prune.evaluate import EvaluateConfig, evaluate, validation
from prune.export.onnx import export

KEYS = {"map50", "map", "precision", "recall", "per_class", "images"}


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Return the command's words with a checkpoint, a data set and a folder for runs."""
    weights, yaml = squares.save(tmp_path / "net.pt"), squares.data(tmp_path)
    places = ["--data", str(yaml), "--weights", str(weights), "--project", str(tmp_path / "runs")]
    return ["val", *places, "--workers", "0", "--device", "cpu"]


def test_json_has_the_keys_that_scripts_rely_on(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json", "--no-plots"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) >= KEYS
    assert (document["map50"], document["map"]) == pytest.approx((1, 1))
    assert document["images"] == len(squares.SPLIT)
    row = {"name": "red", "map50": 1, "map": 1, "precision": 1, "recall": 1, "instances": 3}
    assert document["per_class"][0] == pytest.approx(row)


def test_table_has_all_classes_and_each(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--no-plots"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["all", *squares.NAMES]
    assert "mAP@.5:.95" in lines[0]


@pytest.mark.parametrize("imgsz", [(64, 64), (48, 64)], ids=["square", "wide"])
def test_onnx_file_scores_what_the_checkpoint_scores(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], imgsz: tuple[int, int]
) -> None:
    target = tmp_path / "net.onnx"
    export(squares.network(), target, names=squares.NAMES, imgsz=imgsz)
    assert main([*words, "--weights", str(target), "--json", "--no-plots"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["map50"], document["map"]) == pytest.approx((1, 1))


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_boxes_of_all_classes_are_those_of_a_single_class_network(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    net = squares.single_class_network()
    target = tmp_path / f"one{suffix}"
    if suffix == ".pt":
        checkpoint.save(checkpoint.capture(net, names=["object"], imgsz=squares.SIZE), target)
    else:
        export(net, target, names=["object"], imgsz=(64, 64))
    assert main([*words, "--weights", str(target), "--json", "--no-plots", "--single-cls"]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["per_class"]
    assert (row["name"], row["instances"]) == ("object", sum(map(len, squares.SPLIT)))
    assert (row["map50"], row["map"]) == pytest.approx((1, 1))
    assert "note" not in err


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_crowded_image_can_be_found_whole_and_that_is_noted_once(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    """400 boxes of a class in an image: COCO counts 100 of them, and NMS keeps 300 by default."""
    yaml = squares.data(tmp_path / "crowd", height=160, width=160, split=[squares.crowd(20), []])
    weights = tmp_path / f"crowd{suffix}"
    if suffix == ".onnx":
        export(squares.network(), weights, names=squares.NAMES, imgsz=(160, 160))
    else:
        squares.save(weights)
    own = ["--weights", str(weights), "--data", str(yaml), "--img-size", "160", "--json"]
    assert main([*words, *own]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["map"], document["recall"]) == pytest.approx((1, 1))
    assert document["max_detections"] == 400
    assert captured.err.count("has 400 boxes of one class") == 1


def test_task_is_a_split_as_in_other_tools(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = tmp_path / "data.yaml"
    yaml.write_text(yaml.read_text() + "test: images/val\n")
    assert main([*words, "--task", "test", "--no-plots", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == len(squares.SPLIT)


@pytest.mark.parametrize(("task", "answer"), [("speed", "prune bench"), ("study", "--img-size")])
def test_tasks_that_are_no_split_are_answered(
    words: list[str], capsys: pytest.CaptureFixture[str], task: str, answer: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--task", task])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1
    assert answer in err


def test_plots_lie_in_a_folder_of_their_own_each_time(words: list[str], tmp_path: Path) -> None:
    for folder in ("exp", "exp2"):
        assert main(words) == 0
        written = {path.name for path in (tmp_path / "runs" / folder).iterdir()}
        assert written >= {"pr_curve.png", "f1_curve.png", "confusion_matrix.png", "run.json"}


def test_no_plots_writes_nothing(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--no-plots"]) == 0
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["--batch-size", "--workers"])
@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
def test_impossible_counts_are_one_line(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, suffix: str
) -> None:
    export(squares.network(), tmp_path / "net.onnx", names=squares.NAMES, imgsz=(64, 64))
    assert main([*words, "--weights", str(tmp_path / f"net{suffix}"), option, "-1"]) == 2
    err = capsys.readouterr().err
    assert "is -1; it must be at least" in err and len(err.splitlines()) == 1


def wrong_classes(folder: Path) -> list[str]:
    (folder / "data.yaml").write_text("val: images/val\nnames: [a, b, c]\n")
    return []


def broken_image(folder: Path) -> list[str]:
    (folder / "images" / "val" / "1.png").write_bytes(b"no image")
    return ["--strict"]


def no_label_files(folder: Path) -> list[str]:
    (folder / "labels").rename(folder / "elsewhere")
    return []


def class_out_of_range(folder: Path) -> list[str]:
    (folder / "labels" / "val" / "1.txt").write_text("2 0.5 0.5 0.1 0.1\n")
    return []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (wrong_classes, "2 classes (red, blue)"),
        (broken_image, "1.png"),
        (no_label_files, "no image of val has a label file"),
        (class_out_of_range, "1.txt:1"),
        (lambda _: ["--split", "test"], "no split 'test'"),
        (lambda _: ["--conf-thres", "1.5"], "confidence threshold is 1.5"),
        (lambda _: ["--img-size", "60"], "image size is 60"),
        (lambda folder: ["--weights", str(folder / "none.pt")], "none.pt"),
    ],
    ids=["classes", "image", "no labels", "label", "split", "confidence", "size", "weights"],
)
def test_wrong_input_is_one_line_and_nothing_written(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], list[str]],
    message: str,
) -> None:
    assert main([*words, *spoil(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert message in err and len(err.splitlines()) == 1
    assert not out
    assert not list((tmp_path / "runs").glob("*"))


def test_a_folder_that_cannot_be_made_is_found_before_the_work(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("evaluated in vain")

    monkeypatch.setattr(validation, "collect_split", work)
    (tmp_path / "runs").write_text("a file where the folder belongs")
    assert main([*words, "--json"]) == 2
    out, err = capsys.readouterr()
    assert "cannot make the folder" in err and len(err.splitlines()) == 1
    assert not out


def test_another_size_than_the_weights_were_made_for_is_noted(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for size, notes in (("64", 0), ("96", 1)):
        assert main([*words, "--no-plots", "--img-size", size]) == 0
        assert (
            capsys.readouterr().err.count("was made for images of 64; it is evaluated at 96")
            == notes
        )


def test_the_function_returns_what_the_command_prints(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json", "--no-plots"]) == 0
    printed = json.loads(capsys.readouterr().out)
    lines: list[str] = []
    config = EvaluateConfig(
        data=Path(words[2]),
        weights=tmp_path / "net.pt",
        project=tmp_path / "direct",
        workers=0,
        device="cpu",
    )
    result = evaluate(config, report=lines.append)
    assert result.folder == tmp_path / "direct" / "exp"
    assert lines == [f"plots in {result.folder}"]
    assert not capsys.readouterr().out
    document = json.loads(json.dumps(result.document()))
    times = ("forward_ms", "nms_ms")
    assert list(document) == list(printed)
    assert {k: v for k, v in document.items() if k not in times} == {
        k: v for k, v in printed.items() if k not in times
    }
