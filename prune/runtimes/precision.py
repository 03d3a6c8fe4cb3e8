"""At what precision a runtime computes: read back from what it made of the file, not from the file.

The types in a file show little. ONNX Runtime computes float16 weights in float32 on most CPUs, and
a convolution between QDQ pairs in float where it cannot fuse them; OpenVINO takes bfloat16 for
float32 where the CPU has it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What runtimes call their types.
_NAMES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "i8": "int8",
    "u8": "int8",
}
_ONNX_INT8 = ("QLinearConv", "ConvInteger")
_ONNX_FLOAT = ("Conv", "FusedConv", "NhwcFusedConv")


def shares(counts: Mapping[str, int]) -> str:
    """Return which precisions convolutions are computed at: "int8 87 %, float32 13 %"."""
    kinds = sorted(((n, kind) for kind, n in counts.items() if n), reverse=True)
    if len(kinds) < 2:
        return kinds[0][1] if kinds else "float32"
    total = sum(n for n, _ in kinds)
    return ", ".join(f"{kind} {100 * n / total:.0f} %" for n, kind in kinds)


def of_onnxruntime(path: Path) -> str:
    """Have ONNX Runtime write the graph that it runs, and count its convolutions by type."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        graph = onnx.load(written).graph
    halves = {x.name for x in graph.initializer if x.data_type == onnx.TensorProto.FLOAT16}
    counts: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in _ONNX_INT8:
            counts["int8"] += 1
        elif node.op_type in _ONNX_FLOAT:
            counts["float16" if node.input[1] in halves else "float32"] += 1
    return shares(counts)


def of_openvino(compiled: Any) -> str:  # no stubs
    """Count the convolutions of the compiled model by the type each is executed in."""
    counts: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        facts = node.get_rt_info()
        if facts["layerType"].value in ("Convolution", "GroupConvolution"):
            kind = facts["runtimePrecision"].value
            counts[_NAMES.get(kind, kind)] += 1
    return shares(counts)


def of_opencv(net: Any) -> str:  # its stubs differ by version
    """Count the convolutions by the kind of layer that OpenCV made of each."""
    kinds = Counter(net.getLayer(number).type for number in range(1, len(net.getLayerNames()) + 1))
    return shares({"int8": kinds["ConvolutionInt8"], "float32": kinds["Convolution"]})
