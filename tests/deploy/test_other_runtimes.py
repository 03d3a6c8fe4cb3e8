"""What is exported computes the same in OpenVINO and in ncnn, whichever of the two is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from public import draw_image, trained, yolor_cfg, yolov3_tiny_cfg
from unfoldable_cfgs import STAY

from prune import checkpoint
from prune.cli import main
from prune.errors import ExportError, InputError
from prune.export import ncnn as ncnn_files
from prune.export import ncnn_layers
from prune.export import onnx as onnx_files
from prune.models.darknet import Darknet, build
from prune.models.head import Yolo
from prune.models.layers import ACTIVATIONS

NAMES = ("cat", "dog")

# What the cfgs of `public` lack: shares of channels, squeeze and excitation, YOLOR's reorg.
REST = """[net]
channels=3
[reorg]
order=yolor
stride=2
[convolutional]
filters=8
size=3
stride=4
pad=1
groups=4
activation=relu6
[route]
layers=-1
groups=2
group_id=1
[avgpool]
[convolutional]
filters=4
size=1
activation=logistic
[scale_channels]
from=2
activation=relu
[dropout]
[upsample]
stride=2
[convolutional]
batch_normalize=1
filters=7
size=3
pad=1
activation=linear
[yolo]
mask=0
anchors=8,8
classes=2
num=1
"""
WEIGHTED = yolor_cfg().replace("[shortcut]", "[shortcut]\nweights_type={}")

NETWORKS = {
    "yolor": (yolor_cfg(), "torch"),
    "yolov3-tiny, lopsided pooling": (yolov3_tiny_cfg(), "darknet"),
    "reorg, shares, excitation": (REST, "darknet"),
    "hardswish": (yolor_cfg().replace("mish", "hardswish"), "torch"),
    "a weight a map": (WEIGHTED.format("per_feature"), "torch"),
    "a weight a channel": (
        WEIGHTED.format("per_channel\nweights_normalization=softmax"),
        "darknet",
    ),
    "a shift that cannot be folded": (STAY["shift before a 3x3"][0], "darknet"),
    "a control that cannot be folded": (STAY["control behind an activation"][0], "darknet"),
}

Array = NDArray[np.float32]


def in_openvino(net: Darknet, folder: Path, images: torch.Tensor) -> Array:
    """Export with open sides and decode in OpenVINO, in float32 whatever the processor can do."""
    openvino = pytest.importorskip("openvino")
    done = onnx_files.export(net, folder / "m.onnx", names=NAMES, imgsz=(64, 64), dynamic=True)
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(done.out), "CPU", exact)
    found: Array = compiled(images.numpy())[0]
    return found


def in_ncnn(net: Darknet, folder: Path, images: torch.Tensor) -> Array:
    """Export, compute the maps in ncnn, decode them here as the .json says."""
    pytest.importorskip("ncnn")
    done = ncnn_files.export(net, folder / "m.param", names=NAMES, imgsz=(64, 64))
    param, weights, described = done.out
    said = json.loads(described.read_text())
    maps = ncnn_files.run(param, weights, images, heads=len(said["heads"]))
    decoded = [
        Yolo(
            torch.tensor(head["anchors"]),
            stride=head["stride"],
            classes=len(said["names"]),
            scale_x_y=head["scale_x_y"],
            new_coords=head["new_coords"],
        ).decode(torch.from_numpy(one)[None])
        for head, one in zip(said["heads"], maps, strict=True)
    ]
    return torch.cat(decoded, dim=1).numpy()


Runtime = Callable[[Darknet, Path, torch.Tensor], Array]
RUNTIMES: dict[str, Runtime] = {"openvino": in_openvino, "ncnn": in_ncnn}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=RUNTIMES.keys())
def test_another_runtime_decodes_the_same_boxes(
    tmp_path: Path, runtime: Runtime, name: str
) -> None:
    text, decoding = NETWORKS[name]
    net = trained(text, decoding=decoding)
    images = draw_image(3, size=96)
    with torch.no_grad():
        wanted = net.decode(net(images)).numpy()
    found = runtime(net, tmp_path, images)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)


def test_suppression_runs_in_openvino_too(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    onnxruntime = pytest.importorskip("onnxruntime")
    net = trained(yolor_cfg(), decoding="torch")
    done = onnx_files.export(
        net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), max_detections=20
    )
    images = draw_image().numpy()
    session = onnxruntime.InferenceSession(str(done.out), providers=["CPUExecutionProvider"])
    wanted = dict(zip(done.outputs, session.run(None, {"images": images}), strict=True))
    compiled = openvino.Core().compile_model(done.out, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled({"images": images})
    for output, values in wanted.items():
        np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-3)


def test_ncnn_files_that_differ_are_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn")
    monkeypatch.setitem(ncnn_layers.ACTIVATIONS, torch.nn.SiLU, ("Sigmoid", {}))
    with pytest.raises(ExportError, match="differ from torch's"):
        ncnn_files.export(
            trained(yolor_cfg(), decoding="torch"),
            tmp_path / "m.param",
            names=NAMES,
            imgsz=(64, 64),
        )
    assert not list(tmp_path.iterdir())


def test_every_activation_of_a_cfg_is_one_of_ncnns() -> None:
    named = {type(make()) for make in ACTIVATIONS.values()} - {torch.nn.Identity}
    assert named == set(ncnn_layers.ACTIVATIONS)


def test_an_activation_that_ncnn_has_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ncnn")
    monkeypatch.delitem(ncnn_layers.ACTIVATIONS, torch.nn.Mish)
    net = trained(yolor_cfg(), decoding="torch")
    with pytest.raises(InputError, match=r"ncnn files can have SiLU, .*, not Mish"):
        ncnn_files.export(net, tmp_path / "m.param", names=NAMES, imgsz=(64, 64))
    assert not list(tmp_path.iterdir())


def test_command_writes_files_for_ncnn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ncnn")
    source = checkpoint.capture(build(yolor_cfg()).eval(), names=NAMES, imgsz=64)
    checkpoint.save(source, tmp_path / "net.pt")
    words = ["export", "--weights", str(tmp_path / "net.pt"), "--format", "ncnn"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [Path(path).name for path in document["out"]] == ["net.param", "net.bin", "net.json"]
    assert document["max_rel_diff"] < 1e-3
    assert main([*words, "--nms"]) == 2
    assert "--nms is for ONNX; leave it out with --format ncnn" in capsys.readouterr().err


def test_ncnn_that_is_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ncnn", None)
    source = checkpoint.capture(build(yolor_cfg()).eval(), names=NAMES, imgsz=64)
    checkpoint.save(source, tmp_path / "net.pt")
    assert main(["export", "--weights", str(tmp_path / "net.pt"), "--format", "ncnn"]) == 2
    assert "pip install detector-prune[ncnn]" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["net.pt"]
