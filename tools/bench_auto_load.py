r"""Cut to a part of the time while other processes want the cores; then measure what came, idle.

python tools/bench_auto_load.py --runs 5
python tools/bench_auto_load.py --runs 5 --weights best.pt --data data/mine.yaml

Each run starts busy processes, one per core, and cuts a network with an empty cache, so that all is
measured under load: with `prune global --latency`, or with --data with `prune auto` of one epoch.
Then the processes end, and the pruned network is timed in turn with the original. Without --weights
it is yolor_csp_n with fresh weights, which take as long as trained ones. The exit status is 1 where
an idle ratio is off the requested one by more than --within.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from prune import checkpoint
from prune.common.device import cores
from prune.common.size import Size
from prune.latency.form import Form
from prune.latency.plan import timed_in_turn
from prune.models.darknet import build
from prune.runtimes import other_processes
from prune.runtimes.backends import Setting
from prune.runtimes.machine import threads_of
from prune.runtimes.timing import Ratio

NETWORK = Path(__file__).resolve().parents[1] / "cfg" / "yolor_csp_n.cfg"
IMGSZ = 320
ROUNDS = 60
PATIENCE_S = 120  # for the machine to become idle
COLUMNS = ("run", "requested", "predicted", "under load", "idle (95 %)", "error", "seconds")


@dataclass(frozen=True)
class Run:
    """Ratios of a pruned network's time to its original's, and the seconds of the cut."""

    requested: float
    predicted: float
    loaded: float
    idle: Ratio
    seconds: float

    @property
    def error(self) -> float:
        """How far the idle ratio is from the requested one, relative to it."""
        return self.idle.middle / self.requested - 1


def main() -> int:
    """Cut under load, time idle, print a table."""
    args = _arguments().parse_args()
    runs = []
    with TemporaryDirectory() as folder:
        weights = args.weights or _fresh(Path(folder))
        _print(COLUMNS)
        for number in range(1, args.runs + 1):
            found = _run(args, weights, Path(folder) / str(number))
            runs.append(found)
            ratios = (f"{one:.3f}" for one in (found.requested, found.predicted, found.loaded))
            error = f"{100 * found.error:+.1f} %"
            _print((str(number), *ratios, str(found.idle), error, f"{found.seconds:.0f}"))
    good = sum(abs(run.error) <= args.within for run in runs)
    print(f"\n{good} of {len(runs)} within {100 * args.within:g} % of what was requested")
    return int(good < len(runs))


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.45, help="ratio (default 0.45)")
    parser.add_argument("--busy", type=int, default=cores(), help="processes (default: a core's)")
    parser.add_argument("--within", type=float, default=0.15, help="error allowed (default 0.15)")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--data", type=Path, help="run prune auto with this data set")
    parser.add_argument("--depth", default="6", help="residual blocks that leave (default 6)")
    parser.add_argument("--threads", type=int, default=1, help="of a run (default 1)")
    return parser


def _fresh(folder: Path) -> Path:
    torch.manual_seed(0)
    net = build(NETWORK.read_text(encoding="utf-8"))
    names = [str(number) for number in range(net.heads[0].classes)]
    path = folder / "fresh.pt"
    checkpoint.save(checkpoint.capture(net, names=names, imgsz=Size(IMGSZ, IMGSZ)), path)
    return path


def _run(args: argparse.Namespace, weights: Path, folder: Path) -> Run:
    """Cut while other processes are busy, then time the result on the idle machine."""
    folder.mkdir()
    started = time.perf_counter()
    with _busy(args.busy):
        cut, latency = (_auto if args.data else _global)(args, weights, folder)
    seconds = time.perf_counter() - started
    _wait_until_idle(threads_of(args.threads))
    nets = [checkpoint.network(checkpoint.load(path)) for path in (weights, cut)]
    setting = Setting(threads_of(args.threads), checkpoint.load(weights).imgsz)
    form = Form("onnxruntime")
    idle = timed_in_turn([(net, form) for net in nets], setting, rounds=ROUNDS)
    if idle.busy:
        print("the machine was busy when it was to be idle", file=sys.stderr)
    return Run(args.latency, latency["predicted"], latency["ratio"], idle.ratio(1), seconds)


def _global(
    args: argparse.Namespace, weights: Path, folder: Path
) -> tuple[Path, Mapping[str, float]]:
    out = folder / "cut.pt"
    words = ["global", "--weights", weights, "--latency", args.latency, "--depth", args.depth]
    found = _prune(folder, *words, "--threads", args.threads, "--out", out)
    return out, found["latency"]


def _auto(
    args: argparse.Namespace, weights: Path, folder: Path
) -> tuple[Path, Mapping[str, float]]:
    words = ["auto", "--weights", weights, "--data", args.data, "--latency", args.latency]
    words += ["--threads", args.threads, "--depth", args.depth, "--epochs", 1]
    found = _prune(folder, *words, "--project", folder, "--max-drop", 100)
    return Path(found["folder"]) / "pruned.pt", found["stages"]["cut"]["latency"]


def _prune(folder: Path, *words: object) -> dict[str, Any]:
    """Run a command with a cache of its own, and read the document that it prints."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "prune", *map(str, words), "--json"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 3):  # 3: one epoch does not hold a score
        sys.exit(f"prune {words[0]} ended with {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Keep so many processes computing, as long as this one lives."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(1000))"
    command = [sys.executable, "-c", code]
    started = [subprocess.Popen(command) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _wait_until_idle(threads: int) -> None:
    until = time.monotonic() + PATIENCE_S
    while other_processes.look().busy(threads) and time.monotonic() < until:
        time.sleep(1)


def _print(cells: tuple[str, ...]) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
    if cells == COLUMNS:
        print("|" + "--:|" * len(cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
