"""What more processes give in training: `python tools/bench_scale.py`.

Measured on this machine, a thread a process, on drawn shapes: steps of one process, of two at once
that do not know each other (they share caches and memory), of two that train together, as many
images a process everywhere; what of a step is meeting; meeting by itself; and how fast one core
loads. A step is made of the functions that training calls. Rounds go in turn, medians are printed.

A model follows: a step takes what the slowest takes apart, and then the meeting, which nothing
hides. It is checked against the two processes, and says what 8 and 64 GPUs would do, equally fast;
what it assumes is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.data.loader import Batch, TrainLoader
    from prune.train.distributed import Team
    from prune.train.run import Run

CFG = Path(__file__).resolve().parents[1] / "cfg"
WARM_UP = 3  # steps that are not counted


@dataclass(frozen=True)
class Machines:
    """What the model takes for granted of GPUs and what joins them.

    The rate and the bytes are those of yolor_csp at 640 pixels in bfloat16; its gradients are
    float32.
    """

    images_s: float = 224.0  # of one H100, alone, as tools/bench_train.py measured
    images: int = 16  # a GPU and step
    gradient_bytes: float = 212e6
    node: int = 8  # GPUs that NVLink joins
    inside_bytes_s: float = 300e9  # of NVLink
    between_bytes_s: float = 50e9  # of a GPU's own link to another node
    memory_bytes_s: float = 3e12  # of the GPU; gradients are packed and unpacked
    hop_s: float = 10e-6  # a message's delay, from one GPU to the next
    bucket_bytes: float = 25 * 2**20
    host_s: float = 50e-6  # a hop of the two small sums a step makes through the host


def ring_s(count: int, total_bytes: float, bytes_s: float) -> float:
    """Return how long a ring takes to sum so many bytes: 2 (n - 1) / n times (Patarasuk 2009)."""
    return 2 * (count - 1) / count * total_bytes / bytes_s


def predicted(gpus: int, given: Machines) -> dict[str, float]:
    """Return a step's parts in milliseconds, and the efficiency, of so many GPUs."""
    alone = given.images / given.images_s
    rate = given.inside_bytes_s if gpus <= given.node else given.between_bytes_s
    buckets = -(-given.gradient_bytes // given.bucket_bytes)
    hops = 2 * (min(gpus, given.node) + gpus // given.node - 2) if gpus > 1 else 0
    meeting = ring_s(gpus, given.gradient_bytes, rate) + buckets * hops * given.hop_s
    copies = 4 * given.gradient_bytes / given.memory_bytes_s
    host = 2 * 2 * (gpus - 1).bit_length() * given.host_s
    step = alone + meeting + copies + host if gpus > 1 else alone
    return {
        "alone_ms": 1000 * alone,
        "meeting_ms": 1000 * (step - alone),
        "pictures_s": gpus * given.images / step,
        "efficiency": alone / step,
    }


def main() -> None:
    """Measure what is at hand, check the model on it, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cfg", default="yolor_csp_n")
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=4, help="pictures a process")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, metavar="YAML", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "shapes.yaml"
        drawing = f"data shapes --out {data} --images 64 --size {args.img_size}"
        subprocess.run(
            [sys.executable, "-m", "prune", *drawing.split()], check=True, stdout=subprocess.DEVNULL
        )
        rounds = [[measured(processes, data) for processes in (1, 2)] for _ in range(args.rounds)]
    show(args, [merged(rows) for rows in zip(*rounds, strict=True)])


def measured(processes: int, data: Path) -> dict[str, list[float]]:
    """Let so many processes take the steps, and read what the first one saw."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, __file__, *sys.argv[1:], "--work", str(data)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def merged(rows: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """Return the medians over all rounds."""
    return {name: median(value for row in rows for value in row[name]) for name in rows[0]}


def show(args: argparse.Namespace, found: Sequence[dict[str, float]]) -> None:
    """Print what was measured, how well the model says it, and what it says of GPUs."""
    import torch

    one, two = found
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch "
        f"{torch.__version__}; {args.cfg} at {args.img_size}, {args.batch_size} pictures a process "
        f"and step, {args.steps} x {args.rounds} steps, medians\n"
    )
    print("| processes | step ms | of it meeting ms | pictures/s | efficiency |")
    print("|:--|--:|--:|--:|--:|")
    for name, count, step_ms, meeting_ms in (
        ("one", 1, one["step_ms"], 0.0),
        ("two, apart", 2, two["apart_ms"], 0.0),
        ("two, together", 2, two["step_ms"], two["meeting_ms"]),
    ):
        rate = 1000 * count * args.batch_size / step_ms
        print(
            f"| {name} | {step_ms:.1f} | {meeting_ms:.1f} | {rate:.1f} "
            f"| {one['step_ms'] / step_ms:.3f} |"
        )
    modelled = two["slowest_ms"] + two["alone_ms"]
    print(
        f"\ngradients {one['gradient_bytes'] / 1e6:.1f} MB; meeting by itself "
        f"{two['alone_ms']:.1f} ms; the slower of two apart {two['slowest_ms']:.1f} ms\n"
        f"model of two: {modelled:.1f} ms a step, measured {two['step_ms']:.1f} "
        f"({100 * (modelled / two['step_ms'] - 1):+.1f} %)"
    )
    print(f"loading, one core: {one['loaded_s']:.0f} pictures/s at {args.img_size}\n")
    given = Machines()
    print(given, "\n")
    print("| GPUs | alone ms | meeting ms | pictures/s | efficiency |")
    print("|--:|--:|--:|--:|--:|")
    for gpus in (1, 8, 64):
        row = predicted(gpus, given)
        print(
            f"| {gpus} | {row['alone_ms']:.1f} | {row['meeting_ms']:.1f} "
            f"| {row['pictures_s']:.0f} | {row['efficiency']:.3f} |"
        )


def work(args: argparse.Namespace) -> None:
    """Take steps as one of the processes; the first one prints what they took."""
    from prune.train import distributed as teams
    from prune.train.distributed import Team

    with teams.join() as team:
        run, batches = started(args, team)
        batch = next(iter(batches))
        team.wait()
        found = {"apart_ms": steps(replace(run, team=Team()), batch, args.steps)["step_ms"]}
        pairs = zip(*team.gather(found["apart_ms"]), strict=True)
        found["slowest_ms"] = [max(pair) for pair in pairs]
        found |= steps(run, batch, args.steps)
        found["alone_ms"] = meeting_alone(run, args.steps)
        found["gradient_bytes"] = [sum(p.nbytes for p in run.net.parameters())]
        found["loaded_s"] = [loading(batches)]
        if team.is_main:
            print(json.dumps(found))


def started(args: argparse.Namespace, team: Team) -> tuple[Run, TrainLoader]:
    """Start a run from nothing whose processes see so many images each."""
    import torch

    from prune.common import hyperparameters
    from prune.common.size import Size
    from prune.data import spec
    from prune.data.loader import train_loader
    from prune.train import initial_weights
    from prune.train.run import start
    from prune.train.settings import Settings

    data = spec.load(args.work, splits=("train",))
    batch = args.batch_size * team.size
    settings = Settings(
        epochs=100, imgsz=Size.of(args.img_size), batch_size=batch, nominal_batch=batch, eager=True
    )
    batches = train_loader(
        data,
        imgsz=args.img_size,
        batch_size=batch,
        hyp=hyperparameters.SCRATCH,
        workers=0,
        part=team.part,
    )
    net = initial_weights.build_fresh(CFG / f"{args.cfg}.cfg", names=data.names, seed=0).net
    device = torch.device("cpu")
    run = start(
        net, len(batches), settings=settings, hyp=hyperparameters.SCRATCH, device=device, team=team
    )
    return run, batches


def steps(run: Run, batch: Batch, count: int) -> dict[str, list[float]]:
    """Step on one batch again and again by what training steps by; all times in milliseconds."""
    from prune.train.distributed import all_reduce, any_requested, sum_losses
    from prune.train.loop import descend, update
    from prune.train.run import training_mode
    from prune.train.stopping import never

    whole: list[float] = []
    meeting: list[float] = []
    training_mode(run.net)
    for index in range(WARM_UP + count):
        began = time.perf_counter()
        images = len(batch.images) * run.team.size
        items = descend(run, batch, position=index, whole=images)
        between = time.perf_counter()
        all_reduce(run, fraction=1 / run.team.size)
        meeting.append(1000 * (time.perf_counter() - between))
        update(run, run.schedule.at(index), done=0.5)
        any_requested(run.team, never)
        sum_losses([(items, batch.paths)], run.team)
        whole.append(1000 * (time.perf_counter() - began))
    return {"step_ms": whole[WARM_UP:], "meeting_ms": meeting[WARM_UP:]}


def meeting_alone(run: Run, count: int) -> list[float]:
    """Return how long a meeting takes where nobody comes late, milliseconds."""
    from prune.train.distributed import all_reduce

    took = []
    for _ in range(WARM_UP + count):
        run.team.wait()
        before = time.perf_counter()
        all_reduce(run, fraction=1 / run.team.size)
        took.append(1000 * (time.perf_counter() - before))
    return took[WARM_UP:]


def loading(batches: TrainLoader) -> float:
    """Return how many images a second this process loads and augments."""
    batches.set_epoch(1)
    before = time.perf_counter()
    images = sum(len(batch.images) for batch in batches)
    return images / (time.perf_counter() - before)


if __name__ == "__main__":
    main()
