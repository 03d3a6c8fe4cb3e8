"""Time files in turn, in a way that is right on a busy machine, too, and compare them by ratio.

On an idle machine that is wall time. Where other processes use the cores, a run waits for
them, and its threads for each other: on two cores with four busy processes, a network with 0.47 of
the time of another took 0.53 by the wall. There a run has one thread, and the time that it had on a
processor is compared: 0.45 whatever the others do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prune.runtimes import other_processes
from prune.runtimes.backends import Setting, open_model
from prune.runtimes.file_inputs import settle
from prune.runtimes.machine import threads_of
from prune.runtimes.timing import OWN, WALL, Ratio, Times, in_turn, ratio, spread

ROUNDS = 30


@dataclass(frozen=True)
class File:
    """What is timed: a file that a runtime of RUNTIMES reads, and how it is run."""

    runtime: str
    path: Path
    setting: Setting


@dataclass(frozen=True)
class TimedFiles:
    """Milliseconds of files that were timed in turn.

    Attributes:
        times: wall time or, on a busy machine, what one thread had on a processor,
            divided by the threads that a run is to have, [rounds, files].
        busy: whether other processes used the cores.
    """

    times: Times
    busy: bool

    def ratio(self, which: int, to: int = 0) -> Ratio:
        """Compare two files by their ratio in each round."""
        return ratio(self.times[:, which], self.times[:, to])

    def ms(self, which: int = 0) -> float:
        """Return how long a file takes; on a busy machine that is a rough estimate."""
        return spread(self.times[:, 0]).median * self.ratio(which).middle


@dataclass(frozen=True)
class Compared:
    """Two things timed in turn: milliseconds of each, and the second's ratio to the first."""

    before_ms: float
    after_ms: float
    ratio: Ratio
    busy: bool = False


def timed_files(files: Sequence[File], *, rounds: int = ROUNDS, seed: int = 0) -> TimedFiles:
    """Time files in turn.

    Where the machine becomes busy meanwhile, they are timed once more as on a busy one.

    Raises:
        InputError: a runtime that is not installed, or a file that it cannot run.
    """
    threads = max(file.setting.threads for file in files)
    if other_processes.look().busy(threads):
        return _on_a_busy_machine(files, rounds=rounds, seed=seed)
    with other_processes.watched() as others:
        times = in_turn(_opened(files), rounds=rounds, seed=seed, clock=WALL)
    if others.busy(threads):
        return _on_a_busy_machine(files, rounds=rounds, seed=seed)
    return TimedFiles(times, busy=False)


def _on_a_busy_machine(files: Sequence[File], *, rounds: int, seed: int) -> TimedFiles:
    alone = [replace(file, setting=replace(file.setting, threads=1)) for file in files]
    times = in_turn(_opened(alone), rounds=rounds, seed=seed, clock=OWN)
    return TimedFiles(times / [file.setting.threads for file in files], busy=True)


def _opened(files: Sequence[File]) -> list[Callable[[], object]]:
    return [open_model(file.runtime, file.path, file.setting).run for file in files]


def comparison(found: TimedFiles) -> Compared:
    """Compare the second of two files with the first."""
    return Compared(found.ms(0), found.ms(1), found.ratio(1), found.busy)


def compared(
    before: Path, after: Path, *, runtime: str, threads: int = 0, rounds: int = ROUNDS
) -> Compared:
    """Time two files in a runtime; arguments and errors as of `latencies_ms`."""
    files = [_file(path, runtime, threads) for path in (before, after)]
    return comparison(timed_files(files, rounds=rounds))


def latencies_ms(
    files: Sequence[Path],
    *,
    runtime: str = "onnxruntime",
    rounds: int = ROUNDS,
    threads: int = 0,
    seed: int = 0,
) -> dict[Path, float]:
    """Time each file on random images of its own size, in turn.

    Args:
        files: that the runtime reads, whose first input is [N, C, H, W].
        runtime: a key of RUNTIMES.
        rounds: timed runs of each.
        threads: of a run; 0 takes one thread per core.
        seed: of the order in each round.

    Returns:
        The milliseconds of one run, by file.

    Raises:
        InputError: a runtime that is not installed, a file that it cannot run or that has no known
            image size.
    """
    different = list(dict.fromkeys(files))
    found = timed_files(
        [_file(path, runtime, threads) for path in different], rounds=rounds, seed=seed
    )
    return {path: found.ms(which) for which, path in enumerate(different)}


def _file(path: Path, runtime: str, threads: int) -> File:
    return File(runtime, path, settle(path, threads=threads_of(threads)))
