"""What the benches of accuracy share: a training, a score or a cut is made once and kept.

Every result is a small file under the bench's folder, so that a bench that stops goes on where it
was. Commands run as their user types them, each a process of its own.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from threading import Lock

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from prune import checkpoint
from prune.common.files import write_text
from prune.core.cost.macs import count


@dataclass(frozen=True)
class Bench:
    """Where everything lies, and what it is measured with.

    `workers` load images for each of `jobs` processes at once; `device` is theirs. All trainings
    follow the file `hyp`, if there is one, in what it says.
    """

    data: Path
    out: Path
    imgsz: int
    seeds: int
    jobs: int
    batch: int = 8
    workers: int = 0
    device: str = ""
    hyp: Path | None = None

    def __post_init__(self) -> None:
        for folder in ("results", "weights", "plans"):
            (self.out / folder).mkdir(parents=True, exist_ok=True)

    def result(self, name: str) -> Path:
        """Name the file of a result."""
        return self.out / "results" / f"{name}.json"

    def weights(self, name: str) -> Path:
        """Name a checkpoint."""
        return self.out / "weights" / f"{name}.pt"


_MAKING: defaultdict[Path, Lock] = defaultdict(Lock)


def done(bench: Bench, name: str, make: Callable[[], Mapping[str, object]]) -> dict[str, float]:
    """Return a result, made now if it is not there; who asks while it is made waits."""
    path = bench.result(name)
    with _MAKING[path]:
        if not path.is_file():
            print(f"bench: {name}", file=sys.stderr, flush=True)
            write_text(path, json.dumps(make(), indent=1))
    return read(bench, name)


def read(bench: Bench, name: str) -> dict[str, float]:
    """Read a result; empty where there is none."""
    path = bench.result(name)
    found: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def together(bench: Bench, works: Iterable[Callable[[], object]]) -> None:
    """Do works, so many at once; each waits for processes of its own.

    Raises:
        SystemExit: some failed; the others were done first.
    """
    with ThreadPoolExecutor(bench.jobs) as pool:
        futures = [pool.submit(work) for work in works]
    failed = [error for future in futures if (error := future.exception()) is not None]
    for error in failed:
        print(error, file=sys.stderr, flush=True)
    if failed:
        raise SystemExit(f"bench: {len(failed)} of {len(futures)} failed")


def trained(
    bench: Bench, name: str, start: Sequence[object], *words: object, epochs: int, seed: int = 0
) -> dict[str, object]:
    """Train, going on with a run that was broken off; score its best weights.

    Args:
        bench: the bench.
        name: of the run, and of its weights.
        start: what is trained, e.g. ("--cfg", path).
        words: more options of `prune train`.
        epochs: of the run.
        seed: likewise.
    """
    folder = bench.out / "runs" / name
    last, best = (folder / "weights" / f"{file}.pt" for file in ("last", "best"))
    said = [*start, *words, "--data", bench.data, "--img-size", bench.imgsz]
    said += ["--epochs", epochs, "--seed", seed, "--device", bench.device]
    # Few images and few epochs need many steps; all networks are trained alike.
    said += ["--batch-size", bench.batch, "--nominal-batch", bench.batch]
    said += ["--hyp", bench.hyp] if bench.hyp else []
    said += ["--cache", "ram", "--val-every", 5, "--bf16", "--workers", bench.workers]
    said += ["--project", folder.parent, "--name", name, "--exist-ok", "--no-plots"]
    if last.is_file() and checkpoint.load(last).training:
        said = ["--resume", last]
    if not last.is_file() or said[0] == "--resume":
        prune(bench, "train", *said)
    checkpoint.save(checkpoint.load(best), bench.weights(name))
    with (folder / "results.csv").open() as rows:
        seconds = sum(float(row["seconds"]) for row in csv.DictReader(rows))
    return {**scored(bench, best), "seconds": seconds}


def scored(bench: Bench, weights: Path) -> dict[str, object]:
    """Score a checkpoint on both splits that it was not trained on, and count its cost."""
    found: dict[str, object] = dict(cost(bench, weights))
    for split in ("val", "test"):
        words = ["--weights", weights, "--data", bench.data, "--img-size", bench.imgsz]
        words += ["--split", split, "--no-plots", "--workers", 0, "--device", bench.device]
        figures = json.loads(prune(bench, "val", *words, "--json"))
        found |= {f"{split}_map50": figures["map50"], f"{split}_map": figures["map"]}
    return found


def cost(bench: Bench, weights: Path) -> dict[str, int]:
    """Count what a checkpoint's network costs."""
    net = checkpoint.network(checkpoint.load(weights))
    found = count(net, (1, 3, bench.imgsz, bench.imgsz))
    return {"macs": found.macs, "params": found.params}


def prune(bench: Bench, *words: object) -> str:
    """Run a command as its user types it, on its share of the cores; return what it prints."""
    threads = max(1, (os.cpu_count() or 1) // bench.jobs)
    command = [sys.executable, "-m", "prune", *map(str, words)]
    ran = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        said = "\n".join(ran.stderr.splitlines()[-5:])
        raise SystemExit(f"bench: {' '.join(command)} ended with {ran.returncode}: {said}")
    return ran.stdout


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Write mean and spread: the standard deviation over seeds, and how many there were."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else ""
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f} ({len(values)})"
