"""How long files take in one runtime, in turn, and nothing else of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prune.bench.files import settle
from prune.bench.machine import threads_of
from prune.bench.runtimes import open_model
from prune.bench.timing import Ratio, Times, in_turn, ratio, spread


@dataclass(frozen=True)
class Compared:
    """Two things timed in turn: milliseconds of each, and the second's share of the first's."""

    before_ms: float
    after_ms: float
    ratio: Ratio


def comparison(times: Times) -> Compared:
    """Summarise the milliseconds of two things, [rounds, 2]."""
    before, after = (spread(column).median for column in times.T)
    return Compared(before, after, ratio(times[:, 1], times[:, 0]))


def compared(
    before: Path, after: Path, *, runtime: str, threads: int = 0, rounds: int = 30
) -> Compared:
    """Time two files in a runtime; arguments and errors as of `latencies_ms`."""
    return comparison(_times([before, after], runtime, threads=threads, rounds=rounds, seed=0))


def latencies_ms(
    files: Sequence[Path],
    *,
    runtime: str = "onnxruntime",
    rounds: int = 30,
    threads: int = 0,
    seed: int = 0,
) -> dict[Path, float]:
    """Time each file on random pictures of its own size, in turn.

    Args:
        files: that the runtime reads, whose first input is [N, C, H, W].
        runtime: a key of RUNTIMES.
        rounds: timed runs of each.
        threads: of a run; 0 takes a thread a core.
        seed: of the order in each round.

    Returns:
        The median milliseconds of one run, by file.

    Raises:
        InputError: a runtime that is not installed, a file that it cannot run or that has no known
            picture size.
    """
    different = list(dict.fromkeys(files))
    times = _times(different, runtime, threads=threads, rounds=rounds, seed=seed)
    return {path: spread(column).median for path, column in zip(different, times.T, strict=True)}


def _times(files: Sequence[Path], runtime: str, *, threads: int, rounds: int, seed: int) -> Times:
    settings = [settle(path, threads=threads_of(threads)) for path in files]
    runs = [open_model(runtime, *pair).run for pair in zip(files, settings, strict=True)]
    return in_turn(runs, rounds=rounds, seed=seed)
