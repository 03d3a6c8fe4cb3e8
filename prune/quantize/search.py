"""Which layers go back to float: the most sensitive, as few as the allowed drop of mAP permits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prune.common.progress import tracked
from prune.quantize.parts import Layer

Array = NDArray[np.float32]
_LEAST = 1e-12


@dataclass(frozen=True)
class SearchStep:
    """A number of layers given back to float, and the mAP of what is left in INT8."""

    given_back: int
    map: float


@dataclass(frozen=True)
class Search:
    """All trials of a search, in the order they were made, and the one that was chosen.

    Attributes:
        chosen: the fewest layers given back that hold the drop; the highest mAP if none does.
        held: whether it does.
        trials: each number once.
    """

    chosen: SearchStep
    held: bool
    trials: tuple[SearchStep, ...]


def change(found: Array, expected: Array) -> float:
    """Return how far decoded outputs [N, boxes, 5 + classes] moved, relative to what they were.

    Probabilities count as they are, boxes by their objectness: where nothing is, they mean nothing.
    """
    weight = expected[..., 4:5]
    moved = [found[..., 4:] - expected[..., 4:], weight * (found[..., :4] - expected[..., :4])]
    whole = [expected[..., 4:], weight * expected[..., :4]]
    changes = [_norm(a) / max(_norm(b), _LEAST) for a, b in zip(moved, whole, strict=True)]
    return sum(changes)


def by_sensitivity(
    layers: Sequence[Layer], alone: Callable[[Layer], Iterable[Array]], expected: Sequence[Array]
) -> tuple[Layer, ...]:
    """Sort layers by how far the outputs move when one alone is in INT8, the worst first.

    Args:
        layers: of a model.
        alone: runs images through the model with this layer in INT8 and all else in float.
        expected: what the float model gives, one array per batch.
    """
    moved = {
        layer: sum(change(found, own) for found, own in zip(alone(layer), expected, strict=True))
        for layer in tracked(layers, "ranking layers", len(layers))
    }
    return tuple(sorted(layers, key=lambda layer: -moved[layer]))


def fewest(layers: int, map_with: Callable[[int], float], *, least: float) -> Search:
    """Find the fewest layers to give back so that mAP is at least `least`.

    mAP is assumed to rise with every layer given back, as it does except for noise, so that
    about log2(layers) evaluations are enough. At least one layer stays in INT8.

    Args:
        layers: how many there are, sorted, the most sensitive first.
        map_with: returns the mAP with the first so many given back.
        least: the mAP to hold.
    """
    trials: dict[int, float] = {}

    def holds(given_back: int) -> bool:
        trials[given_back] = map_with(given_back)
        return trials[given_back] >= least

    low, high = 0, layers - 1  # `low` misses, `high` holds
    if holds(0):
        high = 0
    elif high == 0 or not holds(high):
        best = max(trials, key=lambda given_back: trials[given_back])
        return Search(SearchStep(best, trials[best]), False, _tried(trials))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return Search(SearchStep(high, trials[high]), True, _tried(trials))


def _tried(trials: Mapping[int, float]) -> tuple[SearchStep, ...]:
    return tuple(SearchStep(given_back, found) for given_back, found in trials.items())


def _norm(values: Array) -> float:
    return float(np.linalg.norm(values.astype(np.float64).ravel()))
