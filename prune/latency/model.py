"""How long a network takes as a function of the channels that its groups keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prune.latency.layers import Timed, Widths
from prune.latency.table import Sample, Table

Numbers = NDArray[np.float64]

_SHORT = 0.02  # of the longest sample: below it, an error counts as if the layer took so long
_EQUAL = 1e-9  # relative; fits that differ by less are as good


@dataclass(frozen=True)
class Model:
    """Milliseconds of a network, from what its layers took one by one.

    A layer takes a + b in + c out + d in out, with in and out rounded up to the step: filters that
    are loaded, maps that are read and written, products that are summed.

    Attributes:
        coefficients: a, b, c, d of each layer, [L, 4], none below 0.
        widths: of the layers.
        step: channels are computed in blocks of so many.
        full: channels of each group, [G].
        scale: what the sum is multiplied by, so that the whole network takes what was measured.
    """

    coefficients: Numbers
    widths: Widths
    step: int
    full: NDArray[np.int64]
    scale: float = 1.0

    def ms(self, kept: NDArray[np.int64]) -> Numbers:
        """Predict milliseconds for kept channels, [..., G] -> [...]."""
        features = _features(*self.widths.of(kept), self.step)  # [..., L, 4]
        total: Numbers = np.einsum("...lf,lf->...", features, self.coefficients)
        return self.scale * total


def coefficients(table: Table, layers: Sequence[Timed]) -> Numbers:
    """Fit a, b, c, d of each layer to a table that has samples of each kind of them, [L, 4]."""
    kinds = {layer.kind for layer in layers}
    known = {kind: _fitted(table.samples[kind], table.step) for kind in kinds}
    return np.stack([known[layer.kind] for layer in layers])


def total_ms(table: Table, layers: Sequence[Timed]) -> float:
    """Predict milliseconds of a network as it is, from the layers alone."""
    wide_in, wide_out = _widths(layers)
    features = _features(wide_in, wide_out, table.step)  # [L, 4]
    return float((features * coefficients(table, layers)).sum())


def _fitted(samples: Sequence[Sample], step: int) -> Numbers:
    """Fit a, b, c, d to samples, in relative terms, so that short layers count like long ones."""
    wide_in, wide_out = _widths(samples)
    ms = np.array([sample.ms for sample in samples])
    if not ms.any():  # a layer that the runtime has folded into others
        return np.zeros(4)
    weight = 1 / np.maximum(ms, _SHORT * ms.max())
    features = _features(wide_in, wide_out, step)  # [n, 4]
    return _nonnegative(features * weight[:, None], ms * weight)


def _widths(layers: Sequence[Timed] | Sequence[Sample]) -> tuple[Numbers, Numbers]:
    pairs = np.array([(x.channels_in, x.channels_out) for x in layers], dtype=np.float64)
    return pairs[:, 0], pairs[:, 1]


def _features(wide_in: Numbers, wide_out: Numbers, step: int) -> Numbers:
    """Return 1, in, out and in x out, rounded up to whole steps, [..., 4]."""
    i, o = np.ceil(wide_in / step) * step, np.ceil(wide_out / step) * step
    return np.stack((np.ones_like(i), i, o, i * o), axis=-1)


def _nonnegative(features: Numbers, wanted: Numbers) -> Numbers:
    """Solve least squares with no coefficient below 0; the fewest of those that fit as well.

    The solution is the plain one of some of the columns; there are so few that all are tried.

    Args:
        features: [n, F].
        wanted: [n].

    Returns:
        [F].
    """
    size = np.maximum(np.abs(features).max(axis=0), 1e-12)
    best, least = np.zeros(features.shape[1]), float(np.linalg.norm(wanted))
    margin = _EQUAL * least
    for chosen in _choices(features.shape[1]):
        columns = features[:, chosen] / size[chosen]
        solution = np.linalg.lstsq(columns, wanted, rcond=None)[0]
        error = float(np.linalg.norm(columns @ solution - wanted))
        if (solution >= 0).all() and error < least - margin:
            best = np.zeros(features.shape[1])
            best[chosen], least = solution / size[chosen], error
    return best


def _choices(columns: int) -> Iterator[list[int]]:
    for number in range(1, columns + 1):
        yield from map(list, combinations(range(columns), number))
