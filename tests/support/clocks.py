"""A machine on which every file takes what its layers' widths say, to the last digit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import onnx
import pytest
from onnx import shape_inference

from prune.runtimes import compare, other_processes
from prune.runtimes.backends import Opened, Setting
from prune.runtimes.other_processes import Neighbours
from prune.runtimes.profiles import PROFILERS, RUNS


class SyntheticMachine:
    """A runtime that computes channels in blocks, with a clock of its own.

    A convolution takes a product of its widths, rounded up to whole blocks, for each cell, in INT8
    a quarter of it; anything else what it writes.

    Attributes:
        others: cores that other processes take.
        wait: says how many times what it computes a run, or a layer of it, takes by the wall.
        lie: what profiles add to every layer, milliseconds.
    """

    def __init__(self, *, block: int = 4, slower: float = 1.0, others: float = 0.0) -> None:
        self.block, self.slower, self.others = block, slower, others
        self.now, self.own, self.profiles = 0.0, 0.0, 0
        self.wait: Callable[[], float] = lambda: 1.0
        self.lie = 0.0

    def install(self, patched: pytest.MonkeyPatch) -> None:
        """Take the place of ONNX Runtime where layers are timed."""
        patched.setattr(compare, "open_model", self.opened)
        patched.setattr(compare, "WALL", lambda: self.now)
        patched.setattr(compare, "OWN", lambda: self.own)
        patched.setattr(other_processes, "look", lambda: Neighbours(2, self.others))
        patched.setattr(other_processes, "watched", lambda: nullcontext(Neighbours(2, self.others)))
        patched.setitem(PROFILERS, "onnxruntime", self.profile)

    def opened(self, _: str, path: Path, setting: Setting) -> Opened:
        """Open a file whose run moves the clock."""
        seconds = sum(self.layers(path).values()) / 1e3

        def run() -> None:
            self.own += seconds
            self.now += seconds * self.wait()

        return Opened(run, setting.shape, lambda: "float32")

    def profile(self, path: Path, _: Setting) -> dict[str, list[float]]:
        """Say what each node takes while it is counted, which slows all of them down."""
        self.profiles += 1
        return {
            name: [1.5 * (ms + self.lie) * self.wait() for _ in range(RUNS)]
            for name, ms in self.layers(path).items()
        }

    def layers(self, path: Path) -> dict[str, float]:
        """Give milliseconds of each node of a file."""
        graph = shape_inference.infer_shapes(onnx.load(path)).graph
        shapes = {
            value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
            for value in (*graph.value_info, *graph.output)
        }
        stored = {tensor.name: tensor.dims for tensor in graph.initializer}
        int8 = {
            node.output[0]: stored[node.input[0]]
            for node in graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in stored
        }
        times = {}
        for number, node in enumerate(graph.node):
            read = node.input[1] if len(node.input) > 1 else ""
            kernel = (stored | int8).get(read, ())
            ms = self._ms(shapes.get(node.output[0], []), kernel) / (4 if read in int8 else 1)
            times[f"{node.name or number} {node.op_type}"] = self.slower * ms
        return times

    def _ms(self, shape: list[int], kernel: Sequence[int]) -> float:
        if len(kernel) != 4:
            return 1e-7 * math.prod(shape)
        out, into, *window = kernel
        products = self._whole(out) * self._whole(into) * math.prod(window)
        return 1e-3 + 1e-6 * products * math.prod(shape[2:])

    def _whole(self, channels: int) -> int:
        return -(-channels // self.block) * self.block
