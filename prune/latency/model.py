"""How long a network takes as a function of the channels that its groups keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prune.latency.layers import Timed, Widths
from prune.latency.table import Sample, Table

Numbers = NDArray[np.float64]
REST = "rest"  # what belongs to no layer: decoding, reordering, the call itself


@dataclass(frozen=True)
class Model:
    """Milliseconds of a network, from what its layers took one by one.

    A layer takes a + b in + c out + d in out, with in and out rounded up to the step: filters that
    are loaded, maps that are read and written, products that are summed.

    Attributes:
        coefficients: a, b, c, d of each layer, [L, 4], none below 0.
        widths: of the layers.
        step: channels are computed in blocks of so many.
        rest: milliseconds that no layer takes.
        scale: what the sum is multiplied by, since layers take another time on their own.
        full: channels of each group, [G].
    """

    coefficients: Numbers
    widths: Widths
    step: int
    rest: float
    full: NDArray[np.int64]
    scale: float = 1.0

    def ms(self, kept: NDArray[np.int64]) -> Numbers:
        """Predict milliseconds for kept channels, [..., G] -> [...]."""
        own = self.widths
        features = _features(
            own.fixed_in + kept @ own.by_in.T, own.fixed_out + kept @ own.by_out.T, self.step
        )  # [..., L, 4]
        total: Numbers = np.einsum("...lf,lf->...", features, self.coefficients)
        return self.scale * (total + self.rest)

    def anchored(self, measured: float) -> Model:
        """Copy the model so that the whole network takes what was measured of it, ms."""
        return replace(self, scale=self.scale * measured / float(self.ms(self.full)))


def fit(
    table: Table, layers: Sequence[Timed], widths: Widths, full: NDArray[np.int64], *, imgsz: int
) -> Model:
    """Fit a network's model to a table that has samples of each kind of its layers.

    Args:
        table: of a machine.
        layers: of the network.
        widths: of the layers, as functions of the groups.
        full: channels of each group, [G].
        imgsz: of the pictures, pixels.
    """
    known = {
        kind: _fitted(table.samples[kind], table.step) for kind in {one.kind for one in layers}
    }
    rest = [sample.ms for sample in table.samples[rest_kind(imgsz)]]
    return Model(
        coefficients=np.stack([known[layer.kind] for layer in layers]),
        widths=widths,
        step=table.step,
        rest=float(np.median(rest)),
        full=full,
    )


def rest_kind(imgsz: int) -> str:
    """Name the kind of what belongs to no layer."""
    return f"{REST} {imgsz}"


def _fitted(samples: Sequence[Sample], step: int) -> Numbers:
    """Fit a, b, c, d to samples, in relative terms, so that short layers count like long ones."""
    wide_in = np.array([float(sample.channels_in) for sample in samples])
    wide_out = np.array([float(sample.channels_out) for sample in samples])
    ms = np.array([sample.ms for sample in samples])
    if not ms.any():  # a layer that the runtime has folded into others
        return np.zeros(4)
    weight = 1 / np.maximum(ms, 0.02 * ms.max())
    features = _features(wide_in, wide_out, step)  # [n, 4]
    return _nonnegative(features * weight[:, None], ms * weight)


def _features(wide_in: Numbers, wide_out: Numbers, step: int) -> Numbers:
    """Return 1, in, out and in x out, rounded up to whole steps, [..., 4]."""
    i, o = np.ceil(wide_in / step) * step, np.ceil(wide_out / step) * step
    return np.stack((np.ones_like(i), i, o, i * o), axis=-1)


def _nonnegative(features: Numbers, wanted: Numbers) -> Numbers:
    """Solve least squares with no coefficient below 0, one coefficient after another."""
    size = np.maximum(np.sqrt(np.square(features).sum(axis=0)), 1e-12)
    gram = (features / size).T @ (features / size)
    goal = (features / size).T @ wanted
    solution = np.zeros(len(goal))
    for _ in range(2000):
        before = solution.copy()
        for i in range(len(goal)):
            solution[i] = max(0.0, solution[i] + goal[i] - gram[i] @ solution)
        if np.abs(solution - before).max() < 1e-9:
            break
    coefficients: Numbers = solution / size
    return coefficients
