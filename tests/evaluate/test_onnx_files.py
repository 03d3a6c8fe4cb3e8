"""ONNX and ncnn files of strangers: what they say of themselves is checked before they are run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from prune.errors import CheckpointError, InputError
from prune.evaluate import runner as runtime
from prune.evaluate.runner import open_weights
from prune.runtimes import ncnn_param
from prune.runtimes.file_inputs import settle

FACTS = {"names": '["cat", "dog", "car"]', "stride": "8", "imgsz": "64"}


def write(
    path: Path,
    shape: Sequence[int | str] = (1, 3, 64, 64),
    *,
    inputs: int = 1,
    kind: int = TensorProto.FLOAT,
    facts: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write a file that takes images and gives three dimensions, with metadata of prune's."""
    takes = [helper.make_tensor_value_info(f"images{i}", kind, shape) for i in range(inputs)]
    gives = [helper.make_tensor_value_info("output", kind, [1, None, None])]
    if inputs:
        node = helper.make_node("ReduceMean", ["images0"], ["output"], axes=[3], keepdims=0)
    else:
        value = helper.make_tensor("v", kind, [1, 3, 8], [0.0] * 24)
        node = helper.make_node("Constant", [], ["output"], value=value)
    graph = helper.make_graph([node], "g", takes, gives)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, FACTS | dict(facts))
    onnx.save(model, path)
    return path


def test_a_plain_file_is_opened(tmp_path: Path) -> None:
    runner = open_weights(write(tmp_path / "m.onnx"))
    assert (runner.names, runner.shape, runner.stride) == (("cat", "dog", "car"), (64, 64), 8)
    open_file = open_weights(write(tmp_path / "open.onnx", ("N", 3, "H", "W")))
    assert open_file.shape is None and open_file.imgsz == (64, 64)


SHAPES: dict[str, tuple[Sequence[int | str], str]] = {
    "sides": ((1, 3, 2**20, 2**20), "at most 16384 pixels per side"),
    "area": ((1, 3, 16384, 16384), "at most 268,435,456 values"),
    "batch": ((2**40, 3, 64, 64), "at most 268,435,456 values"),
    "open side": ((1, 3, 2**20, "W"), "at most 16384 pixels per side"),
    "channels": ((1, 4, 64, 64), "must take images"),
    "rank": ((1, 3, 64, 64, 1), "must take images"),
    "nothing": ((1, 3, 0, 64), "must take images"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_a_file_that_takes_no_images_of_a_possible_size_is_refused(
    case: str, tmp_path: Path
) -> None:
    shape, said = SHAPES[case]
    path = write(tmp_path / "m.onnx", shape)
    with pytest.raises(CheckpointError, match=said) as caught:
        open_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_with_no_input_or_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="takes nothing; it must take images"):
        open_weights(write(tmp_path / "none.onnx", inputs=0))
    with pytest.raises(CheckpointError, match="must take images"):
        open_weights(write(tmp_path / "two.onnx", inputs=2))


META: dict[str, tuple[dict[str, str], str]] = {
    "deep": ({"names": "[" * 5000}, "'names' in its metadata is no list"),
    "deep words": ({"names": "(" * 5000}, "'names' in its metadata is no list"),
    "endless number": ({"names": "9" * 9000}, "'names' in its metadata is no list"),
    "nested": ({"names": "[[1], 2]"}, "names[0] is [1]; it must be a whole number"),
    "surrogate": ({"names": json.dumps(["\ud800"])}, "names[0] is"),
    "a number twice": ({"names": '{"0": "cat", "0": "dog"}'}, "'names' in its metadata is no list"),
    "no names": ({"names": "[]"}, "'names' in its metadata is no list"),
    "deep stride": ({"stride": "[" * 5000}, "'stride' in its metadata"),
    "huge stride": ({"stride": "1e300"}, "it must be a whole number from 1 to 1024"),
    "no stride": ({"stride": "NaN"}, "it must be a whole number from 1 to 1024"),
    "deep size": ({"imgsz": "[" * 5000}, "'imgsz' in its metadata is no size"),
    "huge size": ({"imgsz": str(2**40)}, "at most 16384 pixels per side"),
}


@pytest.mark.parametrize("case", META)
def test_metadata_that_no_exporter_writes_is_refused(case: str, tmp_path: Path) -> None:
    facts, said = META[case]
    path = write(tmp_path / "m.onnx", ("N", 3, "H", "W"), facts=facts)
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    assert str(path) in str(caught.value) and said in str(caught.value)
    assert len(str(caught.value)) < 400


def test_metadata_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", facts={"names": "['catcat']"})
    path.write_bytes(path.read_bytes().replace(b"catcat", b"ca\xff\xfeat"))
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        open_weights(path)


@pytest.mark.parametrize("name", ["m.onnx", "m.pt", "m.weights"])
def test_a_pipe_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    for read in (open_weights, lambda path: settle(path, threads=1)):
        with pytest.raises(InputError, match="it is a pipe"):
            read(path)


@pytest.mark.parametrize("case", ["sides", "area", "batch"])
def test_what_is_timed_fits_a_machine(case: str, tmp_path: Path) -> None:
    shape, said = SHAPES[case]
    with pytest.raises(InputError, match=said):
        settle(write(tmp_path / "m.onnx", shape), threads=1)
    with pytest.raises(InputError, match="at most 268,435,456 values"):
        settle(write(tmp_path / "o.onnx", ("N", 3, 64, 64)), threads=1, batch=10**9)


@pytest.mark.parametrize("written", ["[1]", "(", "[64, 64]"])
def test_where_the_shape_is_fixed_metadata_of_another_size_get_a_note(
    written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(runtime, "note", said.append)
    path = write(tmp_path / "m.onnx", facts={"imgsz": written})
    assert settle(path, threads=1).shape == (1, 3, 64, 64)
    assert open_weights(path).imgsz == (64, 64)
    assert len(said) == (written != "[64, 64]")
    assert all(f"is '{written}', but the file takes 64 pixels only" in text for text in said)


def test_a_size_that_no_network_takes_is_not_believed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx", ("N", 3, "H", "W"), facts={"imgsz": "9" * 5000, "stride": "0"}
    )
    with pytest.raises(InputError, match="does not say which is usual"):
        settle(path, threads=1)


LAYERS = "Input in 0 1 in 0={} 1=64 2=3\nConvolution c 1 1 in out 0=8 1=1\n"


@pytest.mark.parametrize(
    "text",
    [
        "7767517\n2 2\n" + LAYERS.format("x"),
        "7767517\n2 2\n" + LAYERS.format("-9"),
        "7767517\n2 2\n" + LAYERS.format("9" * 5000),
        "7767517\n1 1\nInput in 0 0\n",
        "7767517\n1 1\nInput in -1 -1 a b\n",
        "7767517\n\n",
        "\x00\x01",
    ],
)
def test_ncnn_text_that_describes_no_network_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.param"
    path.write_text(text)
    with pytest.raises(InputError, match=r"m\.param is no \.param file of ncnn"):
        ncnn_param.read(path)


@pytest.mark.parametrize("beside", ["[" * 5000, "[1]", "{", json.dumps({"imgsz": 64, "stride": 0})])
def test_what_stands_beside_ncnn_text_is_believed_where_it_can_be(
    beside: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.param"
    path.write_text("7767517\n2 2\n" + LAYERS.format(64))
    path.with_suffix(".bin").touch()
    path.with_suffix(".json").write_text(beside)
    path.with_suffix(".bin").touch()
    assert settle(path, threads=1).shape == (1, 3, 64, 64)


def test_a_fixed_batch_of_open_sides_is_counted_before_it_is_filled_up(tmp_path: Path) -> None:
    runner = open_weights(write(tmp_path / "m.onnx", (2**20, 3, "H", "W")))
    with pytest.raises(CheckpointError, match=r"m\.onnx takes 1048576 images per run; at most"):
        runner.detect(torch.zeros(1, 3, 64, 64))


def test_a_shape_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", ("N", 3, "HEIGHT", "WIDTH"))
    path.write_bytes(path.read_bytes().replace(b"HEIGHT", b"\xffEIGHT"))
    with pytest.raises(CheckpointError, match=r"cannot read .*m\.onnx"):
        open_weights(path)


def test_metadata_that_are_not_utf8_are_no_metadata_to_time_by(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", ("N", 3, "H", "W"), facts={"imgsz": "[64, 64]"})
    path.write_bytes(path.read_bytes().replace(b"[64, 64]", b"[64, \xff4]"))
    with pytest.raises(InputError, match=r"m\.onnx: metadata not in UTF-8"):
        settle(path, threads=1)
