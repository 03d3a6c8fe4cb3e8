"""Weights that fit a cfg in part: a backbone alone, other classes, layers of another network.

`train` may start from them. Darknet's own files are numbers without names: what they hold is told
by how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prune.checkpoint.foreign.archive import is_torch_file, read_pickle
from prune.checkpoint.foreign.contents import contents
from prune.checkpoint.foreign.decoding import decode_as_darknet, decode_as_trained
from prune.checkpoint.foreign.parameters import Shape, tensors
from prune.checkpoint.foreign.source import is_safetensors
from prune.checkpoint.foreign.structure import classes_of, read_cfg
from prune.checkpoint.foreign.weights import count_numbers, read_tensors
from prune.errors import CheckpointError
from prune.models.sections import Section, with_classes

MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Part:
    """What of a file fits a cfg.

    Attributes:
        sections: the cfg, with the file's number of classes where that is known.
        weights: by state-dict name, of whole layers.
        layers: the layers that they are of.
        note: what the file was taken for.
        names: class names, where the file has them.
    """

    sections: tuple[Section, ...]
    weights: dict[str, Tensor]
    layers: frozenset[int]
    note: str
    names: tuple[str, ...] = ()


def part_of(path: Path, cfg: Path, *, decoding: str | None = None) -> Part | None:
    """Read what of a public file fits a cfg; None if nothing does.

    Raises:
        CheckpointError: the file cannot be read.
        CfgError: the cfg cannot be read.
    """
    sections = read_cfg(cfg)
    if is_torch_file(path):
        return _of_torch(read_pickle(path), sections, decoding)
    if is_safetensors(path):
        return None
    return _of_darknet(path, sections, decoding)


def _of_darknet(path: Path, sections: Sequence[Section], decoding: str | None) -> Part | None:
    """Take all numbers for the cfg with other classes, or for its first layers (`.conv.N`)."""
    count = count_numbers(path)
    classes = _classes_for(count, sections)
    if classes is not None:
        own = decode_as_darknet(with_classes(sections, classes), requested=decoding).sections
        note = f"the numbers in the file are those of the cfg with {classes} classes"
    else:
        own = decode_as_darknet(sections, requested=decoding).sections
        note = "the file ends before the cfg does, after a whole layer"
    shapes = _leading(tensors(own), count)
    if not shapes:
        return None
    return Part(own, read_tensors(path, shapes), frozenset(map(_layer, shapes)), note)


def _classes_for(count: int, sections: Sequence[Section]) -> int | None:
    """Find the number of classes with which a cfg asks for so many numbers."""
    one, two = (_total(tensors(with_classes(sections, classes))) for classes in (1, 2))
    more, rest = divmod(count - one, two - one)
    return more + 1 if rest == 0 and 0 <= more < MOST_CLASSES else None


def _leading(shapes: dict[str, Shape], count: int) -> dict[str, Shape]:
    """Return the tensors of the first layers that take just so many numbers; none if none do."""
    found: dict[str, Shape] = {}
    left = count
    for name, shape in shapes.items():
        if left == 0 and _layer(name) not in map(_layer, found):
            return found
        left -= math.prod(shape)
        found[name] = shape
    return found if left == 0 else {}


def _of_torch(document: object, sections: Sequence[Section], decoding: str | None) -> Part | None:
    """Take the layers whose tensors all have the names and shapes that the cfg asks for."""
    found = contents(document)
    try:
        classes = classes_of(sections, found.weights)
    except CheckpointError:  # the heads are others
        classes = None
    target = with_classes(sections, classes) if classes else sections
    own = decode_as_trained(target, found, requested=decoding).sections
    weights = dict(_equal_layers(tensors(own), found.weights))
    layers = frozenset(map(_layer, weights))
    note = f"{found.found}, whose layers are not all those of the cfg"
    return Part(own, weights, layers, note, found.names) if layers else None


def _equal_layers(
    shapes: dict[str, Shape], weights: dict[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    for layer in dict.fromkeys(map(_layer, shapes)):
        own = {name: shape for name, shape in shapes.items() if _layer(name) == layer}
        held = {n: tuple(t.shape) for n, t in weights.items() if _layer(n) == layer and t.dim()}
        if own == held:
            yield from ((name, weights[name]) for name in own)


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def _total(shapes: dict[str, Shape]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())
