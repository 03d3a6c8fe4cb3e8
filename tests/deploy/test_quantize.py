"""INT8: what is quantised, how little it changes, which layers go back, what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import tiny
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from prune import checkpoint
from prune.cli import main
from prune.common import choices, notes
from prune.data import spec
from prune.errors import InputError
from prune.evaluate.metrics import Metrics
from prune.export.onnx import export
from prune.quantize import calibrate, search
from prune.quantize.parts import OPERATORS, Layer, named, sort
from prune.quantize.run import QuantizeConfig, QuantizedModel, quantize, quantize_model
from prune.quantize.subject import Array, FloatModel, open_subject, opened
from prune.quantize.write import in_int8
from prune.runtimes import backends
from prune.runtimes.backends import Setting, open_model
from prune.train.config import TrainConfig
from prune.train.initial_weights import open_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a data set and a float file of a network that knows nothing."""
    folder = tmp_path_factory.mktemp("int8")
    tiny.data(folder, images=10)
    found = checkpoint.load(tiny.weights(folder))
    net = checkpoint.network(found)
    export(net, folder / "net.onnx", names=found.names, imgsz=(64, 64))
    return folder


def data_of(folder: Path) -> spec.DataSpec:
    return spec.load(next(folder.glob("*.yaml")), splits=("train", "val"))


def test_a_remark_on_a_file_names_no_copy_of_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(folder / "net.onnx")
    helper.set_model_props(model, {fact.key: fact.value for fact in model.metadata_props})
    next(fact for fact in model.metadata_props if fact.key == "imgsz").value = "[1]"
    onnx.save(model, tmp_path / "odd.onnx")
    notes.forget()
    subject = open_subject(tmp_path / "odd.onnx", data_of(folder))
    opened(subject.model)
    said = capsys.readouterr().err
    assert "odd.onnx: 'imgsz' in its metadata is '[1]'" in said
    assert said.count("in its metadata") == 1


def in_memory(folder: Path, **options: Any) -> QuantizedModel:
    """Quantise the float file of a folder, or another one, without writing or timing it."""
    data = next(folder.glob("*.yaml"))
    given = {"weights": folder / "net.onnx", "data": data, "images": 8, **options}
    return quantize_model(QuantizeConfig(**given), data_of(folder))


def graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    """Wrap nodes from "images" to "output" up as a model; weights need not be there."""
    shape = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, None)
    output = helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)
    return named(helper.make_model(helper.make_graph(nodes, "net", [shape], [output])))


def test_heads_and_the_first_convolution_stay_in_float() -> None:
    node = helper.make_node
    model = graph(
        node("Conv", ["images", "w0"], ["a"], name="first"),
        node("Relu", ["a"], ["b"], name="first's"),
        node("Conv", ["b", "w1"], ["c"], name="inner"),
        node("Sigmoid", ["c"], ["s"], name="gate"),
        node("Mul", ["c", "s"], ["d"], name="silu"),
        node("Add", ["b", "d"], ["e"], name="sum"),
        node("Conv", ["e", "w2"], ["f"], name="head"),
        node("Sigmoid", ["f"], ["output"], name="decoding"),
    )
    parts = sort(model)
    assert parts.layers == (Layer("inner", ("inner", "gate", "silu")),)
    assert parts.floating == {"first", "first's", "head", "decoding"}


def test_a_product_with_another_layer_is_no_activation() -> None:
    node = helper.make_node
    model = graph(
        node("Conv", ["images", "w0"], ["a"], name="first"),
        node("Conv", ["a", "w1"], ["b"], name="inner"),
        node("Mul", ["a", "b"], ["c"], name="gated"),
        node("Conv", ["c", "w2"], ["output"], name="head"),
    )
    assert sort(model).layers == (Layer("inner", ("inner",)),)


def test_what_has_nothing_to_quantise_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to quantise"):
        sort(graph(helper.make_node("Conv", ["images", "w0"], ["output"])))


@pytest.mark.filterwarnings("error")
def test_padding_before_a_maximum_stays_in_float_without_a_warning() -> None:
    node = helper.make_node
    weights = np.ones((4, 4, 1, 1), np.float32)
    tensors = {"w": weights[:, :3], "v": weights, "infinity": np.float32(-np.inf)}
    tensors["sides"] = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    shapes = [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, [1, 3, 8, 8])]
    gives = [helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, None)]
    nodes = [
        node("Conv", ["images", "w"], ["a"]),
        node("Pad", ["a", "sides", "infinity"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2]),
        node("Conv", ["c", "v"], ["output"]),
    ]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    made = helper.make_graph(nodes, "net", shapes, gives, held)
    opsets = [helper.make_opsetid("", 18)]
    model = named(helper.make_model(made, opset_imports=opsets, ir_version=10))
    images = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    operators = OPERATORS["onnxruntime"]
    seen = calibrate.ranges(model, [images], operators=operators, method="minmax")
    written = in_int8(model, seen, operators=operators, floating=())
    kinds = [one.op_type for one in written.graph.node]
    assert kinds.count("QuantizeLinear") >= 3
    scales = [numpy_helper.to_array(t) for t in written.graph.initializer if "scale" in t.name]
    assert all(np.isfinite(scale).all() for scale in scales)


@pytest.mark.parametrize("method", calibrate.METHODS)
@pytest.mark.parametrize("runtime", OPERATORS)
def test_int8_is_near_float(folder: Path, method: str, runtime: str) -> None:
    done = in_memory(folder, method=method, runtime=runtime)
    assert done.given_back == ()
    assert 0 < done.moved.relative < 0.1
    kinds = {weight.name: weight.data_type for weight in done.model.graph.initializer}
    kernels = [node.input[1] for node in done.model.graph.node if node.op_type == "Conv"]
    in_float = [name for name in kernels if kinds.get(name) == onnx.TensorProto.FLOAT]
    assert len(in_float) == 3, "those of two heads and the first"
    assert len(kernels) - len(in_float) == done.layers


def kernels(model: onnx.ModelProto) -> list[tuple[NDArray[np.int8], NDArray[np.float32]]]:
    """Read the 8-bit kernels of a model, [out, in, kh, kw] each, with their scales."""
    held = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    return [
        (held[node.input[0]], held[node.input[1]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in held
        and held[node.input[0]].ndim == 4
    ]


@pytest.mark.parametrize(
    ("flags", "most"), [([], 127), (["--seven-bits"], 64)], ids=["8 bits", "7 bits"]
)
def test_every_filter_has_a_scale_and_fills_its_bits(
    folder: Path, tmp_path: Path, flags: list[str], most: int
) -> None:
    assert main(words(folder, "--out", tmp_path / "int8.onnx", *flags)) == 0
    found = kernels(onnx.load(tmp_path / "int8.onnx"))
    assert len(found) == 4
    for kernel, scales in found:
        assert scales.shape == (len(kernel),)
        assert len(set(scales.tolist())) == len(kernel)
        largest = np.abs(kernel.astype(int)).max(axis=(1, 2, 3))
        assert set(largest.tolist()) <= {most - 1, most}, "its own scale is what fills each"


@pytest.mark.parametrize("activation", ["mish", "leaky", "relu", "hardswish"])
@pytest.mark.parametrize("runtime", OPERATORS)
def test_int8_is_near_float_with_every_activation(
    folder: Path, tmp_path: Path, activation: str, runtime: str
) -> None:
    float_file = tmp_path / "net.onnx"
    config = TrainConfig(weights=folder / "dense.pt", activation=activation)
    export(open_source(config, names=tiny.NAMES).net, float_file, names=tiny.NAMES, imgsz=(64, 64))
    done = in_memory(folder, weights=float_file, runtime=runtime)
    assert 0 < done.moved.relative < 0.1
    assert done.layers == 4


def test_a_mish_is_rounded_at_its_end_alone(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig(weights=folder / "dense.pt", activation="mish")
    source = open_source(config, names=tiny.NAMES)
    export(source.net, tmp_path / "net.onnx", names=tiny.NAMES, imgsz=(64, 64))
    nodes = in_memory(folder, weights=tmp_path / "net.onnx").model.graph.node
    rounded = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    steps = {o for node in nodes if node.op_type in ("Sigmoid", "Sub", "Mul") for o in node.output}
    assert not steps & rounded
    assert any(node.op_type == "Div" and node.output[0] in rounded for node in nodes)


def test_for_openvino_nothing_stands_between_a_convolution_and_its_activation(
    folder: Path, tmp_path: Path
) -> None:
    done = in_memory(folder, runtime="openvino")
    nodes = done.model.graph.node
    outputs = {node.output[0] for node in nodes if node.op_type == "Conv"}
    rounded = {node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    assert not outputs & rounded
    pytest.importorskip("openvino")
    onnx.save(done.model, tmp_path / "int8.onnx")
    opened = open_model("openvino", tmp_path / "int8.onnx", Setting(1, (64, 64)))
    assert opened.precision().startswith("int8 57 %"), "4 of 7"


def test_ranges_are_those_of_the_shapes_that_are_detected_in(folder: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "wide.png"), np.zeros((20, 64, 3), dtype=np.uint8))
    net = checkpoint.network(checkpoint.load(folder / "dense.pt"))
    for name, dynamic, shape in (("fixed", False, (64, 64)), ("open", True, (32, 64))):
        path = tmp_path / f"{name}.onnx"
        export(net, path, names=tiny.NAMES, imgsz=(64, 64), dynamic=dynamic)
        subject = open_subject(path, data_of(folder))
        (images,) = subject.batches([tmp_path / "wide.png"])
        assert images.shape == (1, 3, *shape)


def test_with_every_node_in_float_nothing_changes(folder: Path) -> None:
    subject = open_subject(folder / "net.onnx", data_of(folder))
    images = subject.images(8, seed=0)
    operators = OPERATORS["onnxruntime"]
    seen = calibrate.ranges(
        subject.model, subject.batches(images), operators=operators, method="minmax"
    )
    everything = [node.name for node in subject.model.graph.node]
    same = in_int8(subject.model, seen, operators=operators, floating=everything)
    for found, wanted in zip(
        subject.outputs(same, images), subject.outputs(subject.model, images), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
        assert search.change(found, wanted) == 0.0


@pytest.mark.parametrize(
    ("maps", "least", "given_back", "held"),
    [
        ([0.5, 0.6, 0.7, 0.8], 0.5, 0, True),
        ([0.5, 0.6, 0.7, 0.8], 0.61, 2, True),
        ([0.5, 0.6, 0.7, 0.8], 0.8, 3, True),
        ([0.5, 0.6, 0.7, 0.65], 0.9, 3, False),
        ([0.5], 0.6, 0, False),
    ],
)
def test_the_fewest_layers_go_back(
    maps: Sequence[float], least: float, given_back: int, held: bool
) -> None:
    found = search.fewest(len(maps), lambda number: maps[number], least=least)
    assert (found.chosen.given_back, found.held) == (given_back, held)
    assert found.chosen.map == maps[given_back]
    assert len({trial.given_back for trial in found.trials}) == len(found.trials)


def test_the_most_sensitive_layer_comes_first() -> None:
    layers = [Layer(name, (name,)) for name in "abc"]
    wanted = [np.ones((1, 2, 7), dtype=np.float32)]
    noise = {"a": 0.1, "b": 0.3, "c": 0.2}
    order = search.by_sensitivity(layers, lambda layer: [wanted[0] + noise[layer.name]], wanted)
    assert [layer.name for layer in order] == ["b", "c", "a"]


def test_a_box_that_moves_where_an_object_is_counts() -> None:
    wanted = np.full((1, 2, 7), 0.5, dtype=np.float32)
    wanted[0, 1, 4] = 0.0  # nothing is there
    seen, unseen = wanted.copy(), wanted.copy()
    seen[0, 0, 0] += 1.0
    unseen[0, 1, 0] += 1.0
    assert search.change(seen, wanted) == pytest.approx(1.0), "1 by 0.5, of four 0.5 by 0.5"
    assert search.change(unseen, wanted) == 0.0


def test_what_moved_is_the_worst_of_all_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = FloatModel.outputs

    def moving(self: FloatModel, model: onnx.ModelProto, paths: Sequence[Path]) -> list[Array]:
        found = list(outputs(self, model, paths))
        if model is not self.model:
            found[1] = found[1] + 100.0  # of the second image alone
        return found

    whole = in_memory(folder).moved
    monkeypatch.setattr(FloatModel, "outputs", moving)
    moved = in_memory(folder).moved
    assert moved.absolute > 99 > whole.absolute
    assert moved.relative > 10 * whole.relative


def words(folder: Path, *more: object) -> list[str]:
    own = ("--weights", folder / "net.onnx", "--data", next(folder.glob("*.yaml")))
    return ["quantize", *map(str, (*own, "--images", 8, *more))]


def test_the_command_writes_scores_and_recommends(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small.onnx"
    assert main(words(folder, "--out", out, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == str(out)
    assert told["bytes"] == out.stat().st_size
    assert told["recommended"] in (str(out), str(folder / "net.onnx"))
    facts = {p.key: p.value for p in onnx.load(out).metadata_props}
    own = json.loads(facts["int8"])
    assert own["pictures"] == 8
    assert own["map"] == {"map50": told["map50"]["int8"], "map": told["map"]["int8"]}
    assert told["inputs"] == {"images": [1, 3, 64, 64]}
    assert facts["names"] == str(dict(enumerate(tiny.NAMES)))
    assert main(["val", "--weights", str(out), *words(folder)[3:5], "--no-plots"]) == 0


def test_a_missed_drop_ends_with_3_under_another_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FloatModel.evaluate
    calls = []

    def worse(self: FloatModel, model: onnx.ModelProto, split: str) -> object:
        calls.append(split)
        scores = real(self, model, split)
        object.__setattr__(scores, "map", 1.0 if len(calls) == 1 else 0.5)
        return scores

    monkeypatch.setattr(FloatModel, "evaluate", worse)
    assert main(words(folder, "--out", tmp_path / "small.onnx", "--max-drop", 1)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["small-missed.onnx"]


def test_a_file_that_lost_much_is_written_but_not_recommended(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scores = iter((0.9, 0.5))
    real = FloatModel.evaluate

    def worse(self: FloatModel, model: onnx.ModelProto, split: str) -> Metrics:
        return replace(real(self, model, split), map=next(scores))

    monkeypatch.setattr(FloatModel, "evaluate", worse)
    assert main(words(folder, "--out", tmp_path / "small.onnx")) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"deploy {folder / 'net.onnx'}")
    assert "loses 40.0 points of mAP; --max-drop" in last
    assert (tmp_path / "small.onnx").is_file()


def unlabelled(folder: Path, tmp_path: Path) -> list[str]:
    shutil.copytree(folder / "images" / "val", tmp_path / "in" / "images" / "val")
    text = f"train: {folder}/images/train\nval: images/val\nnames: [red, blue]\n"
    (tmp_path / "in" / "data.yaml").write_text(text)
    return ["--data", str(tmp_path / "in" / "data.yaml")]


def half(folder: Path, tmp_path: Path) -> list[str]:
    net = checkpoint.network(checkpoint.load(folder / "dense.pt"))
    path = tmp_path / "in" / "half.onnx"
    export(net, path, names=tiny.NAMES, imgsz=(64, 64), half=True)
    return ["--weights", str(path)]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder, _: ["--weights", str(folder / "dense.pt")], "is no ONNX file"),
        (lambda _, own: ["--out", str(own / "x.int8")], "must end in .onnx"),
        (lambda folder, _: ["--out", str(folder / "net.onnx")], "is also --weights"),
        (lambda *_: ["--runtime", "openvino"], "pip install 'detector-prune[openvino]'"),
        (unlabelled, "no image of val has a label file; expected e.g. "),
        (half, "has float16 weights"),
    ],
    ids=["checkpoint", "suffix", "in place", "not installed", "no labels", "half"],
)
def test_files_that_cannot_be_used_are_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path, Path], list[str]],
    says: str,
) -> None:
    monkeypatch.setitem(backends.MODULES, "openvino", "a_module_that_nobody_has")
    more = make(folder, tmp_path)
    capsys.readouterr()
    assert main([*words(folder, "--out", tmp_path / "out" / "x.onnx"), *more]) == 2
    said = capsys.readouterr()
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not said.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--images", "4"], "chance"),
        (["--split", "nights"], "nights"),
        (["--max-drop", "-1"], "max-drop"),
        (["--runtime", "abacus"], "abacus"),
    ],
    ids=["few pictures", "no split", "negative drop", "no runtime"],
)
def test_wrong_use_is_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: Sequence[str],
    says: str,
) -> None:
    try:
        status = main([*words(folder, "--out", tmp_path / "x.onnx"), *more])
    except SystemExit as left:
        status = int(left.code or 0)
    said = capsys.readouterr().err.strip()
    assert status == 2
    assert says in said
    assert said.count("\n") == 0
    assert not list(tmp_path.iterdir())


def test_an_int8_file_is_not_quantised_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    assert main(words(folder, "--out", out)) == 0
    with pytest.raises(InputError, match=r"small\.onnx: it is quantised already"):
        open_subject(out, data_of(folder))


def test_the_function_returns_what_the_command_prints(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(folder, "--out", tmp_path / "small.onnx", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    lines: list[str] = []
    config = QuantizeConfig(
        weights=folder / "net.onnx",
        data=next(folder.glob("*.yaml")),
        images=8,
        out=tmp_path / "small.onnx",
    )
    found = json.loads(json.dumps(quantize(config, report=lines.append).document()))
    assert list(found) == list(printed)
    measured = ("ms", "ratio", "recommended")
    for key in set(found) - set(measured):
        assert found[key] == printed[key], key
    assert found["ms"].keys() == printed["ms"].keys()
    assert found["ratio"].keys() == printed["ratio"].keys()
    assert lines[0] == "ranges from 8 images (minmax)"
    assert capsys.readouterr().out == ""


def test_help_lists_the_methods_and_runtimes_there_are() -> None:
    assert tuple(calibrate.METHODS) == choices.INT8_METHODS
    assert tuple(OPERATORS) == choices.INT8_RUNTIMES
