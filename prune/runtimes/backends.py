"""One interface to the runtimes: each opens a file as something that runs one batch on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prune.common.streams import libraries_silent
from prune.errors import InputError, PruneError
from prune.runtimes import ncnn_param
from prune.runtimes.precision import of_onnxruntime, of_opencv, of_openvino, shares

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Setting:
    """What a model is opened for.

    Attributes:
        threads: of one run, all of them for each operator in turn.
        imgsz: height and width of an image, pixels.
        batch: images per run.
        channels: of an image.
    """

    threads: int
    imgsz: tuple[int, int]
    batch: int = 1
    channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Return the input's sides, N, C, H, W."""
        return (self.batch, self.channels, *self.imgsz)


@dataclass(frozen=True)
class Opened:
    """A model that is ready to run.

    Attributes:
        run: computes one batch of noise and returns what the runtime returns.
        shape: of that batch, N, C, H, W.
        precision: returns at what precision the convolutions are really computed; may take as long
            as opening the file once more.
    """

    run: Callable[[], object]
    shape: tuple[int, int, int, int]
    precision: Callable[[], str]


Opener = Callable[[Path, Setting], Opened]
"""Open the file for the setting; what the runtime itself raises comes through."""


def open_model(runtime: str, path: Path, setting: Setting) -> Opened:
    """Open a file in a runtime of RUNTIMES and run it once, since some fail only then.

    Raises:
        InputError: the runtime is not installed, or cannot load or run this file.
    """
    try:
        with libraries_silent():
            opened = RUNTIMES[runtime](path, setting)
            opened.run()
    except PruneError:
        raise
    except Exception as error:  # the runtimes' error classes share no base class
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{runtime} cannot run {path}: {reason}") from error
    return opened


def installed() -> tuple[str, ...]:
    """Name the runtimes that are there."""
    return tuple(name for name, module in MODULES.items() if find_spec(module))


def library(runtime: str) -> ModuleType:
    """Import a runtime.

    Raises:
        InputError: it is not installed; the message says what installs it.
    """
    try:
        return importlib.import_module(MODULES[runtime])
    except ImportError as error:
        package = f"detector-prune[{runtime}]" if runtime in EXTRAS else "detector-prune"
        raise InputError(
            f"{runtime} is not installed; pip install '{package}' brings it"
        ) from error


def onnxruntime_options(threads: int) -> Any:  # no stubs
    """Make the options of a session that is timed beside others.

    ONNX Runtime's threads spin by default while they wait for the next operator, and so they do
    here: it is what a deployed file does, and of a small network waking them is a third
    (yolor_csp_n at 320 pixels, 2 threads on 2 idle cores: 4.6 ms per run, 6.7 with sleeping
    threads). But they stop with the run; by default they spin on while another file is timed.
    Where other processes use the cores, spinning measures the scheduler: 43 ms per run at a load of
    9. There `runtimes.compare` takes one thread.
    """
    options = library("onnxruntime").SessionOptions()
    options.log_severity_level = 3  # errors only; they are raised as well
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Make images, float 0..1; the same for every runtime."""
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def _onnxruntime(path: Path, setting: Setting) -> Opened:
    runtime = library("onnxruntime")
    options = onnxruntime_options(setting.threads)
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    run = partial(session.run, None, onnxruntime_feeds(session, setting))
    return Opened(run, setting.shape, partial(of_onnxruntime, path))


def onnxruntime_feeds(session: Any, setting: Setting) -> dict[str, Array]:  # no stubs
    """Fill a session's inputs, by name."""
    images, *others = session.get_inputs()
    feeds: dict[str, Array] = {
        entry.name: _knob(len(entry.shape), _ONNX_KINDS[entry.type]) for entry in others
    }
    return feeds | {images.name: noise(setting.shape).astype(_ONNX_KINDS[images.type])}


def _openvino(path: Path, setting: Setting) -> Opened:
    compiled = compile_openvino(path, setting)
    request = openvino_request(compiled, setting)
    return Opened(request.infer, setting.shape, partial(of_openvino, compiled))


def openvino_request(compiled: Any, setting: Setting) -> Any:  # no stubs
    """Make a request whose inputs are filled."""
    request = compiled.create_infer_request()
    images, *others = compiled.inputs
    feeds: list[Array] = [noise(setting.shape).astype(images.element_type.to_dtype())]
    feeds += [_knob(len(x.partial_shape), x.element_type.to_dtype()) for x in others]
    for number, array in enumerate(feeds):
        request.set_input_tensor(number, library("openvino").Tensor(array))  # copied, once
    return request


def compile_openvino(path: Path, setting: Setting, **options: object) -> Any:  # no stubs
    """Compile an ONNX file for one batch at a time; further options as OpenVINO names them."""
    runtime = library("openvino")
    model = runtime.Core().read_model(path)
    model.reshape({model.inputs[0].any_name: list(setting.shape)})
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": setting.threads,
        **options,
    }
    return runtime.Core().compile_model(model, "CPU", properties)


def _opencv(path: Path, setting: Setting) -> Opened:
    net = read_opencv(path, setting)
    outputs = net.getUnconnectedOutLayersNames()
    net.setInput(noise(setting.shape))
    return Opened(partial(net.forward, outputs), setting.shape, partial(of_opencv, net))


def read_opencv(path: Path, setting: Setting) -> Any:  # its stubs differ by version
    """Read an ONNX file by OpenCV; the number of threads is one for the whole process."""
    runtime = library("opencv")
    runtime.setNumThreads(setting.threads)
    log = runtime.utils.logging
    before = log.setLogLevel(log.LOG_LEVEL_SILENT)  # what it prints on stderr it raises as well
    try:
        return runtime.dnn.readNetFromONNX(str(path))
    finally:
        log.setLogLevel(before)


def _torch(path: Path, setting: Setting) -> Opened:
    """Run a checkpoint as it is: no fusing, no torch.compile, channels where torch puts them."""
    runtime = library("torch")
    net = load_torch(path)
    images = runtime.from_numpy(noise(setting.shape))

    def run() -> object:
        with torch_threads(setting.threads), runtime.inference_mode():
            return net.decode(net(images))

    return Opened(run, setting.shape, lambda: "float32")


def load_torch(path: Path) -> Any:  # a Darknet; named, it would import torch
    """Build a checkpoint's network."""
    from prune import checkpoint

    return checkpoint.network(checkpoint.load(path)).eval().requires_grad_(False)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Have torch compute with so many threads, a number of the whole process."""
    torch = library("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _ncnn(path: Path, setting: Setting) -> Opened:
    if setting.batch != 1:
        raise InputError(f"ncnn takes one image per run; batch is {setting.batch}")
    graph = ncnn_param.read(path)
    images = noise(setting.shape)[0]  # [C, H, W]
    run = _ncnn_run(path, images, graph, setting, exact=False)

    def precision() -> str:
        """Compare with a run that allows no shorter types: ncnn does not report its precision."""
        exact = _ncnn_run(path, images, graph, setting, exact=True)
        same = all(map(np.array_equal, run(), exact()))
        return shares({"int8": graph.int8, "float32" if same else "16 bits": graph.floats})

    return Opened(run, setting.shape, precision)


def _ncnn_run(
    path: Path, images: Array, graph: ncnn_param.Graph, setting: Setting, *, exact: bool
) -> Callable[[], list[Array]]:
    runtime = library("ncnn")
    net = runtime.Net()
    net.opt.num_threads = setting.threads
    if exact:
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage"):
            setattr(net.opt, f"use_{name}", False)
    if net.load_param(str(path)) or net.load_model(str(path.with_suffix(".bin"))):
        raise InputError(f"ncnn cannot load {path} with {path.with_suffix('.bin').name} beside it")

    def run() -> list[Array]:
        with net.create_extractor() as extractor:
            extractor.input(graph.input, runtime.Mat(images))
            return [np.array(_extracted(extractor, name, path)) for name in graph.outputs]

    return run


def _extracted(extractor: Any, name: str, path: Path) -> Any:  # no stubs
    failed, values = extractor.extract(name)
    if failed:
        raise InputError(f"ncnn cannot run {path}: it finds no values for {name}")
    return values


def _knob(sides: int, kind: type) -> Array:
    """Fill what a file takes beside images: one number, NMS's threshold or the most boxes."""
    return np.full((1,) * sides, 100 if np.issubdtype(kind, np.integer) else 0.5, dtype=kind)


# What imports each runtime.
MODULES: dict[str, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "ncnn": "ncnn",
    "opencv": "cv2",
    "torch": "torch",
}
EXTRAS = ("openvino", "ncnn")  # the others come with the package
RUNTIMES: dict[str, Opener] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "opencv": _opencv,
    "torch": _torch,
}
# The files each of them reads.
READS: dict[str, str] = {
    "onnxruntime": ".onnx",
    "openvino": ".onnx",
    "ncnn": ".param",
    "opencv": ".onnx",
    "torch": ".pt",
}
_ONNX_KINDS: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}
