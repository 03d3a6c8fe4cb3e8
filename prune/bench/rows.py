"""Time files in runtimes in turn: what each takes, and which to deploy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from prune.bench.memory import peak_bytes
from prune.errors import InputError
from prune.evaluate.metrics import CLOSE
from prune.runtimes.backends import Opened, Setting, library, open_model
from prune.runtimes.file_inputs import size_of
from prune.runtimes.timing import Ratio, Spread, Times, in_turn, ratio, spread


@dataclass(frozen=True)
class Pair:
    """A file in a runtime.

    Attributes:
        file: what the user named.
        runtime: a key of RUNTIMES.
        source: what the runtime reads: the file, or what was exported from it.
        setting: what it is run on.
    """

    file: Path
    runtime: str
    source: Path
    setting: Setting

    @property
    def exported(self) -> bool:
        """Return whether the runtime reads an ONNX file that was written of a checkpoint."""
        return self.source.suffix != self.file.suffix and self.source.suffix == ".onnx"


@dataclass(frozen=True)
class MeasuredPair:
    """What was measured of a pair.

    Attributes:
        pair: what was run.
        precision: at which its convolutions were really computed.
        spread: milliseconds per run.
        ratio_to_first: how many times as long as the first row.
        load_ms: from the file to the end of the first run.
        peak_bytes: what it adds to a bare process; None where that cannot be measured.
        bytes: of the file.
        map: the file's mAP@.5:.95 in 0..1; None where it was not evaluated.
    """

    pair: Pair
    precision: str
    spread: Spread
    ratio_to_first: Ratio
    load_ms: float
    peak_bytes: int | None
    bytes: int
    map: float | None = None


@dataclass(frozen=True)
class Measured:
    """What was measured: a row per pair that ran, its milliseconds, why others did not run.

    `times` is [rounds, rows].
    """

    rows: tuple[MeasuredPair, ...]
    times: Times
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Advice:
    """Which row to deploy, and why."""

    row: MeasuredPair
    why: str


def measure(
    pairs: Sequence[Pair],
    *,
    rounds: int,
    seed: int = 0,
    maps: Mapping[Path, float] | None = None,
    watch: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Measured:
    """Open all pairs, time them in turn, ask each for its precision and memory.

    Args:
        pairs: what to time; the first that runs is what others are compared with.
        rounds: timed runs of each.
        seed: of the order in each round.
        maps: mAP@.5:.95 of the files that were evaluated.
        watch: passes the numbers of the rounds on; a progress bar.

    Raises:
        InputError: no pair runs; the message says why the first does not.
    """
    ready, refused = _open_all(pairs)
    if not ready:
        raise InputError(refused[0] if refused else "there is nothing to time")
    times = in_turn([one.opened.run for one in ready], rounds=rounds, seed=seed, watch=watch)
    rows = [
        MeasuredPair(
            one.pair,
            one.opened.precision(),
            spread(column),
            ratio(column, times[:, 0], seed=seed),
            one.load_ms,
            peak_bytes(one.pair.runtime, one.pair.source, one.pair.setting),
            size_of(one.pair.source),
            (maps or {}).get(one.pair.file),
        )
        for one, column in zip(ready, times.T, strict=True)
    ]
    return Measured(tuple(rows), times, tuple(refused))


@dataclass(frozen=True)
class _Ready:
    pair: Pair
    opened: Opened
    load_ms: float


def _open_all(pairs: Sequence[Pair]) -> tuple[list[_Ready], list[str]]:
    """Open what can be opened; return also why the rest cannot."""
    ready, refused = [], []
    for pair in pairs:
        library(pair.runtime)  # its import is no part of loading a file
        start = perf_counter()
        try:
            opened = open_model(pair.runtime, pair.source, pair.setting)
        except InputError as error:
            refused.append(str(error).replace(str(pair.source), str(pair.file)))
            continue
        ready.append(_Ready(pair, opened, 1e3 * (perf_counter() - start)))
    return ready, refused


def advise(measured: Measured) -> Advice:
    """Choose what to deploy: the fastest, among those that detect well enough where that is known.

    Among rows that are within noise of the fastest, the smallest file wins.
    """
    rows = measured.rows
    quickest = _best(measured, range(len(rows)))
    known = [i for i, row in enumerate(rows) if row.map is not None]
    if not known:
        return Advice(rows[quickest[0]], _why(measured, quickest))
    best = max(rows[i].map or 0.0 for i in known)
    chosen = _best(measured, [i for i in known if (rows[i].map or 0.0) >= best - CLOSE])
    why = f"{_why(measured, chosen)}, within 1 point of the best mAP ({best:.3f})"
    fastest = rows[quickest[0]]
    if quickest[0] not in chosen:
        known_map = "not evaluated" if fastest.map is None else f"mAP {fastest.map:.3f}"
        why += f"; fastest of all: {_name(fastest)}, {fastest.spread.median:.3g} ms, {known_map}"
    return Advice(rows[chosen[0]], why)


def name_of(file: Path, runtime: str, *, exported: bool) -> str:
    """Return which file in which runtime."""
    return f"{file}{' exported to ONNX' if exported else ''} in {runtime}"


def _name(row: MeasuredPair) -> str:
    return name_of(row.pair.file, row.pair.runtime, exported=row.pair.exported)


def _best(measured: Measured, among: Iterable[int]) -> list[int]:
    """Return the fastest row and those within noise of it, the smallest file first.

    A file that was named twice counts once.
    """
    rows, times = measured.rows, measured.times
    ordered = sorted(among, key=lambda i: rows[i].spread.median)
    fastest = times[:, ordered[0]]
    level = [i for i in ordered[1:] if ratio(times[:, i], fastest).level]
    alike: dict[str, int] = {}
    for i in (ordered[0], *level):
        alike.setdefault(_name(rows[i]), i)
    return sorted(alike.values(), key=lambda i: rows[i].bytes)


def _why(measured: Measured, chosen: Sequence[int]) -> str:
    row = measured.rows[chosen[0]]
    facts = f"{row.spread.median:.3g} ms, {row.precision}"
    if len(chosen) == 1:
        return f"{facts}: the fastest"
    others = dict.fromkeys(_name(measured.rows[i]) for i in chosen[1:])
    smaller = any(measured.rows[i].bytes > row.bytes for i in chosen)
    reason = "the smallest file of those" if smaller else "the fastest, but"
    return f"{facts}: {reason} within noise of {', '.join(others)}"
