"""The ONNX file computes what the network computes, says what it is, or does not exist."""

from __future__ import annotations

import ast
import errno
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import squares
import torch
from torch.nn import functional

from prune.errors import ExportError, InputError, WriteError, first_line
from prune.export import exporters, mish
from prune.export.check import difference
from prune.export.exporters import EXPORTERS, Job
from prune.export.onnx import export
from prune.models.darknet import Darknet, build

# Two heads at strides 16 and 8, one for each decoding, and every operation whose size in ONNX
# depends on the image's: pooling, upsampling, concatenation, the cells of the decoding.
TWO_HEADS = """
[net]
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=silu
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[maxpool]
size=5
stride=1
[route]
layers=-1,-2
[implicit_mul]
filters=14
[route]
layers=4
[convolutional]
filters=14
size=1
activation=linear
[control_channels]
from=5
activation=logistic
[yolo]
mask=2,3
anchors=4,5, 8,8, 16,12, 30,40
classes=2
num=4
scale_x_y=2.0
new_coords=1
[route]
layers=4
[upsample]
stride=2
[route]
layers=-1,1
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=4,5, 8,8, 16,12, 30,40
classes=2
num=4
scale_x_y=1.05
"""
NAMES = ("it's red", "blue")


class Case(NamedTuple):
    """How to export, and a image size and batch that the file must take."""

    options: dict[str, bool | int | str]
    shape: tuple[int, int, int, int]


CASES = {
    "one picture": Case({}, (1, 3, 64, 96)),
    "batch of two": Case({"batch": 2}, (2, 3, 64, 96)),
    "old opset": Case({"opset": 13}, (1, 3, 64, 96)),
    "dynamic": Case({"dynamic": True}, (3, 3, 32, 160)),
    "raw": Case({"raw": True}, (1, 3, 64, 96)),
    "raw dynamic": Case({"raw": True, "dynamic": True}, (2, 3, 112, 16)),
}


@pytest.fixture
def net() -> Darknet:
    """Return the network with weights that let every part of it show in the output."""
    torch.manual_seed(0)
    net = build(TWO_HEADS)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith(("running_mean", "Conv2d.bias", "BatchNorm2d.bias")):
                tensor.normal_()
    return net.eval()


def run(
    path: Path, images: torch.Tensor
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Run the file; `compare` in the product has its own session, this one is independent."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"images": images.numpy()}))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_file_equals_torch(net: Darknet, tmp_path: Path, case: Case) -> None:
    done = export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 96), **case.options)  # type: ignore[arg-type]  # a table's values
    images = torch.rand(case.shape)
    with torch.no_grad():
        maps = net(images)
        wanted = maps if case.options.get("raw") else (net.decode(maps),)
    for found, expected in zip(run(done.out, images), wanted, strict=True):
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-4)
    assert done.max_rel_diff < 1e-5
    assert done.bytes == done.out.stat().st_size
    assert done.opset == case.options.get("opset", 18)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("raw", [False, True], ids=["boxes", "raw dynamic"])
def test_the_other_exporter_writes_the_same(tmp_path: Path, raw: bool) -> None:
    """One layer only: torch.export takes 10 s and more to reason about the sizes of two heads."""
    files = []
    for exporter in EXPORTERS:
        done = export(
            squares.network(),
            tmp_path / f"{exporter}.onnx",
            names=squares.NAMES,
            imgsz=(64, 64),
            raw=raw,
            dynamic=raw,
            exporter=exporter,
        )
        files.append((done.inputs, done.outputs, run(done.out, torch.ones(1, 3, 64, 64))[0]))
    (inputs, outputs, numbers), other = files
    assert (inputs, outputs) == other[:2]
    np.testing.assert_allclose(numbers, other[2], rtol=1e-5)


def test_mish_is_its_formula() -> None:
    x = torch.linspace(-200, 200, 40001)
    wanted = functional.mish(x.double())
    torch.testing.assert_close(mish.Mish()(x).double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_mish_is_written_in_fast_operators(net: Darknet, tmp_path: Path, exporter: str) -> None:
    export(net, tmp_path / "net.onnx", names=squares.NAMES, imgsz=(64, 64), exporter=exporter)
    kinds = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert not kinds & {"Softplus", "Tanh"}
    assert any(isinstance(module, torch.nn.Mish) for module in net.modules()), "a copy was changed"


def test_open_sides_have_plain_names(net: Darknet, tmp_path: Path) -> None:
    done = export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), dynamic=True)
    assert done.inputs == {"images": ("batch", 3, "height", "width")}
    assert done.outputs == {"output": ("batch", "boxes", 7)}


def test_metadata_says_what_the_file_is(net: Darknet, tmp_path: Path) -> None:
    done = export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 96), batch=2, source="ab" * 32)
    facts = {entry.key: entry.value for entry in onnx.load(done.out).metadata_props}
    assert ast.literal_eval(facts["names"]) == dict(enumerate(NAMES))
    assert ast.literal_eval(facts["imgsz"]) == [64, 96]
    assert {key: facts[key] for key in ("stride", "batch", "task", "decoded", "dynamic")} == {
        "stride": "16",
        "batch": "2",
        "task": "detect",
        "decoded": "True",
        "dynamic": "False",
    }
    assert int(facts["params"]) == sum(p.numel() for p in net.parameters())
    assert facts["source_sha256"] == "ab" * 32


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_network_is_left_as_it_was(net: Darknet, tmp_path: Path, training: bool) -> None:
    net.train(training)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64))
    assert all(module.training == training for module in net.modules())
    assert all(parameter.requires_grad for parameter in net.parameters())
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_file_that_differs_is_not_left(
    net: Darknet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.onnx"
    target.write_text("an older export")

    def other_weights(job: Job, path: Path) -> None:
        EXPORTERS["torchscript"](job, path)
        model = onnx.load(path)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 4:
                tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * np.float32(1.01)).tobytes()
        onnx.save(model, path)

    monkeypatch.setitem(exporters.EXPORTERS, "wrong", other_weights)
    with pytest.raises(ExportError, match="differs from torch by"):
        export(net, target, names=NAMES, imgsz=(64, 64), exporter="wrong")
    assert target.read_text() == "an older export"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_a_full_disk_names_the_file(
    net: Darknet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(EXPORTERS, "torchscript", full)
    with pytest.raises(WriteError, match=r"cannot write .*net.onnx: No space left on device"):
        export(net, tmp_path / "net.onnx", names=squares.NAMES, imgsz=(64, 64))
    assert not list(tmp_path.iterdir())


def test_an_opset_nobody_writes_is_named(net: Darknet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset is 99"):
        export(net, tmp_path / "m.onnx", names=NAMES, imgsz=(64, 64), opset=99)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "batch", "message"),
    [
        ((100, 64), 1, "the nearest is 96 x 64"),
        ((64, 4), 1, "the nearest is 64 x 16"),
        ((0, 64), 1, "the nearest is 16 x 64"),
        ((64, 64), 0, "batch is 0"),
    ],
)
def test_sizes_that_cannot_be(
    net: Darknet, tmp_path: Path, size: tuple[int, int], batch: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        export(net, tmp_path / "m.onnx", names=NAMES, imgsz=size, batch=batch)
    assert not list(tmp_path.iterdir())


def test_probabilities_are_compared_apart_from_pixels() -> None:
    wanted = np.full((1, 2, 7), 0.01, dtype=np.float32)
    wanted[..., :4] = 1000
    found = wanted.copy()
    found[0, 1, 6] += np.float32(0.001)  # a tenth of a probability, a millionth of a coordinate
    assert difference(found, wanted).relative == pytest.approx(0.1, rel=1e-4)
    assert difference(found, wanted).absolute == pytest.approx(0.001, rel=1e-4)


def test_not_a_number_is_infinitely_far() -> None:
    wanted = np.ones((1, 4, 2, 2), dtype=np.float32)
    assert difference(wanted * np.float32(np.nan), wanted).relative == float("inf")
    assert difference(wanted, wanted).relative == 0


def test_an_error_without_words_is_told_by_its_kind() -> None:
    told = [first_line(error) for error in (ValueError(), ValueError("\n"), ValueError("\na\nb"))]
    assert told == ["ValueError", "ValueError", "a"]
