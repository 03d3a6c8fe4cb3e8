"""A float ONNX file opened to be quantised: its graph, images for it, its metrics."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from prune.common import notes
from prune.common.inputs import reading
from prune.data.images import read_image
from prune.data.sift import sound
from prune.data.spec import DataSpec
from prune.errors import CheckpointError, DataError, InputError
from prune.evaluate.metrics import Metrics
from prune.evaluate.preprocess import letterboxed
from prune.evaluate.runner import Runner, open_weights
from prune.evaluate.validation import collect_split
from prune.quantize.parts import Parts, named, sort

Array = NDArray[np.float32]

FEWEST = 8  # images; ranges from fewer are those of chance


@dataclass(frozen=True)
class FloatModel:
    """A float file, its graph sorted, the same opened to run, and the data it is evaluated on."""

    model: onnx.ModelProto
    parts: Parts
    spec: DataSpec
    runner: Runner

    def images(self, count: int, *, seed: int) -> list[Path]:
        """Draw `count` images of the train split, or take all.

        Raises:
            DataError: there is no such split.
            InputError: too few to take ranges from.
        """
        paths = list(self.spec.images("train"))
        count = min(count, len(paths))
        if count < FEWEST:
            raise InputError(
                f"ranges from {count} images would be those of chance; they need at least "
                f"{FEWEST}, better 200 (--images; {self.spec.path} has {len(paths)} to train on)"
            )
        drawn = random.Random(seed).sample(paths, count)
        return list(sound(drawn, where=f"{self.spec.path}: train"))

    def batches(self, paths: Sequence[Path]) -> Iterator[Array]:
        """Load images as they are loaded to be detected in, one by one, [1, 3, H, W] in 0..1."""
        for path in paths:
            image, _ = letterboxed(read_image(path), self.runner, self.runner.imgsz)
            yield np.ascontiguousarray(image.numpy())

    def outputs(self, model: onnx.ModelProto, paths: Sequence[Path]) -> Iterable[Array]:
        """Run images through a model; yield the decoded boxes of each, [1, boxes, 5 + classes]."""
        runner = opened(model)
        for images in self.batches(paths):
            yield runner.detect(torch.from_numpy(images)).numpy()

    def evaluate(self, model: onnx.ModelProto, split: str) -> Metrics:
        """Evaluate a model on a split, in ONNX Runtime, as `prune val` does.

        Raises:
            DataError: the split has no objects that could be found.
        """
        runner = opened(model)
        title = f"evaluating on {split}"
        found = collect_split(runner, self.spec, split, imgsz=runner.imgsz, title=title)
        metrics = found.metrics(self.spec.names)
        if not metrics.instances:
            raise DataError(
                f"{self.spec.path}: {split} has no labels, so that nothing can be evaluated"
            )
        return metrics


def open_subject(path: Path, spec: DataSpec) -> FloatModel:
    """Read a float file.

    Raises:
        CheckpointError: it is no ONNX file of `prune export` with decoded boxes.
        InputError: other classes than the data's, or nothing in it that could be quantised.
    """
    if path.suffix.lower() != ".onnx":
        raise CheckpointError(f"{path} is no ONNX file; `prune export` writes one of a checkpoint")
    runner = open_weights(path, device_name="cpu")
    spec.expect_classes(runner.names, of=path)
    with reading(path, error=CheckpointError):
        loaded = onnx.load(path)
    model = named(loaded)
    if any(w.data_type == onnx.TensorProto.FLOAT16 for w in model.graph.initializer):
        raise InputError(f"{path} has float16 weights; quantise the file without --half")
    try:
        parts = sort(model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return FloatModel(model, parts, spec, runner)


def opened(model: onnx.ModelProto) -> Runner:
    """Open a model that is in memory, on the CPU."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        with notes.without_notes():  # what there is to note was noted of the user's own file
            return open_weights(path, device_name="cpu")
