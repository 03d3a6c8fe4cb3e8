"""The forms a file has: folded, in half precision, suppressing its boxes, compared on data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import squares
import tiny
import torch
from numpy.typing import NDArray
from public import trained, yolor_cfg, yolov3_tiny_cfg

from prune import checkpoint
from prune.cli import main
from prune.errors import CheckpointError, ExportError, InputError
from prune.evaluate.nms import detections
from prune.evaluate.runner import open_weights
from prune.export import nms
from prune.export.facts import provenance
from prune.export.onnx import export
from prune.export.structure import check_widths
from prune.models.darknet import Darknet, build

CFG = Path(__file__).parents[2] / "cfg"
NAMES = ("cat", "dog")

Outputs = list[NDArray[np.float32]]


@pytest.fixture(scope="module")
def net() -> Darknet:
    """Return a YOLOR in small: implicit layers, several activations, two heads."""
    return trained(yolor_cfg(), decoding="torch")


def run(path: Path, images: torch.Tensor, **thresholds: float) -> Outputs:
    """Run the file in a session of its own."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = {name: np.array(value, np.float32) for name, value in thresholds.items()}
    return list(session.run(None, {"images": images.numpy(), **given}))


def facts(path: Path) -> dict[str, str]:
    """Read the metadata."""
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.parametrize("raw", [False, True], ids=["boxes", "raw"])
@pytest.mark.parametrize("name", ["yolor_csp", "yolor_p6"])
def test_nothing_is_left_of_normalisation_and_implicit_layers(
    tmp_path: Path, name: str, raw: bool
) -> None:
    """At an eighth of the width; the sections are the shipped ones."""
    text = (CFG / f"{name}.cfg").read_text()
    done = export(thin(text), tmp_path / "m.onnx", names=COCO, imgsz=(64, 64), raw=raw)
    graph = onnx.load(done.out).graph
    operators = Counter(node.op_type for node in graph.node)
    assert not {"BatchNormalization", "Identity", "Constant"} & set(operators)
    assert operators["Conv"] == text.count("[convolutional]")
    assert not [tensor.name for tensor in graph.initializer if "implicit" in tensor.name]
    plain = [tensor for tensor in graph.initializer if list(tensor.dims)[:1] == [1]]
    assert all(np.prod(tensor.dims) < 255 for tensor in plain), "an implicit vector is left"
    sums = text.count("[shortcut]")
    assert not raw or operators["Add"] == sums


COCO = [str(number) for number in range(80)]


def thin(text: str) -> Darknet:
    """Build a shipped network at an eighth of its width."""
    lines = []
    for line in text.splitlines():
        key, _, value = line.partition("=")
        wide = key == "filters" and value != "255"
        lines.append(f"filters={max(8, int(value) // 8)}" if wide else line)
    return build("\n".join(lines))


def test_half_holds_kernels_in_half_precision_only(net: Darknet, tmp_path: Path) -> None:
    images = torch.rand(1, 3, 64, 64)
    whole, half = (
        export(net, tmp_path / f"{half}.onnx", names=NAMES, imgsz=(64, 64), half=half)
        for half in (False, True)
    )
    assert 0.4 < half.bytes / whole.bytes < 0.95  # a tiny net is mostly graph
    stored = Counter(tensor.data_type for tensor in onnx.load(half.out).graph.initializer)
    assert stored[onnx.TensorProto.FLOAT16] == sum(
        isinstance(module, torch.nn.Conv2d) for module in net.modules()
    )
    assert (half.inputs, half.outputs) == (whole.inputs, whole.outputs)
    (found,), (wanted,) = run(half.out, images), run(whole.out, images)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted)[..., :4].max() < 0.1  # pixels
    assert np.abs(found - wanted)[..., 4:].max() < 1e-2
    assert facts(half.out)["half"] == "True"
    detected = open_weights(half.out).detect(images)
    torch.testing.assert_close(detected, torch.from_numpy(found))


def test_a_weight_that_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    net = squares.network()
    with torch.no_grad():
        next(net.parameters())[0, 0, 0, 0] = 1e5
    with pytest.raises(ExportError, match="export without --half"):
        export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), half=True)
    assert not list(tmp_path.iterdir())


FORMS = {
    "fixed": (yolor_cfg(), {"batch": 2}, (2, 3, 64, 64)),
    "dynamic": (yolor_cfg(), {"dynamic": True}, (3, 3, 96, 32)),
    "one class": (yolor_cfg(classes=1), {"batch": 2}, (2, 3, 64, 64)),
    "exp decoding": (yolov3_tiny_cfg(), {"batch": 2}, (2, 3, 64, 64)),
    "half": (yolor_cfg(), {"batch": 2, "half": True}, (2, 3, 64, 64)),
    "opset 11": (yolor_cfg(), {"batch": 2, "opset": 11}, (2, 3, 64, 64)),
}


@pytest.mark.parametrize(("text", "options", "shape"), FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize(
    ("iou", "confidence", "limit"),
    [(0.45, 0.25, 300), (0.65, 0.05, 300), (0.3, 0.0, 20), (0.5, 0.999, 5), (0.0, 0.3, 1)],
)
def test_the_files_suppression_is_that_of_scoring(
    tmp_path: Path,
    text: str,
    options: dict[str, bool | int],
    shape: tuple[int, ...],
    iou: float,
    confidence: float,
    limit: int,
) -> None:
    decoding = "darknet" if "num=6\njitter" in text else "torch"
    net = trained(text, decoding=decoding)
    with torch.no_grad():
        for name, value in net.state_dict().items():
            if "Conv2d.bias" in name:
                value[:] = torch.linspace(-1, 3, len(value)).roll(len(name))
    names = NAMES[: net.heads[0].classes]
    images = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    written = {}
    for most in (None, limit):
        path = tmp_path / f"{most}.onnx"
        export(net, path, names=names, imgsz=(64, 64), max_detections=most, **options)  # type: ignore[arg-type]  # a table's values
        written[most] = path
    (decoded,) = run(written[None], images)
    wanted = detections(
        torch.from_numpy(decoded),
        confidence=confidence,
        iou=iou,
        max_detections=limit,
        multi_label=False,
    )
    boxes, scores, classes, counts = run(
        written[limit], images, iou_threshold=iou, score_threshold=confidence
    )
    assert boxes.shape == (shape[0], limit, 4)
    assert counts.tolist() == [len(rows) for rows in wanted]
    for i, rows in enumerate(wanted):
        n = len(rows)
        np.testing.assert_allclose(boxes[i, :n], rows[:, :4], rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(scores[i, :n], rows[:, 4], rtol=1e-5)
        assert classes[i, :n].tolist() == rows[:, 5].tolist()
        assert not boxes[i, n:].any() and not scores[i, n:].any() and (classes[i, n:] == -1).all()


def test_thresholds_have_the_defaults_of_detection(net: Darknet, tmp_path: Path) -> None:
    done = export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), max_detections=9)
    images = torch.rand(1, 3, 64, 64)
    wanted = run(done.out, images, iou_threshold=0.45, score_threshold=0.25)
    for found, expected in zip(run(done.out, images), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert done.inputs == {"images": (1, 3, 64, 64), "iou_threshold": (), "score_threshold": ()}
    assert done.outputs == {
        "boxes": (1, 9, 4),
        "scores": (1, 9),
        "classes": (1, 9),
        "counts": (1,),
    }
    assert (facts(done.out)["nms"], facts(done.out)["max_det"]) == ("True", "9")


BROKEN = {
    "corners swapped": ("(nms_low, nms_high)", "(nms_high, nms_low)"),
    "objectness dropped": ("Mul (nms_class, nms_object)", "Identity (nms_class)"),
    "class probability dropped": ("TopK <axis = 2> (nms_joint", "TopK <axis = 2> (nms_class"),
    "allowed overlap ignored": ("nms_limit, iou_threshold", "nms_limit, nms_half"),
    "threshold ignored": ("Max (score_threshold, nms_zero)", "Max (nms_none, nms_zero)"),
}


@pytest.mark.parametrize(("right", "wrong"), BROKEN.values(), ids=BROKEN.keys())
def test_a_suppression_that_picks_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: str, wrong: str
) -> None:
    assert nms._GRAPH.count(right) == 1
    monkeypatch.setattr(nms, "_GRAPH", nms._GRAPH.replace(right, wrong))
    torch.manual_seed(0)
    net = build(tiny.CFG.format(width=32))  # its scores are far below what is detected
    with pytest.raises(ExportError, match="prune's own suppression"):
        export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), max_detections=300)
    assert not list(tmp_path.iterdir())


def test_a_suppression_that_picks_nothing_is_not_taken_for_proved(tmp_path: Path) -> None:
    net = build(tiny.CFG.format(width=32))
    with torch.no_grad():
        for index in (5, 9):
            for value in net.module_list[index].parameters():
                value.zero_()
    with pytest.raises(ExportError, match="cannot be compared"):
        export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), max_detections=300)
    assert not list(tmp_path.iterdir())


def test_scoring_says_that_it_needs_all_boxes(net: Darknet, tmp_path: Path) -> None:
    done = export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), max_detections=9)
    with pytest.raises(CheckpointError, match="export it without --nms"):
        open_weights(done.out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_detections": 5, "raw": True}, "no boxes to suppress"),
        ({"max_detections": 0}, "must be at least 1"),
    ],
)
def test_suppression_that_cannot_be(
    net: Darknet, tmp_path: Path, options: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), **options)  # type: ignore[arg-type]  # a table's values
    assert not list(tmp_path.iterdir())


def test_convolutions_of_another_width_are_found(net: Darknet, tmp_path: Path) -> None:
    done = export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64))
    with pytest.raises(ExportError, match=r"lacks .*\[12, 3, 3, 3\] \[12\]"):
        check_widths(onnx.load(done.out), build(yolor_cfg(width=12)))


def test_metadata_tells_where_the_network_comes_from(net: Darknet, tmp_path: Path) -> None:
    entry: dict[str, object] = {
        "command": "global",
        "criterion": "l1",
        "plan": {"cuts": [{"layer": "a", "remove": [1, 2]}]},
        "params": {"before": 2, "after": 1},
    }
    trained = {"command": "train", "scores": {"map": 0.25, "map50": 0.5}}
    source = checkpoint.capture(net, names=NAMES, imgsz=64, history=[entry, trained])
    export(
        net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), about=provenance(source), half=True
    )
    found = facts(tmp_path / "m.onnx")
    assert {"description", "author"} <= set(found)
    own = json.loads(found["prune"])
    assert own["cfg_sha256"] == checkpoint.network_id(source.cfg)
    assert own["history"] == [
        {"command": "global", "criterion": "l1", "params": {"before": 2, "after": 1}},
        {"command": "train"},
    ]
    assert own["map"] == {"map": 0.25, "map50": 0.5}
    assert own["preprocessing"]["pad"] == 114
    plain = checkpoint.capture(net, names=NAMES, imgsz=64)
    assert provenance(plain) == {"history": [], "map": None}
    cut = checkpoint.capture(net, names=NAMES, imgsz=64, history=[trained, entry])
    assert provenance(cut)["map"] is None, "scores of what it was before the cut"


SIZES = {
    "fixed": ([], 4),
    "a batch that needs filling": (["--batch", "3", "--img-size", "48", "80"], 6),
    "dynamic": (["--dynamic", "--nms"], 4),
}


@pytest.mark.parametrize(("words", "images"), SIZES.values(), ids=SIZES.keys())
def test_real_images_are_compared_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], images: int
) -> None:
    weights, data = squares.save(tmp_path / "net.pt"), squares.data(tmp_path)
    line = ["export", "--weights", str(weights), "--data", str(data), *words]
    assert main([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == images
    assert main(line) == 0
    assert f"on random inputs and {images} images" in capsys.readouterr().out


LEGACY = {"usual": ([], 13), "oldest": (["--opset", "11"], 11), "newest": (["--opset", "17"], 17)}


@pytest.mark.parametrize(("words", "opset"), LEGACY.values(), ids=LEGACY.keys())
def test_legacy_writes_old_opsets(tmp_path: Path, words: list[str], opset: int) -> None:
    weights = squares.save(tmp_path / "net.pt")
    assert main(["export", "--weights", str(weights), "--legacy", "--nms", *words]) == 0
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version == opset
