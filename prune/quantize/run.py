"""Quantise a float file: calibrate, score, give back to float what the score needs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from prune.common.progress import tracked
from prune.data.spec import DataSpec
from prune.errors import ExportError, InputError
from prune.evaluate.metrics import CLOSE, Metrics
from prune.export.check import Difference, difference
from prune.quantize import calibrate
from prune.quantize.calibrate import Array
from prune.quantize.parts import OPEN_ENDED, OPERATORS, Layer, Parts, named, sort
from prune.quantize.search import by_sensitivity, fewest
from prune.quantize.subject import FloatModel, open_subject
from prune.quantize.write import in_int8
from prune.runtimes.compare import Compared

LOOKED_AT = 4  # pictures by which layers are ranked

# Makes the subject's model with all layers but these in INT8.
Make = Callable[[Sequence[Layer]], onnx.ModelProto]
Say = Callable[[str], None]


@dataclass(frozen=True)
class QuantizeOptions:
    """How a file is to be quantised.

    Attributes:
        images: pictures of the train split to take ranges from; all where there are fewer.
        method: a key of `calibrate.METHODS`.
        runtime: a key of `parts.OPERATORS`: what the file is made for.
        seven_bits: see `write.in_int8`.
        max_drop: mAP@.5:.95 that may be lost, in points (hundredths); None: whatever is lost.
        split: of the data, to score on.
        seed: of which pictures are taken.
    """

    images: int = 200
    method: str = "minmax"
    runtime: str = "onnxruntime"
    seven_bits: bool = False
    max_drop: float | None = None
    split: str = "val"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_drop is not None and not self.max_drop >= 0:
            raise InputError(f"max-drop is {self.max_drop}; it is in mAP points, e.g. 0.5")


@dataclass(frozen=True)
class Quantized:
    """A model with layers in INT8, and how it compares with the float file.

    Attributes:
        model: ready to be written, metadata included.
        before: scores of the float file.
        after: its own, both in ONNX Runtime.
        layers: how many could be in INT8.
        given_back: the convolutions of these that are in float all the same.
        held: whether the drop that is allowed holds; True where none is named.
        moved: how far its outputs are from the float file's at worst, on a few pictures.
        allowed: the drop that is allowed, in points; None where none is named.
    """

    model: onnx.ModelProto
    before: Metrics
    after: Metrics
    layers: int
    given_back: tuple[str, ...]
    held: bool
    moved: Difference
    allowed: float | None = None

    @property
    def drop(self) -> float:
        """The mAP@.5:.95 that is lost, in points."""
        return 100 * (self.before.map - self.after.map)


def quantize(
    path: Path, spec: DataSpec, wish: QuantizeOptions, *, say: Say = lambda _: None
) -> Quantized:
    """Put a float file's layers into INT8.

    Args:
        path: an ONNX file of `prune export`, with decoded boxes.
        spec: pictures for ranges, and a split to score on.
        wish: how.
        say: told what is being done.

    Raises:
        CheckpointError: the file cannot be used.
        InputError: other classes than the data's, too few pictures, no float32 file.
        DataError: a picture that cannot be read, or a split that is not there or has no labels.
    """
    subject = open_subject(path, spec)
    pictures = subject.pictures(wish.images, seed=wish.seed)
    before = subject.score(subject.model, wish.split)
    say(f"ranges from {len(pictures)} pictures ({wish.method})")
    batches = tracked(subject.batches(pictures), "ranges", len(pictures))
    make = _maker(subject.model, subject.parts, batches, wish)
    least = -1.0 if wish.max_drop is None else before.map - wish.max_drop / 100
    order = subject.parts.layers
    scores = {0: subject.score(make(()), wish.split)}
    if scores[0].map < least:
        say(f"mAP {before.map:.4f} fell to {scores[0].map:.4f}; ranking {len(order)} layers")
        order = _ranked(subject, pictures[:LOOKED_AT], make)

    def score(given_back: int) -> float:
        if given_back not in scores:
            scores[given_back] = subject.score(make(order[:given_back]), wish.split)
            say(f"{given_back} layers given back to float: mAP {scores[given_back].map:.4f}")
        return scores[given_back].map

    found = fewest(len(order), score, least=least)
    given_back = order[: found.chosen.given_back]
    model, after = make(given_back), scores[found.chosen.given_back]
    return Quantized(
        model=_described(model, wish, given_back, pictures=len(pictures), scores=after),
        before=before,
        after=after,
        layers=len(order),
        given_back=tuple(layer.name for layer in given_back),
        held=found.held,
        moved=_moved(subject, model, pictures[:LOOKED_AT]),
        allowed=wish.max_drop,
    )


def save_into(done: Quantized, part: Path) -> None:
    """Write the model to a temporary file.

    Raises:
        ExportError: what was made is no valid ONNX.
    """
    onnx.save(done.model, part)
    try:
        onnx.checker.check_model(str(part), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the INT8 file is no valid ONNX: {error}") from error


def keeps(done: Quantized) -> bool:
    """Tell whether the file detects well enough: what was allowed is held, or little is lost."""
    return done.held and (done.allowed is not None or done.drop <= 100 * CLOSE)


def pays(timed: Compared) -> bool:
    """Tell whether the file in INT8, the second, is faster than float beyond the noise."""
    return timed.ratio.high < 1


def for_the_clock(model: onnx.ModelProto, runtime: str) -> onnx.ModelProto:
    """Put all of a float model into INT8 that can be; ranges are of noise, so it only runs.

    Args:
        model: with static shapes.
        runtime: a key of `parts.OPERATORS`.

    Raises:
        InputError: nothing in it could be quantised.
    """
    model = named(model)
    parts, wish = sort(model), QuantizeOptions(runtime=runtime)
    shape = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    noise = np.random.default_rng(0).random(shape, dtype=np.float32)
    return _maker(model, parts, [noise], wish)(())


def _maker(
    model: onnx.ModelProto, parts: Parts, batches: Iterable[Array], wish: QuantizeOptions
) -> Make:
    """Take ranges from pictures, once; return what makes models in INT8."""
    operators = OPERATORS[wish.runtime]
    seen = calibrate.ranges(model, batches, operators=operators, method=wish.method)

    def make(given_back: Sequence[Layer]) -> onnx.ModelProto:
        floating = parts.floating.union(*(layer.nodes for layer in given_back))
        return in_int8(
            model,
            seen,
            operators=operators,
            floating=floating,
            open_ended=OPEN_ENDED[wish.runtime],
            seven_bits=wish.seven_bits,
        )

    return make


def _ranked(subject: FloatModel, pictures: Sequence[Path], make: Make) -> tuple[Layer, ...]:
    layers = subject.parts.layers

    def alone(layer: Layer) -> list[Array]:
        others = [other for other in layers if other is not layer]
        return list(subject.outputs(make(others), pictures))

    return by_sensitivity(layers, alone, list(subject.outputs(subject.model, pictures)))


def _moved(subject: FloatModel, model: onnx.ModelProto, pictures: Sequence[Path]) -> Difference:
    pairs = zip(
        subject.outputs(model, pictures), subject.outputs(subject.model, pictures), strict=True
    )
    found = [difference(*pair) for pair in pairs]
    return Difference(max(one.absolute for one in found), max(one.relative for one in found))


def _described(
    model: onnx.ModelProto,
    wish: QuantizeOptions,
    given_back: Sequence[Layer],
    *,
    pictures: int,
    scores: Metrics,
) -> onnx.ModelProto:
    """Add to a model's metadata how it was quantised, and what it scores since."""
    facts = {entry.key: entry.value for entry in model.metadata_props}
    facts["int8"] = json.dumps(
        {
            "method": wish.method,
            "pictures": pictures,
            "runtime": wish.runtime,
            "weight_bits": 7 if wish.seven_bits else 8,
            "float_layers": [layer.name for layer in given_back],
            "split": wish.split,
            "map": {"map50": scores.map50, "map": scores.map},
        }
    )
    onnx.helper.set_model_props(model, facts)
    return model
