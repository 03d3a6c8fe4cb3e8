"""Compare an ONNX file in ONNX Runtime with the torch module it was made from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from prune.errors import ExportError

TOLERANCE = 1e-4  # relative; float32 through a hundred layers differs by 1e-6 to 1e-5

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """How far two outputs lie apart at worst.

    `absolute` is in the output's own unit (pixels for boxes), `relative` is max|a - b| / max|b| of
    the quantity that agrees least.
    """

    absolute: float
    relative: float


def compare(
    path: Path, module: nn.Module, shapes: Iterable[Sequence[int]], *, seed: int = 0
) -> Difference:
    """Run the file and the module on one random input a shape; return the worst difference.

    Args:
        path: ONNX file with one input.
        module: takes [N, 3, H, W] in 0..1, gives a tensor or a tuple of them; on the CPU.
        shapes: N, 3, H, W of each input.
        seed: of the inputs.

    Raises:
        ExportError: the file does not run, or gives other shapes than the module.
    """
    session = _session(path)
    random = torch.Generator().manual_seed(seed)
    differences = []
    for shape in shapes:
        images = torch.rand(*shape, generator=random)  # [N, 3, H, W]
        with torch.no_grad():
            expected = module(images)
        wanted = [expected] if isinstance(expected, torch.Tensor) else list(expected)
        found = _run(session, images.numpy())
        differences += [difference(a, b.numpy()) for a, b in zip(found, wanted, strict=True)]
    return Difference(
        absolute=max(one.absolute for one in differences),
        relative=max(one.relative for one in differences),
    )


def difference(found: Array, wanted: Array) -> Difference:
    """Compare one output, [N, boxes, 5 + classes] or a head map [N, C, ny, nx].

    Boxes and probabilities are compared apart: beside box pixels up to 1e3, an error in a
    probability would never show. A NaN counts as infinitely far.

    Raises:
        ExportError: the shapes differ.
    """
    if found.shape != wanted.shape:
        raise ExportError(
            f"ONNX Runtime gives {list(found.shape)} where torch gives {list(wanted.shape)}"
        )
    parts = [np.s_[..., :4], np.s_[..., 4:]] if wanted.ndim == 3 else [np.s_[...]]
    absolutes = [_worst(found[part] - wanted[part]) for part in parts]
    scales = [_worst(wanted[part]) for part in parts]
    return Difference(
        absolute=max(absolutes),
        relative=max(a / max(scale, 1e-12) for a, scale in zip(absolutes, scales, strict=True)),
    )


def _worst(values: Array) -> float:
    worst = float(np.abs(values).max(initial=0))
    return worst if np.isfinite(worst) else float("inf")


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its error classes derive from Exception and are not public
        raise ExportError(f"ONNX Runtime cannot load the file: {_first_line(error)}") from error


def _run(session: onnxruntime.InferenceSession, images: Array) -> list[Array]:
    try:
        outputs: list[Array] = session.run(None, {session.get_inputs()[0].name: images})
    except Exception as error:  # as above
        raise ExportError(f"ONNX Runtime cannot run the file: {_first_line(error)}") from error
    return outputs


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
