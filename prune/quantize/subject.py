"""A float ONNX file opened to be quantised: its graph, pictures for it, what its output scores."""

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
from prune.common.progress import tracked
from prune.data.images import read_image
from prune.data.sift import sound
from prune.data.spec import DataSpec
from prune.errors import CheckpointError, DataError, InputError
from prune.evaluate.collect import collect
from prune.evaluate.metrics import Metrics
from prune.evaluate.preprocess import letterboxed, split_batches
from prune.evaluate.runner import Runner, open_weights
from prune.quantize.parts import Parts, named, sort

Array = NDArray[np.float32]

FEWEST = 8  # pictures; ranges from fewer are those of chance
BATCH = 16  # pictures a batch, when scored


@dataclass(frozen=True)
class FloatModel:
    """A float file, sorted, the same opened to run, and the data that it is judged on."""

    model: onnx.ModelProto
    parts: Parts
    spec: DataSpec
    runner: Runner

    def pictures(self, images: int, *, seed: int) -> list[Path]:
        """Draw so many pictures of the train split, or take all.

        Raises:
            DataError: there is no such split.
            InputError: too few to take ranges from.
        """
        paths = list(self.spec.pictures("train"))
        if min(images, len(paths)) < FEWEST:
            raise InputError(
                f"ranges from {min(images, len(paths))} pictures would be those of chance; they "
                f"need at least {FEWEST}, better 200 (--images; {self.spec.path} has {len(paths)} "
                "to train on)"
            )
        drawn = random.Random(seed).sample(paths, min(images, len(paths)))
        return list(sound(drawn, where=f"{self.spec.path}: train"))

    def batches(self, paths: Sequence[Path]) -> Iterator[Array]:
        """Load pictures as they are loaded to be detected in, one by one, [1, 3, H, W] in 0..1."""
        for path in paths:
            picture, _ = letterboxed(read_image(path), self.runner, self.runner.imgsz)
            yield np.ascontiguousarray(picture.numpy())

    def outputs(self, model: onnx.ModelProto, paths: Sequence[Path]) -> Iterable[Array]:
        """Run pictures through a model; decoded boxes of each, [1, boxes, 5 + classes]."""
        runner = opened(model)
        for pictures in self.batches(paths):
            yield runner.detect(torch.from_numpy(pictures)).numpy()

    def score(self, model: onnx.ModelProto, split: str) -> Metrics:
        """Score a model on a split, in ONNX Runtime, as `prune val` does.

        Raises:
            DataError: the split has no objects that could be found.
        """
        runner = opened(model)
        batches, count = split_batches(
            runner, self.spec, split, imgsz=runner.imgsz, batch_size=BATCH, workers=0
        )
        batches = tracked(batches, f"scoring {split}", count)
        names = self.spec.names
        found = collect(runner.detect, batches, len(names), device=runner.device).metrics(names)
        if not found.instances:
            raise DataError(f"{self.spec.path}: {split} has no labels, so that nothing is scored")
        return found


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
        with notes.without_notes():  # what there is to say was said of the user's own file
            return open_weights(path, device_name="cpu")
