"""Predict the time of a network from the channels that its groups keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from prune.latency.layers import Timed, Widths
from prune.latency.table import Sample, Table

Numbers = NDArray[np.float64]

_SHORT = 0.02  # of the longest sample: errors of shorter ones are relative to this time
_EQUAL = 1e-9  # relative; fits that differ by less count as equal


@dataclass(frozen=True)
class Model:
    """Milliseconds of a network, from the times of its layers.

    A layer takes a + b in + c out + d in out, with in and out rounded up to the step: a call, maps
    that are read, maps that are written, products that are summed.

    Attributes:
        coefficients: a, b, c, d of each layer, [L, 4], none below 0.
        widths: of the layers.
        step: channels are computed in blocks of this size.
        full: channels of each group, [G].
        scale: factor of the sum, so that the original takes what was measured.
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
    """Predict the milliseconds of a network as it is, from its layers."""
    wide_in, wide_out = _widths(layers)
    features = _features(wide_in, wide_out, table.step)  # [L, 4]
    return float((features * coefficients(table, layers)).sum())


def _fitted(samples: Sequence[Sample], step: int) -> Numbers:
    """Fit a, b, c, d to samples, in relative terms, so that short layers count like long ones."""
    wide_in, wide_out = _widths(samples)
    ms = np.array([sample.ms for sample in samples])
    if not ms.any():  # the runtime has folded the layer into others
        return np.zeros(4)
    weight = 1 / np.maximum(ms, _SHORT * ms.max())
    features = _features(wide_in, wide_out, step)  # [n, 4]
    return _nonnegative(features * weight[:, None], ms * weight)


def _widths(layers: Sequence[Timed] | Sequence[Sample]) -> tuple[Numbers, Numbers]:
    pairs = np.array([(x.channels_in, x.channels_out) for x in layers], dtype=np.float64)
    return pairs[:, 0], pairs[:, 1]


def _features(wide_in: Numbers, wide_out: Numbers, step: int) -> Numbers:
    """Return 1, in, out and in x out, with widths rounded up to the step, [..., 4]."""
    read, written = np.ceil(wide_in / step) * step, np.ceil(wide_out / step) * step
    return np.stack((np.ones_like(read), read, written, read * written), axis=-1)


def _nonnegative(features: Numbers, target: Numbers) -> Numbers:
    """Solve least squares without negative coefficients; of equal fits the one with the fewest.

    The solution is the unconstrained one of some columns; there are so few that all are tried.

    Args:
        features: [n, F].
        target: [n].

    Returns:
        [F].
    """
    size = np.maximum(np.abs(features).max(axis=0), 1e-12)
    best, least = np.zeros(features.shape[1]), float(np.linalg.norm(target))
    margin = _EQUAL * least
    for chosen in _choices(features.shape[1]):
        columns = features[:, chosen] / size[chosen]
        solution = np.linalg.lstsq(columns, target, rcond=None)[0]
        error = float(np.linalg.norm(columns @ solution - target))
        if (solution >= 0).all() and error < least - margin:
            best = np.zeros(features.shape[1])
            best[chosen], least = solution / size[chosen], error
    return best


def _choices(columns: int) -> Iterator[list[int]]:
    for number in range(1, columns + 1):
        yield from map(list, combinations(range(columns), number))
