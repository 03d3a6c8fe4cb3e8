"""The form in which a network will be deployed, which is the one to time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from prune.export.fold import folded
from prune.export.onnx import draft
from prune.models.darknet import Darknet, reactivated
from prune.quantize.run import quantize_with_noise


@dataclass(frozen=True)
class Form:
    """What will be done to a network before it is deployed.

    Attributes:
        runtime: the runtime, one of `choices.LATENCY_RUNTIMES`.
        activation: the activation that replaces every nonlinear one; "" for none.
        int8: whether it will be quantised.
    """

    runtime: str
    activation: str = ""
    int8: bool = False

    @property
    def called(self) -> str:
        """Name the runtime, and the changes of the network."""
        words = [self.runtime, *["in INT8"] * self.int8]
        return " ".join([*words, *[f"with {self.activation}"] * bool(self.activation)])

    def network(self, net: Darknet) -> Darknet:
        """Copy a network with its activations exchanged and its BatchNorms folded."""
        return folded(reactivated(net, self.activation) if self.activation else net)

    def write(self, net: Darknet, target: Path, *, imgsz: tuple[int, int]) -> Path:
        """Write what `network` returned as the file that is timed; return its path."""
        draft(net, target, imgsz=imgsz)
        if self.int8:
            onnx.save(quantize_with_noise(onnx.load(target), self.runtime), target)
        return target
