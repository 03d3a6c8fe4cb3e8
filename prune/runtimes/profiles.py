"""Where a run's time goes: milliseconds per layer, as each runtime counts them itself."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from prune.runtimes.backends import (
    Setting,
    compile_openvino,
    library,
    load_torch,
    noise,
    onnxruntime_feeds,
    onnxruntime_options,
    openvino_request,
    read_opencv,
    torch_threads,
)

RUNS = 20
_WARM_UP = 3

Layers = dict[str, float]
"""Milliseconds of each layer in one run; its name and kind first."""

Times = dict[str, list[float]]
"""Likewise of each run."""

# Of the runs of a layer, the one of which a fifth took less time. An interrupted run counts for no
# more than another one, and four in five may be: a layer is so short that some run undisturbed.
CALM = 20  # percentile


def slowest(runtime: str, path: Path, setting: Setting, *, most: int = 15) -> Layers | None:
    """Return the layers that take longest, the longest first; None where a runtime has no profile.

    The file is opened once more, since counting slows a run down.
    """
    if runtime not in PROFILERS:
        return None
    layers = {layer: median(own) for layer, own in PROFILERS[runtime](path, setting).items()}
    return dict(sorted(layers.items(), key=lambda item: -item[1])[:most])


def calm(runtime: str, path: Path, setting: Setting) -> Layers:
    """Return what each layer takes where nothing interrupts it, on a busy machine too."""
    times = PROFILERS[runtime](path, setting)
    return {layer: float(np.percentile(own, CALM)) for layer, own in times.items()}


def _onnxruntime(path: Path, setting: Setting) -> Times:
    options = onnxruntime_options(setting.threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = library("onnxruntime").InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        feeds = onnxruntime_feeds(session, setting)
        for _ in range(_WARM_UP + RUNS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: Times = defaultdict(list)  # one per node and run
    for event in events:
        layer = event["name"].removesuffix("_kernel_time")
        if event["cat"] == "Node" and layer != event["name"]:
            times[f"{layer} {event['args']['op_name']}"].append(event["dur"] / 1e3)
    return {layer: own[-RUNS:] for layer, own in times.items()}


def _openvino(path: Path, setting: Setting) -> Times:
    compiled = compile_openvino(path, setting, PERF_COUNT=True)
    request = openvino_request(compiled, setting)
    times: Times = defaultdict(list)
    for turn in range(-_WARM_UP, RUNS):
        request.infer()
        for node in request.get_profiling_info() if turn >= 0 else ():
            took = node.real_time.total_seconds() * 1e3
            times[f"{node.node_name} {node.exec_type}"].append(took)
    return times


def _opencv(path: Path, setting: Setting) -> Times:
    runtime, net = library("opencv"), read_opencv(path, setting)
    net.setInput(noise(setting.shape))
    names = net.getLayerNames()
    times: Times = defaultdict(list)
    for turn in range(-_WARM_UP, RUNS):
        net.forward(net.getUnconnectedOutLayersNames())
        if turn >= 0:
            for number, ticks in enumerate(net.getPerfProfile()[1].ravel()):
                named = f"{names[number]} {net.getLayer(number + 1).type}"
                times[named].append(1e3 * float(ticks) / runtime.getTickFrequency())
    return times


def _torch(path: Path, setting: Setting) -> Times:
    """Time the modules that have no others inside; what stands between them counts for none."""
    torch, net = library("torch"), load_torch(path)
    times: Times = defaultdict(list)
    started: dict[str, float] = {}

    def begin(layer: str, *_: object) -> None:
        started[layer] = perf_counter()

    def end(layer: str, module: object, *_: object) -> None:
        took = perf_counter() - started[layer]
        times[f"{layer} {type(module).__name__}"].append(1e3 * took)

    images = torch.from_numpy(noise(setting.shape))
    with torch_threads(setting.threads), torch.inference_mode():
        for _ in range(_WARM_UP):
            net(images)
        for layer, module in net.named_modules():
            if not list(module.children()):
                module.register_forward_pre_hook(partial(begin, layer))
                module.register_forward_hook(partial(end, layer))
        for _ in range(RUNS):
            net(images)
    return times


Profiler = Callable[[Path, Setting], Times]
"""Run the file RUNS times; return what each layer took in each."""

PROFILERS: dict[str, Profiler] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "opencv": _opencv,
    "torch": _torch,
}
