"""Quantise a float file: calibrate, evaluate, give back to float what the metrics need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from prune.common.files import expect_writable, replacing
from prune.common.notes import Report, silent
from prune.common.progress import tracked
from prune.data import spec
from prune.data.spec import DataSpec
from prune.errors import ExportError, InputError
from prune.evaluate.metrics import CLOSE, Metrics
from prune.export.check import Difference, difference
from prune.export.exporters import Shape
from prune.export.structure import opset, shapes
from prune.quantize import calibrate
from prune.quantize.calibrate import Array
from prune.quantize.parts import OPEN_ENDED, OPERATORS, Layer, Parts, named, sort
from prune.quantize.search import by_sensitivity, fewest
from prune.quantize.subject import FloatModel, open_subject
from prune.quantize.write import in_int8
from prune.runtimes import doubts
from prune.runtimes.backends import library
from prune.runtimes.compare import compared
from prune.runtimes.file_inputs import settle
from prune.runtimes.machine import threads_of
from prune.runtimes.timing import Ratio

Number = float  # a field below has its name
COMPARED = 4  # images on which outputs are compared, of layers and of the whole file

# Makes a model with all layers but these in INT8.
Make = Callable[[Sequence[Layer]], onnx.ModelProto]


@dataclass(frozen=True)
class QuantizeConfig:
    """What is quantised, and how; the options of `prune quantize`.

    Attributes:
        weights: an ONNX file of `prune export`, in float32, with decoded boxes.
        data: a data set, whose training images ranges are taken from.
        images: how many of them, from 8; all where there are fewer.
        method: how a range is taken from the values that occur, a key of `calibrate.METHODS`.
        max_drop: mAP@.5:.95 that may be lost, in points (hundredths), from 0; layers go back to
            float until it holds. None: whatever is lost.
        runtime: where the file is to run fast, a key of `parts.OPERATORS`.
        seven_bits: weights of 7 bits, see `write.in_int8`.
        split: of the data, to evaluate on.
        threads: of a timed run; 0: one thread per core.
        seed: of which images are taken.
        out: file to write, .onnx; None: NAME-int8.onnx beside the weights.
    """

    weights: Path
    data: Path
    images: int = 200
    method: str = "minmax"
    max_drop: float | None = None
    runtime: str = "onnxruntime"
    seven_bits: bool = False
    split: str = "val"
    threads: int = 0
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not self.max_drop >= 0:
            raise InputError(f"max-drop is {self.max_drop}; it is in mAP points, e.g. 0.5")


@dataclass(frozen=True)
class FloatAndInt8:
    """A figure of the float file, and the same of the file in INT8."""

    float: Number
    int8: Number


@dataclass(frozen=True)
class QuantizeResult:
    """The file that was written, and how it compares with the float file.

    Attributes:
        out: the file; its name ends in -missed where `held` is false.
        opset: version of the ONNX operators.
        inputs, outputs: shapes by name; open sides are names.
        bytes: its size.
        max_abs_diff, max_rel_diff: how far its outputs are from those of the float file at most,
            on a few images.
        map50, map: mAP at IoU 0.5, and at 0.5 to 0.95, in 0 to 1.
        drop: mAP@.5:.95 that is lost, in points.
        held: whether the allowed drop holds; true where none is given.
        layers: how many could be in INT8.
        float_layers: the convolutions of these that are in float all the same.
        runtime: where both were timed.
        ms: milliseconds per run.
        ratio: time of the INT8 file as a multiple of that of the float file.
        recommended: which of the two files to deploy.
        accurate: whether the INT8 file detects well enough.
    """

    out: Path
    opset: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    bytes: int
    max_abs_diff: float
    max_rel_diff: float
    map50: FloatAndInt8
    map: FloatAndInt8
    drop: float
    held: bool
    layers: int
    float_layers: tuple[str, ...]
    runtime: str
    ms: FloatAndInt8
    ratio: Ratio
    recommended: Path
    accurate: bool

    def document(self) -> dict[str, object]:
        """Return the result as plain values, as `prune quantize --json` prints it."""
        facts: dict[str, object] = {}
        for key, value in vars(self).items():
            plain = vars(value) if isinstance(value, FloatAndInt8 | Ratio) else value
            facts[key] = str(plain) if isinstance(plain, Path) else plain
        del facts["accurate"]
        return facts


@dataclass(frozen=True)
class QuantizedModel:
    """A model with layers in INT8, and how it compares with the float file.

    Attributes:
        model: ready to be written, metadata included.
        before: metrics of the float file.
        after: its own, both in ONNX Runtime.
        layers: how many could be in INT8.
        given_back: the convolutions of these that are in float all the same.
        held: whether the allowed drop holds; true where none is given.
        moved: how far its outputs are from those of the float file at most, on a few images.
    """

    model: onnx.ModelProto
    before: Metrics
    after: Metrics
    layers: int
    given_back: tuple[str, ...]
    held: bool
    moved: Difference

    @property
    def drop(self) -> float:
        """The mAP@.5:.95 that is lost, in points."""
        return 100 * (self.before.map - self.after.map)


def quantize(config: QuantizeConfig, *, report: Report = silent) -> QuantizeResult:
    """Quantise a float file, write the result, time both files, recommend one.

    Raises:
        CheckpointError: the file cannot be used.
        InputError: other classes than the data's, too few images, no float32 file, a runtime that
            is not installed, or a target that cannot be written.
        DataError: an image that cannot be read, or a split that does not exist or has no labels.
    """
    source = config.weights
    target = config.out or source.with_name(f"{source.stem}-int8.onnx")
    if target.suffix.lower() != ".onnx":
        raise InputError(f"{target} is no name for an ONNX file; it must end in .onnx")
    library(config.runtime)  # raises before minutes of work, where it is not installed
    expect_writable(target)
    threads = threads_of(config.threads)
    if source.suffix.lower() == ".onnx":  # others are refused with what to do
        settle(source, threads=threads)
    data = spec.load(config.data, splits=("train", config.split))
    done = quantize_model(config, data, report=report)
    if not done.held:  # its name shows that it is not what was requested
        target = target.with_name(f"{target.stem}-missed{target.suffix}")
    doubts.note_if_busy(report, threads=threads)
    with replacing(target) as part:  # a file that cannot be timed does not stay
        _save(done.model, part)
        timed = compared(source, part, runtime=config.runtime, threads=config.threads)
    doubts.note_if_unsure(report, [timed.ratio], remedy="an idle machine narrows that")
    # Beyond an allowed drop nothing is accurate; where none is given, what equals the float file.
    accurate = done.held and (config.max_drop is not None or done.drop <= 100 * CLOSE)
    return QuantizeResult(
        out=target,
        opset=opset(done.model),
        inputs=shapes(done.model.graph.input),
        outputs=shapes(done.model.graph.output),
        bytes=target.stat().st_size,
        max_abs_diff=done.moved.absolute,
        max_rel_diff=done.moved.relative,
        map50=FloatAndInt8(done.before.map50, done.after.map50),
        map=FloatAndInt8(done.before.map, done.after.map),
        drop=done.drop,
        held=done.held,
        layers=done.layers,
        float_layers=done.given_back,
        runtime=config.runtime,
        ms=FloatAndInt8(timed.before_ms, timed.after_ms),
        ratio=timed.ratio,
        recommended=target if accurate and timed.ratio.high < 1 else source,
        accurate=accurate,
    )


def quantize_model(
    config: QuantizeConfig, data: DataSpec, *, report: Report = silent
) -> QuantizedModel:
    """Put the layers of a float file into INT8; nothing is written and nothing is timed.

    Raises:
        CheckpointError: the file cannot be used.
        InputError: other classes than the data's, too few images, no float32 file.
        DataError: an image that cannot be read, or a split that does not exist or has no labels.
    """
    subject = open_subject(config.weights, data)
    images = subject.images(config.images, seed=config.seed)
    before = subject.evaluate(subject.model, config.split)
    report(f"ranges from {len(images)} images ({config.method})")
    batches = tracked(subject.batches(images), "ranges", len(images))
    make = _maker(
        subject.model,
        subject.parts,
        batches,
        runtime=config.runtime,
        method=config.method,
        seven_bits=config.seven_bits,
    )
    least = -1.0 if config.max_drop is None else before.map - config.max_drop / 100
    order = subject.parts.layers
    metrics = {0: subject.evaluate(make(()), config.split)}
    if metrics[0].map < least:
        report(f"mAP {before.map:.4f} fell to {metrics[0].map:.4f}; ranking {len(order)} layers")
        order = _most_sensitive_first(subject, images[:COMPARED], make)

    def map_with(given_back: int) -> float:
        if given_back not in metrics:
            metrics[given_back] = subject.evaluate(make(order[:given_back]), config.split)
            report(f"{given_back} layers given back to float: mAP {metrics[given_back].map:.4f}")
        return metrics[given_back].map

    found = fewest(len(order), map_with, least=least)
    given_back = order[: found.chosen.given_back]
    model, after = make(given_back), metrics[found.chosen.given_back]
    _describe(model, config, given_back, images=len(images), metrics=after)
    return QuantizedModel(
        model=model,
        before=before,
        after=after,
        layers=len(order),
        given_back=tuple(layer.name for layer in given_back),
        held=found.held,
        moved=_difference(subject, model, images[:COMPARED]),
    )


def _save(model: onnx.ModelProto, part: Path) -> None:
    """Write the model to a temporary file.

    Raises:
        ExportError: what was made is no valid ONNX.
    """
    onnx.save(model, part)
    try:
        onnx.checker.check_model(str(part), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the INT8 file is no valid ONNX: {error}") from error


def quantize_with_noise(model: onnx.ModelProto, runtime: str) -> onnx.ModelProto:
    """Put all of a float model into INT8 that can be; ranges are of noise, so it can only be timed.

    Args:
        model: with static shapes.
        runtime: a key of `parts.OPERATORS`.

    Raises:
        InputError: nothing in it could be quantised.
    """
    model = named(model)
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    return _maker(model, sort(model), [noise], runtime=runtime)(())


def _maker(
    model: onnx.ModelProto,
    parts: Parts,
    batches: Iterable[Array],
    *,
    runtime: str,
    method: str = "minmax",
    seven_bits: bool = False,
) -> Make:
    """Take ranges from images, once; return what makes models in INT8."""
    operators = OPERATORS[runtime]
    ranges = calibrate.ranges(model, batches, operators=operators, method=method)

    def make(given_back: Sequence[Layer]) -> onnx.ModelProto:
        floating = parts.floating.union(*(layer.nodes for layer in given_back))
        return in_int8(
            model,
            ranges,
            operators=operators,
            floating=floating,
            open_ended=OPEN_ENDED[runtime],
            seven_bits=seven_bits,
        )

    return make


def _most_sensitive_first(
    subject: FloatModel, images: Sequence[Path], make: Make
) -> tuple[Layer, ...]:
    layers = subject.parts.layers

    def alone(layer: Layer) -> list[Array]:
        others = [other for other in layers if other is not layer]
        return list(subject.outputs(make(others), images))

    return by_sensitivity(layers, alone, list(subject.outputs(subject.model, images)))


def _difference(subject: FloatModel, model: onnx.ModelProto, images: Sequence[Path]) -> Difference:
    pairs = zip(subject.outputs(model, images), subject.outputs(subject.model, images), strict=True)
    found = [difference(*pair) for pair in pairs]
    return Difference(max(one.absolute for one in found), max(one.relative for one in found))


def _describe(
    model: onnx.ModelProto,
    config: QuantizeConfig,
    given_back: Sequence[Layer],
    *,
    images: int,
    metrics: Metrics,
) -> None:
    """Add to the metadata of a model how it was quantised, and its metrics since."""
    facts = {entry.key: entry.value for entry in model.metadata_props}
    facts["int8"] = json.dumps(
        {
            "method": config.method,
            "pictures": images,
            "runtime": config.runtime,
            "weight_bits": 7 if config.seven_bits else 8,
            "float_layers": [layer.name for layer in given_back],
            "split": config.split,
            "map": {"map50": metrics.map50, "map": metrics.map},
        }
    )
    onnx.helper.set_model_props(model, facts)
