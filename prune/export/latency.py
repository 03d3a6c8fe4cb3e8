"""Measure how long ONNX files take for one batch in ONNX Runtime, side by side."""

import ast
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from prune.errors import InputError

WARM_UP = 3  # runs; the first ones allocate


def latencies_ms(
    files: Sequence[Path], *, rounds: int = 30, threads: int = 0, seed: int = 0
) -> dict[Path, float]:
    """Time each file on random pictures of its own size.

    The files take turns, round after round, so that a busy or throttled machine hits all alike.

    Args:
        files: ONNX files with one input, [N, 3, H, W].
        rounds: timed runs of each.
        threads: of each operator; 0 takes a thread a core.
        seed: of the pictures.

    Returns:
        The median milliseconds of one run, by file.

    Raises:
        InputError: a file that cannot be loaded or has no known picture size.
    """
    sessions = {path: _session(path, threads) for path in files}
    random = np.random.default_rng(seed)
    feeds = {path: _pictures(path, session, random) for path, session in sessions.items()}
    times: dict[Path, list[float]] = {path: [] for path in sessions}
    for turn in range(-WARM_UP, rounds):
        for path, session in sessions.items():
            start = perf_counter()
            session.run(None, feeds[path])
            if turn >= 0:
                times[path].append((perf_counter() - start) * 1e3)
    return {path: median(own) for path, own in times.items()}


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = threads
    # Idle threads of one session would otherwise spin while another one is being timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its error classes derive from Exception and are not public
        reason = str(error).splitlines()[0]
        raise InputError(f"ONNX Runtime cannot load {path}: {reason}") from error


def _pictures(
    path: Path, session: onnxruntime.InferenceSession, random: np.random.Generator
) -> dict[str, NDArray[np.float32]]:
    """Make a batch of noise; sides that the file leaves open come from its metadata."""
    entry = session.get_inputs()[0]
    facts = session.get_modelmeta().custom_metadata_map
    if "imgsz" not in facts and not all(isinstance(side, int) for side in entry.shape):
        raise InputError(f"{path} leaves its picture size open and has no imgsz in its metadata")
    usual = (1, 3, *ast.literal_eval(facts["imgsz"])) if "imgsz" in facts else entry.shape
    shape = [
        side if isinstance(side, int) else other
        for side, other in zip(entry.shape, usual, strict=True)
    ]
    return {entry.name: random.random(shape, dtype=np.float32)}
