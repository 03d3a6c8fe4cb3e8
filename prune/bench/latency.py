"""How long ONNX files take in ONNX Runtime, as one number each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prune.bench.files import settle
from prune.bench.machine import threads_of
from prune.bench.runtimes import open_model
from prune.bench.timing import in_turn, spread


def latencies_ms(
    files: Sequence[Path], *, rounds: int = 30, threads: int = 0, seed: int = 0
) -> dict[Path, float]:
    """Time each file on random pictures of its own size, in turn.

    Args:
        files: ONNX files whose first input is [N, C, H, W].
        rounds: timed runs of each.
        threads: of a run; 0 takes a thread a core.
        seed: of the order in each round.

    Returns:
        The median milliseconds of one run, by file.

    Raises:
        InputError: a file that cannot be loaded or has no known picture size.
    """
    settings = {path: settle(path, threads=threads_of(threads)) for path in files}
    runs = [open_model("onnxruntime", path, own).run for path, own in settings.items()]
    times = in_turn(runs, rounds=rounds, seed=seed)
    return {path: spread(column).median for path, column in zip(settings, times.T, strict=True)}
