"""Timing in turn, what runtimes say of themselves, and the advice that follows."""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from prune import checkpoint
from prune.bench.memory import peak_bytes
from prune.bench.rows import Advice, Measured, MeasuredPair, Pair, advise, measure
from prune.errors import InputError
from prune.export.onnx import export
from prune.runtimes.backends import READS, Opened, Setting, installed, noise, open_model
from prune.runtimes.compare import latencies_ms
from prune.runtimes.file_inputs import settle
from prune.runtimes.profiles import PROFILERS, slowest
from prune.runtimes.timing import Times, in_turn, ratio, spread


class FakeMachine:
    """A clock that runs of a known cost move; it slows down, and a change of file costs extra."""

    def __init__(self, *, drift: float = 0.0, change: float = 0.0, jitter: float = 0.0) -> None:
        self.now, self.last = 0.0, ""
        self.drift, self.change, self.jitter = drift, change, jitter
        self.random = np.random.default_rng(1)

    def run(self, name: str, seconds: float) -> Callable[[], None]:
        """Make a run that takes so long on the machine as it is at the start."""

        def run() -> None:
            cold = self.change if self.last != name else 0.0
            noisy = 1 + self.jitter * self.random.random()
            self.now += (seconds + cold) * noisy * (1 + self.drift * self.now)
            self.last = name

        return run

    def times(self, *seconds: float, rounds: int = 50) -> Times:
        """Time runs of these costs in turn."""
        runs = [self.run(str(i), cost) for i, cost in enumerate(seconds)]
        return in_turn(runs, rounds=rounds, clock=lambda: self.now)


def test_two_copies_are_equal_while_the_machine_slows_down() -> None:
    times = FakeMachine(drift=1.0, jitter=0.2).times(0.01, 0.01, 0.02)
    assert times[-1, 0] > 3 * times[0, 0]
    assert ratio(times[:, 1], times[:, 0]).middle == pytest.approx(1, abs=0.03)
    assert ratio(times[:, 2], times[:, 0]).middle == pytest.approx(2, abs=0.06)


def test_a_file_is_timed_with_its_weights_in_the_caches() -> None:
    times = FakeMachine(change=0.5).times(0.01, 0.02, rounds=5)
    np.testing.assert_allclose(times, [[10, 20]] * 5)


def test_the_order_differs_from_round_to_round() -> None:
    orders: list[str] = []
    runs = [lambda name=name: orders.append(name) for name in "abc"]
    in_turn(runs, rounds=12, warm_up=0)
    rounds = {"".join(orders[i : i + 6]) for i in range(0, len(orders), 6)}
    assert len(rounds) > 3
    assert all(sorted(one) == list("aabbcc") for one in rounds)


@pytest.mark.parametrize(("cost", "level"), [(0.01, True), (0.011, False)], ids=["copy", "slower"])
def test_the_interval_tells_noise_from_a_difference(cost: float, level: bool) -> None:
    times = FakeMachine(jitter=0.3).times(0.01, cost)
    found = ratio(times[:, 1], times[:, 0])
    assert found.low <= found.middle <= found.high
    assert found.level == level


def test_nothing_is_collected_while_runs_are_timed() -> None:
    import gc

    during: list[bool] = []
    in_turn([lambda: during.append(gc.isenabled())], rounds=2)
    assert not any(during) and gc.isenabled()


# -- runtimes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write one network as a checkpoint and as ONNX, of fixed and of open size."""
    folder = tmp_path_factory.mktemp("bench")
    weights = tiny.weights(folder)
    written = {"pt": weights}
    for name, options in {"fixed": {"batch": 2}, "open": {"dynamic": True}}.items():
        written[name] = folder / f"{name}.onnx"
        net = checkpoint.network(checkpoint.load(weights))
        export(net, written[name], names=tiny.NAMES, imgsz=(64, 64), **options)  # type: ignore[arg-type]  # a table's values
    return written


def boxes(opened: Opened) -> NDArray[np.float32]:
    """Run a model; each runtime wraps its output in its own way."""
    found: Any = opened.run()
    if isinstance(found, torch.Tensor):
        return found.numpy()
    values = found.values() if hasattr(found, "values") else found
    return np.asarray(next(iter(values)))


def test_torch_gets_its_threads_for_a_run_and_gives_them_back(files: dict[str, Path]) -> None:
    before = torch.get_num_threads()
    during: list[int] = []
    torch.set_num_threads(3)
    try:
        opened = open_model("torch", files["pt"], Setting(2, (64, 64)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "inference_mode", lambda: _noting(during))
            opened.run()
        slowest("torch", files["pt"], Setting(1, (64, 64)))
        assert during == [2]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@contextmanager
def _noting(counts: list[int]) -> Iterator[None]:
    counts.append(torch.get_num_threads())
    with torch.no_grad():
        yield


@pytest.mark.parametrize("runtime", ["onnxruntime", "opencv", "openvino"])
def test_every_runtime_computes_what_torch_computes(files: dict[str, Path], runtime: str) -> None:
    if runtime not in installed():
        pytest.skip(f"{runtime} is not installed")
    wanted = boxes(open_model("torch", files["pt"], Setting(1, (64, 64), batch=2)))
    opened = open_model(runtime, files["fixed"], settle(files["fixed"], threads=1))
    shorter = opened.precision() != "float32"  # bfloat16 has 8 bits
    np.testing.assert_allclose(boxes(opened), wanted, atol=0.5 if shorter else 1e-3)
    assert opened.shape == (2, 3, 64, 64)


def quantised(path: Path) -> Path:
    """Write a convolution between QDQ pairs, and one that is none."""
    random = np.random.default_rng(0)

    def held(name: str, values: object, kind: type) -> TensorProto:
        return numpy_helper.from_array(np.asarray(values, dtype=kind), name)

    def pair(name: str, zero: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [name, "scale", zero], [f"{name}_q"]),
            helper.make_node("DequantizeLinear", [f"{name}_q", "scale", zero], [f"{name}_d"]),
        ]

    weights = [
        held("w_q", random.integers(-9, 9, (8, 3, 3, 3)), np.int8),
        held("v", random.random((8, 8, 3, 3)), np.float32),
        held("scale", 0.05, np.float32),
        held("zero", 0, np.uint8),
        held("zero_w", 0, np.int8),
    ]
    nodes = [
        *pair("images", "zero"),
        helper.make_node("DequantizeLinear", ["w_q", "scale", "zero_w"], ["w"]),
        helper.make_node("Conv", ["images_d", "w"], ["a"]),
        *pair("a", "zero"),
        helper.make_node("Conv", ["a_d", "v"], ["b"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("images", [1, 3, 16, 16]), ("b", [1, 8, 12, 12]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


def halved(path: Path) -> Path:
    """Write a convolution whose weights are float16, as float inputs and outputs are kept."""
    weight = numpy_helper.from_array(np.ones((8, 3, 1, 1), np.float16), "w")
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["x", "w"], ["y"]),
        helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("images", [1, 3, 8, 8]), ("z", [1, 8, 8, 8]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_precision_is_what_was_computed(tmp_path: Path, runtime: str) -> None:
    if runtime not in installed():
        pytest.skip(f"{runtime} is not installed")
    mixed = quantised(tmp_path / "q.onnx")
    told = open_model(runtime, mixed, settle(mixed, threads=1)).precision()
    assert "int8 50 %" in told and "float" in told


def test_short_weights_alone_are_no_short_arithmetic(tmp_path: Path) -> None:
    """ONNX Runtime casts them where it has no kernel for float16."""
    path = halved(tmp_path / "h.onnx")
    told = open_model("onnxruntime", path, settle(path, threads=1)).precision()
    assert told == ("float32" if platform.machine() == "x86_64" else told)


def test_an_input_beside_the_images_gets_a_number(tmp_path: Path) -> None:
    path = quantised(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("ceiling", TensorProto.FLOAT, [1]))
    model.graph.node.append(helper.make_node("Min", ["b", "ceiling"], ["c"]))
    model.graph.output[0].name = "c"
    onnx.save(model, path)
    assert boxes(open_model("onnxruntime", path, settle(path, threads=1))).max() == 0.5


def ncnn_files(folder: Path) -> Path:
    """Write a 1 x 1 convolution from 3 to 2 channels, with biases, and a branch nobody reads."""
    path = folder / "net.param"
    path.write_text(
        "7767517\n3 4\n"
        "Input in0 0 1 in0\n"
        "Split s 1 2 in0 a b\n"
        "Convolution c 1 1 a out0 0=2 1=1 5=1 6=6\n"
    )
    weights = struct.pack("<I6f2f", 0, *range(1, 7), 0.5, -0.5)
    path.with_suffix(".bin").write_bytes(weights)
    return path


@pytest.mark.parametrize("kept", [3, 4])
def test_a_param_file_that_was_cut_short_is_told(tmp_path: Path, kept: int) -> None:
    path = ncnn_files(tmp_path)
    path.write_text("\n".join(path.read_text().splitlines()[:kept]))
    with pytest.raises(InputError, match=f"damaged: it says 3 layers and holds {kept - 2}$"):
        settle(path, threads=1, imgsz=8)


def test_ncnn_runs_its_own_files(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    path = ncnn_files(tmp_path)
    setting = settle(path, threads=1, imgsz=8)
    opened = open_model("ncnn", path, setting)
    outputs: Any = opened.run()
    other, found = outputs
    images = noise(setting.shape)[0]
    weights = np.arange(1, 7).reshape(2, 3)
    wanted = np.einsum("oc,chw->ohw", weights, images) + np.array([0.5, -0.5])[:, None, None]
    np.testing.assert_allclose(found, wanted, rtol=1e-2)
    np.testing.assert_array_equal(other, images)
    assert opened.precision() in ("float32", "16 bits")
    with pytest.raises(InputError, match="one image per run"):
        open_model("ncnn", path, Setting(1, (8, 8), batch=2))
    with pytest.raises(InputError, match="leaves its image size open"):
        settle(path, threads=1)
    path.with_suffix(".json").write_text('{"imgsz": [8, 16], "stride": 8}')
    assert settle(path, threads=1).imgsz == (8, 16)
    with pytest.raises(InputError, match="multiples of 8"):
        settle(path, threads=1, imgsz=12)
    path.with_suffix(".bin").unlink()
    with pytest.raises(InputError, match=r"net\.bin"):
        open_model("ncnn", path, setting)


def test_weights_of_ncnn_that_no_reader_ends_with_are_refused(tmp_path: Path) -> None:
    path = ncnn_files(tmp_path)
    path.with_suffix(".bin").unlink()
    os.mkfifo(path.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"net\.bin: it is a pipe"):
        settle(path, threads=1, imgsz=8)


def test_a_runtime_adds_no_lines_of_its_own_to_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ncnn")
    path = ncnn_files(tmp_path)
    path.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(InputError, match="ncnn cannot load"):
        open_model("ncnn", path, settle(path, threads=1, imgsz=8))
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_a_larger_network_takes_more_memory(tmp_path: Path) -> None:
    peaks = []
    for channels in (8, 2048):  # 2048 x 2048 weights are 16 MiB
        weight = numpy_helper.from_array(np.ones((channels,) * 2 + (1, 1), np.float32), "w")
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, 4, 4])
            for name in "xy"
        ]
        node = helper.make_node("Conv", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "g", ends[:1], ends[1:], [weight])
        path = tmp_path / f"{channels}.onnx"
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[_OPSET]), path)
        peaks.append(peak_bytes("onnxruntime", path, settle(path, threads=1)))
    small, large = peaks
    assert small is not None and large is not None
    assert 0 < small < large - 2**24


_OPSET = helper.make_opsetid("", 13)


@pytest.mark.parametrize("runtime", PROFILERS)
def test_the_slowest_layers_add_up_to_no_more_than_a_run(
    files: dict[str, Path], runtime: str
) -> None:
    if runtime not in installed():
        pytest.skip(f"{runtime} is not installed")
    path = files["pt" if READS[runtime] == ".pt" else "fixed"]
    layers = slowest(runtime, path, Setting(1, (64, 64), batch=2), most=4)
    assert layers is not None and len(layers) == 4
    milliseconds = list(layers.values())
    assert milliseconds == sorted(milliseconds, reverse=True)
    assert 0 < sum(milliseconds) < 1000


def test_a_runtime_without_a_profile_says_so(tmp_path: Path) -> None:
    assert slowest("ncnn", tmp_path / "net.param", Setting(1, (8, 8))) is None


# -- what a file is run on ------------------------------------------------------------------------


def test_a_file_is_run_on_what_it_says(files: dict[str, Path]) -> None:
    assert settle(files["fixed"], threads=3) == Setting(3, (64, 64), batch=2)
    assert settle(files["open"], threads=1) == Setting(1, (64, 64))
    assert settle(files["open"], threads=1, imgsz=96, batch=4) == Setting(1, (96, 96), batch=4)
    assert settle(files["pt"], threads=1) == Setting(1, (64, 64))
    assert settle(files["pt"], threads=1, imgsz=32) == Setting(1, (32, 32))


def unnamed(files: dict[str, Path], folder: Path) -> Path:
    """Write the open file without its metadata."""
    model = onnx.load(files["open"])
    del model.metadata_props[:]
    onnx.save(model, folder / "unnamed.onnx")
    return folder / "unnamed.onnx"


def test_open_sides_need_a_size_from_somebody(files: dict[str, Path], tmp_path: Path) -> None:
    path = unnamed(files, tmp_path)
    with pytest.raises(InputError, match="does not say which is usual; give --img-size"):
        settle(path, threads=1)
    assert settle(path, threads=1, imgsz=64).imgsz == (64, 64)


@pytest.mark.parametrize(
    ("name", "wish", "message"),
    [
        ("fixed", {"imgsz": 96}, "image size is 96, but .* takes images of 64 x 64 only"),
        ("fixed", {"batch": 1}, "batch is 1, but .* takes 2 per run only"),
        ("open", {"imgsz": 100}, "image size is 100; .* takes multiples of 16, e.g. 112"),
        ("pt", {"imgsz": 100}, "image size is 100; .* takes multiples of 16, e.g. 112"),
    ],
)
def test_other_images_than_a_file_takes_are_refused(
    files: dict[str, Path], name: str, wish: dict[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        settle(files[name], threads=1, imgsz=wish.get("imgsz"), batch=wish.get("batch"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.onnx", b"no", "cannot read the ONNX file"),
        ("m.onnx", b"", "is no ONNX file"),
        ("m.param", b"no", "is no .param file of ncnn"),
        ("m.txt", b"no", "none of the files that can be timed: .onnx, .pt, .pth, .weights, .param"),
        ("m.onnx", None, "No such file"),
    ],
)
def test_what_is_no_network_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        settle(tmp_path / name, threads=1)


def test_latencies_are_those_of_the_files_own_sizes(files: dict[str, Path]) -> None:
    wanted = [files["fixed"], files["open"]]
    times = latencies_ms(wanted, rounds=3, threads=1)
    assert list(times) == wanted
    assert all(0 < ms < 1000 for ms in times.values())


# -- rows and advice ------------------------------------------------------------------------------


def test_a_pair_that_cannot_run_leaves_the_others(files: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no")
    setting = Setting(1, (64, 64), batch=2)
    pairs = [Pair(path, "onnxruntime", path, setting) for path in (broken, files["fixed"])]
    measured = measure(pairs, rounds=3, maps={files["fixed"]: 0.4})
    (row,) = measured.rows
    assert (row.pair.file, row.precision, row.map) == (files["fixed"], "float32", 0.4)
    assert row.ratio_to_first.middle == 1
    assert row.bytes == files["fixed"].stat().st_size
    assert row.spread == spread(measured.times[:, 0])
    (reason,) = measured.refused
    assert reason.startswith(f"onnxruntime cannot run {broken}")
    with pytest.raises(InputError, match="cannot run"):
        measure(pairs[:1], rounds=3)


def advice(**rows: tuple[float, int, float | None]) -> Advice:
    """Give advice on files of these milliseconds, bytes and mAP, with a tenth of noise."""
    random = np.random.default_rng(0)
    middle = np.array([ms for ms, _, _ in rows.values()])
    times = middle * (1 + 0.1 * random.random((40, len(rows))))
    made = tuple(
        MeasuredPair(
            Pair(Path(name), "onnxruntime", Path(name), Setting(1, (64, 64))),
            "float32",
            spread(column),
            ratio(column, times[:, 0]),
            load_ms=1.0,
            peak_bytes=None,
            bytes=size,
            map=score,
        )
        for (name, (_, size, score)), column in zip(rows.items(), times.T, strict=True)
    )
    return advise(Measured(made, times, ()))


def test_the_fastest_is_deployed() -> None:
    found = advice(a=(20, 100, None), b=(10, 200, None))
    assert found.row.pair.file == Path("b")
    assert found.why.endswith("the fastest")


def test_of_those_within_noise_the_smaller_file_is_deployed() -> None:
    found = advice(a=(20, 10, None), b=(10, 200, None), c=(10.01, 100, None))
    assert found.row.pair.file == Path("c")
    assert "the smallest file of those within noise of b in onnxruntime" in found.why


def test_a_fast_file_that_lost_too_much_is_named_but_not_deployed() -> None:
    found = advice(dense=(20, 100, 0.512), pruned=(10, 50, 0.505), ruined=(5, 50, 0.30))
    assert found.row.pair.file == Path("pruned")
    assert "within 1 point of the best mAP (0.512)" in found.why
    assert "fastest of all: ruined in onnxruntime" in found.why and "mAP 0.300" in found.why


def test_one_file_that_is_best_in_both_is_said_once() -> None:
    found = advice(dense=(20, 100, 0.50), pruned=(10, 50, 0.51))
    assert found.row.pair.file == Path("pruned")
    assert "fastest of all" not in found.why
