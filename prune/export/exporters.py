"""The ways torch writes ONNX, behind one signature."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

Shape = tuple[int | str, ...]
"""Sides of a tensor; an open one is a name."""


@dataclass(frozen=True)
class Job:
    """What an exporter writes.

    `module` takes one tensor of `shape`, [N, 3, H, W], on the CPU. `open_shapes` gives input and
    the outputs a shape with open sides, and is empty for a file of fixed shapes; `stride` is what
    open sides are multiples of.
    """

    module: nn.Module
    shape: tuple[int, int, int, int]
    outputs: tuple[str, ...]
    open_shapes: Mapping[str, Shape]
    opset: int
    stride: int


def _torchscript(job: Job, path: Path) -> None:
    named = {
        tensor: {i: side for i, side in enumerate(shape) if isinstance(side, str)}
        for tensor, shape in job.open_shapes.items()
    }
    torch.onnx.export(
        job.module,
        (torch.zeros(job.shape),),
        str(path),
        input_names=["images"],
        output_names=list(job.outputs),
        opset_version=job.opset,
        dynamic_axes=named or None,
        dynamo=False,
    )


def _dynamo(job: Job, path: Path) -> None:
    # torch.export takes a batch of 1 for a constant, so an open one is shown with 2.
    batch = 2 if job.open_shapes else job.shape[0]
    program = torch.onnx.export(
        job.module,
        (torch.zeros(batch, *job.shape[1:]),),
        input_names=["images"],
        output_names=list(job.outputs),
        opset_version=job.opset,
        dynamic_shapes={"images": _multiples(job.stride)} if job.open_shapes else None,
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # it is None only where a path was given
    program.save(str(path), external_data=False)


def _multiples(stride: int) -> dict[int, object]:
    """Leave batch, height and width open, sides as multiples of the stride."""
    rows, columns = torch.export.Dim("rows", min=1), torch.export.Dim("columns", min=1)
    return {0: torch.export.Dim("batch", min=1), 2: stride * rows, 3: stride * columns}


Exporter = Callable[[Job, Path], None]
"""Write the job's module to the path, as one file."""

# ONNX Runtime makes the same graph of what either writes. TorchScript's takes 1.1 s for yolor_csp_n
# and 5.7 s for yolor_csp where dynamo takes 15 s and 25 s, and so comes first for as long as torch
# has it: torch calls it deprecated, and adds new operators to the other one only.
EXPORTERS: dict[str, Exporter] = {"torchscript": _torchscript, "dynamo": _dynamo}

# The opsets that each of them writes. Below 11 images are enlarged in another way.
OPSETS = {"torchscript": range(11, 21), "dynamo": range(17, 24)}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence torch while it exports: its own deprecations, libraries it can do without."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


_NOISE = (
    r"You are using the legacy TorchScript-based ONNX export",
    r"The feature will be removed\. Please remove usage of this function",
    r"Constant folding - Only steps=1 can be constant folded",
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    # A sum asks which layer is wider, which does not depend on the image.
    r"Converting a tensor to a Python boolean might cause the trace to be incorrect",
)
