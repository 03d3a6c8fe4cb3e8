"""A cfg's height and width stay as they are, through every command: nothing becomes a square."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import squares
import stacks
import tiny
import torch
from torch import Tensor

from prune import checkpoint
from prune.auto import pipeline as roads
from prune.auto.config import tuning
from prune.checkpoint.convert import import_foreign
from prune.cli import main
from prune.common.boxes import xywh_to_xyxy
from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.core.cost.macs import count
from prune.data import labels
from prune.data.frames import fit
from prune.data.images import read_image
from prune.data.loader import evaluation_loader, train_loader
from prune.data.samples import HYP_KEYS
from prune.data.spec import DataSpec
from prune.errors import CheckpointError, DataError, InputError, PlanError
from prune.evaluate.preprocess import letterboxed
from prune.evaluate.runner import open_weights
from prune.export.darknet import write_darknet
from prune.models.darknet import build
from prune.pruner import depth
from prune.runtimes.file_inputs import settle
from prune.train.run_log import Log
from prune.train.settings import Settings

WIDE = Size(64, 96)
Capture = pytest.CaptureFixture[str]
Run = Callable[..., int]


def sized(folder: Path, size: Size, *, name: str = "wide.pt") -> Path:
    """Write the tiny detector as a checkpoint for images of this size."""
    torch.manual_seed(0)
    net = build(tiny.CFG.format(width=32))
    checkpoint.save(checkpoint.capture(net, names=tiny.NAMES, imgsz=size), folder / name)
    return folder / name


def document(capsys: Capture, *words: object) -> dict[str, object]:
    """Run a command and return what its --json prints."""
    assert main([*map(str, words), "--json"]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def darknet_pair(folder: Path, head: str) -> tuple[Path, Path]:
    """Write a pair of Darknet files whose [net] names this size."""
    torch.manual_seed(0)
    made = write_darknet(build(tiny.CFG.format(width=32)), folder / "public.cfg")
    made.cfg.write_text(made.cfg.read_text().replace("width=64\nheight=64\n", head))
    return made.cfg, made.weights


def test_a_cfg_keeps_its_size_from_whole_to_darknet_and_back(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg, weights = darknet_pair(tmp_path, "width=96\nheight=64\n")
    assert main(["whole", "--weights", str(weights), "--cfg", str(cfg), "--names", "a,b"]) == 0
    assert "64 x 96 pixels (height x width)" in capsys.readouterr().out
    whole = checkpoint.load(tmp_path / "whole_model.pt")
    assert whole.imgsz == WIDE

    shown = document(capsys, "show", "whole_model.pt")
    assert shown["imgsz"] == [64, 96]
    assert shown["macs"] == count(checkpoint.network(whole), (1, 3, 64, 96)).macs
    assert main(["show", "whole_model.pt"]) == 0
    assert "at 64 x 96 pixels (height x width)" in capsys.readouterr().out

    words = ("export", "--weights", "whole_model.pt", "--format", "darknet", "--out", "back.cfg")
    document(capsys, *words)
    assert "width=96\nheight=64\n" in (tmp_path / "back.cfg").read_text()
    back = import_foreign(tmp_path / "back.weights", cfg=tmp_path / "back.cfg")
    assert back.imgsz == WIDE
    assert all(back.model[name].equal(value) for name, value in whole.model.items())

    document(capsys, *words, "--img-size", 32, 64)
    assert "width=64\nheight=32\n" in (tmp_path / "back.cfg").read_text()


HEADS = {
    "no multiples": ("width=90\nheight=60\n", WIDE, "60 x 90 pixels (height x width) is raised to"),
    "width alone": ("width=96\n", Size(96, 96), ""),
    "height alone": ("height=64\n", Size(64, 64), ""),
    "neither": ("", Size(640, 640), ""),
}


@pytest.mark.parametrize(("head", "size", "note"), HEADS.values(), ids=HEADS.keys())
def test_what_a_cfg_leaves_out_or_cannot_have_is_settled_and_noted(
    tmp_path: Path, head: str, size: Size, note: str
) -> None:
    cfg, weights = darknet_pair(tmp_path, head)
    found = import_foreign(weights, cfg=cfg)
    assert found.imgsz == size
    notes = found.history[-1]["notes"]
    assert isinstance(notes, list)
    assert sum("is raised to" in one for one in notes) == bool(note)
    assert note in " ".join(notes)


@pytest.mark.parametrize("size", [Size(64, 64), WIDE], ids=str)
def test_a_square_is_stored_as_one_number_as_ever(tmp_path: Path, size: Size) -> None:
    stored = torch.load(sized(tmp_path, size), weights_only=True)
    assert stored["format"] == "prune/1"
    assert stored["imgsz"] == (64 if size.square else [64, 96])
    assert checkpoint.load(tmp_path / "wide.pt").imgsz == size


@pytest.mark.parametrize("value", [0, [0, 64], [64], [64, 96, 32], "64", [64, 9.6], None, True])
def test_a_stored_size_that_is_none_is_refused(tmp_path: Path, value: object) -> None:
    path = sized(tmp_path, WIDE)
    stored = torch.load(path, weights_only=True)
    torch.save({**stored, "imgsz": value}, path)
    if value == [64]:  # as YOLO tools write a square in metadata
        assert checkpoint.load(path).imgsz == Size(64, 64)
        return
    with pytest.raises(CheckpointError, match="imgsz is"):
        checkpoint.load(path)


SHAPES = ((60, 80), (80, 60), (64, 64), (100, 40), (48, 96), (61, 183), (40, 30))  # height, width
STILL = {**SCRATCH, **dict.fromkeys(HYP_KEYS, 0.0)}


@pytest.fixture
def images(tmp_path: Path) -> DataSpec:
    """Write black images of seven shapes, each with two red boxes."""
    paths = []
    for number, (height, width) in enumerate(SHAPES):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        image, rows = np.zeros((height, width, 3), np.uint8), []
        for x, y in ((2, 3), (width - 16, height - 20)):
            image[y : y + 18, x : x + 14] = (0, 0, 255)
            rows.append((0, (x + 7) / width, (y + 9) / height, 14 / width, 18 / height))
        assert cv2.imwrite(str(path), image)
        labels.write(labels.label_path(path), np.array(rows))
        paths.append(path)
    return DataSpec(tmp_path / "red.yaml", ("red",), {"train": tuple(paths)})


@pytest.mark.parametrize("rectangular", [True, False], ids=["least", "whole"])
def test_scoring_letterboxes_into_height_and_width(images: DataSpec, rectangular: bool) -> None:
    """What the loader gives is what a hand makes: one scale, centred, grey around."""
    options = {"imgsz": WIDE, "batch_size": 1, "stride": 16, "workers": 0}
    found = evaluation_loader(images, split="train", rectangular=rectangular, **options)  # type: ignore[arg-type]  # a table's values
    for batch in found:
        image = original = read_image(batch.paths[0])
        height, width = image.shape[:2]
        scale = min(64 / height, 96 / width)
        inner = (round(width * scale), round(height * scale))
        high, wide = batch.images.shape[2:]
        assert (high, wide) == (64, 96) or (rectangular and high <= 64 and wide <= 96)
        canvas = np.full((high, wide, 3), 114, np.uint8)
        top, left = (high - inner[1]) // 2, (wide - inner[0]) // 2
        method = cv2.INTER_AREA if max(height, width) >= 2 * max(inner) else cv2.INTER_LINEAR
        scaled = (
            image if inner == (width, height) else cv2.resize(image, inner, interpolation=method)
        )
        canvas[top : top + inner[1], left : left + inner[0]] = scaled
        assert np.array_equal(batch.images[0].permute(1, 2, 0).numpy(), canvas[..., ::-1])
        assert np.array_equal(fit(original, (high, wide))[0], canvas), "detect pads as scoring"


def red(image: Tensor, box: Sequence[float]) -> float:
    """Return how much of a box, x1, y1, x2, y2 in pixels, is red; its edge is left out."""
    x1, y1, x2, y2 = (round(side) for side in box)
    inside = image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float()
    return float(((inside[0] > 150) & (inside[1] < 100)).float().mean())


@pytest.mark.parametrize("mosaic", [0.0, 1.0], ids=["letterboxed", "mosaics"])
def test_training_images_have_height_and_width_and_boxes_where_they_are(
    images: DataSpec, mosaic: float
) -> None:
    hyp = {**STILL, "mosaic": mosaic}
    loader = train_loader(images, imgsz=WIDE, batch_size=4, stride=16, hyp=hyp, workers=0)
    boxes = 0
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            assert batch.images.shape[2:] == (64, 96)
            corners = xywh_to_xyxy(batch.targets[:, 2:]) * torch.tensor((96, 64, 96, 64))
            for number, box in zip(batch.targets[:, 0].int().tolist(), corners, strict=True):
                if (box[2:] - box[:2]).min() > 5:
                    assert red(batch.images[number], box.tolist()) > 0.9
                    boxes += 1
    assert boxes > 20


def test_augmented_training_is_the_same_with_a_cache(images: DataSpec) -> None:
    options = {"imgsz": WIDE, "batch_size": 4, "stride": 16, "hyp": SCRATCH, "workers": 0}
    read, cached = (
        list(train_loader(images, cache=cache, **options))  # type: ignore[arg-type]  # a table's values
        for cache in (None, "ram")
    )
    assert all(batch.images.shape[2:] == (64, 96) for batch in read)
    for one, other in zip(read, cached, strict=True):
        assert one.images.equal(other.images)
        assert one.targets.equal(other.targets)


def test_val_detect_and_a_fixed_file_agree(tmp_path: Path, capsys: Capture) -> None:
    """Images of 96 x 128 fill 48 x 64: both runtimes see the same pixels, and find every square."""
    yaml, weights = squares.data(tmp_path), tmp_path / "net.pt"
    size = Size(48, 64)
    checkpoint.save(checkpoint.capture(squares.network(), names=squares.NAMES, imgsz=size), weights)
    file, metrics, boxes = tmp_path / "net.onnx", [], []
    document(capsys, "export", "--weights", weights, "--out", file)
    shape = onnx.load(file).graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in shape] == [1, 3, 48, 64]
    for path in (weights, file):
        words = ("--weights", path, "--device", "cpu")
        found = document(capsys, "val", *words, "--data", yaml, "--no-plots", "--workers", 0)
        metrics.append((found["map50"], found["map"], found["images"]))
        source = ("--source", tmp_path / "images" / "val", "--nosave")
        assert main(["detect", *map(str, (*words, *source)), "--json"]) == 0
        boxes.append(json.loads(capsys.readouterr().out))
    assert metrics[0] == metrics[1] == pytest.approx((1, 1, len(squares.SPLIT)))
    assert boxes[0] == boxes[1]
    assert main(["val", "--weights", str(file), "--data", str(yaml), "--img-size", "64"]) == 2
    assert "image size is 64, but this file takes images of 48 x 64 only" in capsys.readouterr().err


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic"])
def test_onnx_boxes_are_torchs_and_the_metadata_says_height_then_width(
    tmp_path: Path, capsys: Capture, dynamic: bool
) -> None:
    weights, file = sized(tmp_path, WIDE), tmp_path / "wide.onnx"
    words = ("--dynamic",) if dynamic else ()
    document(capsys, "export", "--weights", weights, "--out", file, *words)
    net, images = checkpoint.network(checkpoint.load(weights)), torch.rand(1, 3, *WIDE)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (found,) = session.run(["output"], {"images": images.numpy()})
    with torch.inference_mode():
        torch.testing.assert_close(torch.from_numpy(found), net.decode(net(images)))
    assert ast.literal_eval(session.get_modelmeta().custom_metadata_map["imgsz"]) == [64, 96]
    for path in (weights, file):
        assert settle(path, threads=1).imgsz == WIDE
        if dynamic or path == weights:
            assert settle(path, threads=1, imgsz=(32, 64)).imgsz == (32, 64)


COSTS = {
    "its own size": ([], WIDE),
    "another size": (["--img-size", "32", "64"], Size(32, 64)),
}


@pytest.mark.parametrize(("words", "size"), COSTS.values(), ids=COSTS.keys())
def test_budgets_are_met_at_height_and_width(
    tmp_path: Path, capsys: Capture, words: list[str], size: Size
) -> None:
    weights, out = sized(tmp_path, WIDE), tmp_path / "cut.pt"
    cut = ("--macs", "0.6", "--criterion", "l1", "--max-ratio", "0.9", *words)
    document(capsys, "global", "--weights", weights, *cut, "--out", out)
    before, after = (
        count(checkpoint.network(checkpoint.load(path)), size.batch()).macs
        for path in (weights, out)
    )
    assert 0.5 * before < after <= 0.6 * before
    assert checkpoint.load(out).imgsz == WIDE
    at = f"at {size} pixels (height x width)"
    assert main(["diff", str(weights), str(out), *words]) == 0
    assert at in capsys.readouterr().out


def test_gradients_are_those_of_letterboxed_rectangles(tmp_path: Path, capsys: Capture) -> None:
    weights, yaml = sized(tmp_path, WIDE), tiny.data(tmp_path)
    words = ("--criterion", "taylor", "--data", yaml, "--images", 4, "--reconstruct", yaml)
    told = document(capsys, "global", "--weights", weights, "--macs", 0.7, *words, "--dry-run")
    assert told["recovery"]


def test_sizes_without_a_pixel_are_refused_below_the_command_line_too(images: DataSpec) -> None:
    nothing = Size(0, 64)
    with pytest.raises(InputError, match="--img-size is 0 x 64"):
        Settings(epochs=1, imgsz=nothing)
    with pytest.raises(DataError, match="image size is 0 x 64"):
        evaluation_loader(images, split="train", imgsz=nothing, batch_size=1)
    with pytest.raises(PlanError, match="cannot be run"):
        depth.blocks(build(stacks.CFG), imgsz=nothing)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return `prune train` in a folder of its own, on little data."""
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(tiny.data(tmp_path)), "--workers", "0", "--device", "cpu"]
    return lambda *more: main(["train", *words, "--batch-size", "2", "--no-plots", *more])


def trained_size(run: str) -> Size:
    """Return the size in the checkpoint that a run wrote last."""
    return checkpoint.load(Path(f"runs/train/{run}/weights/last.pt")).imgsz


@pytest.mark.parametrize("words", [[], ["--multi-scale"]], ids=["one size", "many"])
def test_a_run_trains_at_height_and_width_and_hands_them_on(
    tmp_path: Path, run: Run, capsys: Capture, words: list[str]
) -> None:
    cfg = str(tiny.cfg(tmp_path))
    assert run("--cfg", cfg, "--img-size", "64", "96", "--epochs", "1", *words) == 0
    assert capsys.readouterr().err.count("is read as height and width") == 1
    assert trained_size("exp") == WIDE
    assert "img_size:\n- 64\n- 96\n" in Path("runs/train/exp/opt.yaml").read_text()
    best = "runs/train/exp/weights/best.pt"
    assert run("--weights", best, "--epochs", "1", "--noval") == 0
    assert "is read as" not in capsys.readouterr().err
    assert trained_size("exp2") == WIDE


def test_two_equal_numbers_are_a_square_and_that_is_noted(
    tmp_path: Path, run: Run, capsys: Capture
) -> None:
    cfg = str(tiny.cfg(tmp_path))
    assert run("--cfg", cfg, "--img", "60", "60", "--epochs", "1", "--noval") == 0
    said = capsys.readouterr().err
    assert "--img-size 60 60 is read as a square of 60 pixels" in said
    assert "image size 60 is raised to 64" in said
    assert trained_size("exp") == Size(64, 64)


def test_a_cfg_trains_at_its_own_size(tmp_path: Path, run: Run) -> None:
    cfg = tiny.cfg(tmp_path)
    cfg.write_text(cfg.read_text().replace("width=64", "width=96"))
    assert run("--cfg", str(cfg), "--epochs", "1", "--noval") == 0
    assert trained_size("exp") == WIDE


def test_an_interrupted_run_keeps_its_size(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    words = ("--cfg", str(tiny.cfg(tmp_path)), "--img-size", "64", "96", "--epochs", "2")
    with monkeypatch.context() as patch:
        patch.setattr(Log, "epoch", stop)
        assert run(*words) == 130
    assert main(["train", "--resume"]) == 0
    assert trained_size("exp") == WIDE


def test_int8_ranges_come_from_images_of_the_file(tmp_path: Path, capsys: Capture) -> None:
    weights, yaml = sized(tmp_path, WIDE), tiny.data(tmp_path, images=8)
    file = tmp_path / "wide.onnx"
    document(capsys, "export", "--weights", weights, "--out", file)
    words = ("--data", yaml, "--images", 8, "--max-drop", 100, "--threads", 1)
    assert main([*map(str, ("quantize", "--weights", file, *words))]) in (0, 3)
    (made,) = tmp_path.glob("*int8*.onnx")
    shape = onnx.load(made).graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in shape] == [1, 3, 64, 96]


def test_a_sensitivity_file_says_its_size(tmp_path: Path, capsys: Capture) -> None:
    weights, yaml, out = sized(tmp_path, WIDE), tiny.data(tmp_path), tmp_path / "found.json"
    words = ("--data", yaml, "--metric", "loss", "--ratios", "0.5", "--images", 2, "--out", out)
    assert main([*map(str, ("sensitivity", "--weights", weights, *words))]) == 0
    assert json.loads(out.read_text())["imgsz"] == [64, 96]


def test_auto_hands_height_and_width_on_and_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    seen: list[Size] = []

    def stop(run: roads.AutoRun) -> None:
        seen.append(run.request.imgsz)
        config = tuning(run.request, run.training, cut=Path(), folder=tmp_path / "train")
        assert config.img_size is not None
        seen.append(config.img_size)
        raise KeyboardInterrupt

    monkeypatch.setattr(roads, "run_stages", stop)
    words = ["--weights", str(sized(tmp_path, WIDE)), "--data", str(tiny.data(tmp_path))]
    words += ["--latency", "0.5", "--project", str(tmp_path / "runs")]
    assert main(["auto", *words]) == 130
    assert main(["auto", "--resume", str(tmp_path / "runs" / "exp")]) == 130
    assert seen == [WIDE] * 4


@pytest.mark.parametrize("words", [[], ["--dynamic"]], ids=["fixed", "dynamic"])
def test_a_bundle_says_height_then_width(tmp_path: Path, capsys: Capture, words: list[str]) -> None:
    weights, folder = sized(tmp_path, WIDE), tmp_path / "made"
    document(capsys, "export", "--weights", weights, "--bundle", folder, *words)
    how = json.loads((folder / "preprocess.json").read_text())
    assert (how["size"], how["any_size"]) == ([64, 96], bool(words))
    assert "at 64 x 96" in (folder / "README.md").read_text()
    spec = importlib.util.spec_from_file_location("bundled", folder / "detect.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for height, width in SHAPES:
        image = np.full((height, width, 3), 255, np.uint8)
        runner = open_weights(folder / "model.onnx", device_name="cpu")
        wanted, frame = letterboxed(image, runner, runner.imgsz)
        found, scale, corner = script.letterbox(PIL.Image.fromarray(image), how)
        assert found.shape == tuple(wanted.shape)
        assert np.array_equal(found == 1, wanted.numpy() == 1), "the same pixels are grey"
        assert scale[:2].tolist() == [frame.scale_x, frame.scale_y]
        assert corner[:2].tolist() == [frame.pad_x, frame.pad_y]
