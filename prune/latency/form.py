"""A network in the form that it will be deployed in, since that is what a clock has to see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from prune.export.fold import folded
from prune.export.onnx import draft
from prune.models.darknet import Darknet, reactivated
from prune.quantize.run import for_the_clock


@dataclass(frozen=True)
class Form:
    """What will have been done to a network by the time that it runs.

    Attributes:
        runtime: what runs it, one of `plan.RUNTIMES`.
        activation: what convolutions will have learned instead of their own; "" for their own.
        int8: whether it will be quantised.
    """

    runtime: str
    activation: str = ""
    int8: bool = False

    @property
    def called(self) -> str:
        """Name the runtime, and what the network has become."""
        words = [self.runtime, *["in INT8"] * self.int8]
        return " ".join([*words, *[f"with {self.activation}"] * bool(self.activation)])

    def network(self, net: Darknet) -> Darknet:
        """Copy a network with its activations exchanged and all folded that can be."""
        return folded(reactivated(net, self.activation) if self.activation else net)

    def write(self, net: Darknet, target: Path, *, imgsz: tuple[int, int]) -> Path:
        """Write what `network` gave as the file that is timed; return its path."""
        draft(net, target, imgsz=imgsz)
        if self.int8:
            onnx.save(for_the_clock(onnx.load(target), self.runtime), target)
        return target
