"""The range that each tensor of a model takes on images, by ONNX Runtime's calibrators."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    TensorsData,
    create_calibrator,
)

Array = NDArray[np.float32]

# How a range is taken off what was seen: all of it; all but the rarest; what keeps most information
# (the least Kullback-Leibler divergence of 8 bits from the histogram).
METHODS: dict[str, tuple[CalibrationMethod, dict[str, object]]] = {
    "minmax": (CalibrationMethod.MinMax, {}),
    "percentile": (CalibrationMethod.Percentile, {"percentile": 99.99}),
    "entropy": (CalibrationMethod.Entropy, {}),
}


def ranges(
    model: onnx.ModelProto, batches: Iterable[Array], *, operators: Sequence[str], method: str
) -> TensorsData:
    """Run images through a model and note what every tensor took on.

    Args:
        model: with one input.
        batches: images [N, 3, H, W] in 0..1, at least one batch.
        operators: kinds of nodes whose tensors are watched.
        method: a key of METHODS.
    """
    kind, options = METHODS[method]
    name = model.graph.input[0].name
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            list(operators),
            augmented_model_path=str(Path(folder) / "watched.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        for images in batches:  # one at a time: it keeps all tensors of what it is given
            calibrator.collect_data(_Once(name, images))
        return calibrator.compute_data()


class _Once(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """One batch, in the form that a calibrator takes."""

    def __init__(self, name: str, images: Array) -> None:
        self._left = [{name: images}]

    def get_next(self) -> dict[str, Array] | None:
        """Give the batch once."""
        return self._left.pop() if self._left else None
