"""What a training step costs beside the plain loop: `python tools/bench_train.py --data D`.

- The plain loop is what a PyTorch user writes first: NCHW float32, images decoded from disk and
  joined as floats by the same number of workers, `loss.item()` every step, an average kept in
  Python, parameter by parameter. Network, batch, augmentation and loss are ours.
- Our rows take the functions that `prune train` takes, with `--cache ram`.
- Scoring a split in batches stands beside scoring it one image at a time, read from disk.

Every row lives in a process of its own, so that its peak memory is its own; all are set up at once,
then take turns, block after block. Losses of one batch and scores must agree before anything
counts. A step on a GPU is a fifth of five that are waited for together. Peak memory is a process's
resident set, or what it reserved on the GPU; loader processes are not in it.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from prune.data.spec import DataSpec
    from prune.data.store import Images
    from prune.evaluate.metrics import Metrics
    from prune.train.run import Run

CFG = Path(__file__).resolve().parents[1] / "cfg" / "yolor_csp_n.cfg"
BLOCKS = 3
PROFILED = 20  # steps whose kernels are added up
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2, "float16": 3e-2}
SCORE_TOLERANCE = 1e-2  # mAP: a batch's images are padded otherwise than one alone


def main() -> None:
    """Measure what is asked for in turn, print a table, write JSON."""
    args = arguments()
    if args.row:
        serve(args)
        return
    names = args.rows or rows(args)
    print(f"{platform.processor() or platform.machine()}, {Path(args.cfg).stem}, ", end="")
    print(f"{args.img_size} px, batch {args.batch_size}, {args.workers} workers", flush=True)
    workers = {name: Worker(name) for name in names}
    try:
        figures = measure(workers, args)
    finally:
        for worker in workers.values():
            worker.end()
    show(figures)
    args.out.write_text(json.dumps(figures, indent=1))
    print(f"\nfigures in {args.out}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cfg", type=Path, default=CFG)
    parser.add_argument("--weights", type=Path, help="a trained network to score with, for NMS")
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="counted steps a row, at least 20")
    parser.add_argument("--workers", type=int, default=2, help="loader processes of every row")
    parser.add_argument("--device", default="")
    parser.add_argument("--compile", action="store_true", help="also ours with torch.compile")
    parser.add_argument("--rows", nargs="+", choices=[*ROWS, "scoring"])
    parser.add_argument("--out", type=Path, default=Path("bench_train.json"))
    parser.add_argument("--row", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.steps < 20:
        parser.error("--steps must be 20 or more, or a median says little")
    return args


@dataclass(frozen=True)
class Way:
    """How a row trains: `precision` of the convolutions, and what is asked for beside it."""

    precision: str = "float32"
    sparsity: str = ""
    plain: bool = False
    eager: bool = False
    compiled: bool = False
    gpu_only: bool = False


ROWS: dict[str, Way] = {
    "plain loop": Way(plain=True),
    "ours, float32": Way(),
    "ours, bfloat16": Way("bfloat16"),
    "ours, bfloat16, --sparsity group": Way("bfloat16", sparsity="group"),
    "ours, bfloat16, eager": Way("bfloat16", eager=True, gpu_only=True),
    "ours, float32, compiled": Way(compiled=True, eager=True),
    "ours, bfloat16, compiled": Way("bfloat16", compiled=True, gpu_only=True),
}


def rows(args: argparse.Namespace) -> list[str]:
    """Choose what suits the device."""
    found = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"],
        capture_output=True,
        text=True,
        check=True,
    )
    gpu = args.device != "cpu" and "True" in found.stdout
    suited = [
        name
        for name, way in ROWS.items()
        if (gpu or not way.gpu_only) and (args.compile or not way.compiled)
    ]
    return [*suited, "scoring"]


class Worker:
    """A row's process; it answers each line of orders with a line of JSON."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, __file__, *sys.argv[1:], "--row", name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, order: str) -> dict[str, Any]:
        """Give an order and wait for the answer."""
        orders, answers = self.process.stdin, self.process.stdout
        assert orders is not None and answers is not None
        orders.write(order + "\n")
        orders.flush()
        line = answers.readline()
        if not line:
            raise SystemExit(f"the process of {self.name!r} ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """Let the process go."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def measure(workers: dict[str, Worker], args: argparse.Namespace) -> dict[str, Any]:
    """Check that rows agree, give each its blocks in turn, and put the figures together."""
    losses = {}
    for name, worker in workers.items():
        if name in ROWS:
            losses[name] = worker.ask("first")["loss"]
    agree(losses)
    found: dict[str, Any] = {name: {"ms": [], "waited": 0.0, "took": 0.0} for name in workers}
    for block in range(BLOCKS):
        for name, worker in workers.items():
            answer = worker.ask(f"block {-(-args.steps // BLOCKS)}")
            if name == "scoring":
                found[name].setdefault("blocks", []).append(answer)
                print(f"  block {block + 1}, {name}: {answer}", flush=True)
                continue
            found[name]["ms"] += answer["ms"]
            found[name]["waited"] += answer["waited"]
            found[name]["took"] += answer["took"]
            print(f"  block {block + 1}, {name}: {median(answer['ms']):.2f} ms", flush=True)
    for name, worker in workers.items():
        found[name] |= worker.ask("figures")
        if name in ROWS:
            ms = median(found[name]["ms"])
            found[name] |= {"loss": losses[name], "median_ms": ms}
            found[name] |= {"pictures_s": 1000 * args.batch_size / ms}
    return found


def agree(losses: dict[str, float]) -> None:
    """Stop where a row does not compute what the first one does."""
    first = next(iter(losses.values()), 0.0)
    for name, loss in losses.items():
        tolerance = LOSS_TOLERANCE[ROWS[name].precision]
        if not abs(loss - first) <= tolerance * abs(first):
            raise SystemExit(f"{name}: loss {loss} on the first batch, not {first}")


def show(figures: dict[str, Any]) -> None:
    """Print the tables as Markdown."""
    trained = {name: row for name, row in figures.items() if name in ROWS}
    if trained:
        first = next(iter(trained.values()))
        print(f"\n{first['device']}, torch {first['torch']}\n")
        print("| | pictures/s | ratio | ms a step | waiting for data | GPU busy | peak GB |")
        print("|---|---|---|---|---|---|---|")
    for name, row in trained.items():
        busy = row.get("kernel_ms")
        share = f"{100 * busy / row['median_ms']:.0f} %" if busy else "-"
        print(
            f"| {name} | {row['pictures_s']:.1f} | {row['pictures_s'] / first['pictures_s']:.2f} "
            f"| {row['median_ms']:.2f} | {100 * row['waited'] / row['took']:.1f} % | {share} "
            f"| {row['peak_gb']:.2f} |"
        )
    if "scoring" in figures:
        blocks = figures["scoring"]["blocks"]
        one, ours = (median(block[way] for block in blocks) for way in ("one by one", "batches"))
        print(f"\nscoring: {one:.1f} pictures/s one by one, {ours:.1f} in batches", end="")
        print(f" ({ours / one:.2f} x)")


def serve(args: argparse.Namespace) -> None:
    """Be a row: set up, then do what each line of the standard input asks for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not stand among the answers
    from prune.cli import settle

    if args.row == "scoring" or not ROWS[args.row].plain:
        settle()  # as commands are
    import torch

    from prune.common import device
    from prune.data import spec

    where, data = device.choose(args.device), spec.load(args.data, splits=("train", "val"))
    torch.set_flush_denormal(True)
    answer = scoring(args, data, where) if args.row == "scoring" else training(args, data, where)
    for line in sys.stdin:
        order, _, count = line.partition(" ")
        print(json.dumps(answer(order.strip(), int(count or 0))), file=answers, flush=True)


Answer = Callable[[str, int], dict[str, Any]]


@dataclass(frozen=True)
class Trial:
    """A row's own: its first batch, those to come, and a step that returns the loss a image."""

    first: Any
    coming: Iterator[Any]
    step: Callable[[Any], Tensor]


def training(args: argparse.Namespace, data: DataSpec, where: torch.device) -> Answer:
    """Set a way of training up."""
    import torch

    from prune.common import hyperparameters
    from prune.common.size import Size
    from prune.data import loader
    from prune.train import initial_weights
    from prune.train.run import start
    from prune.train.settings import Settings
    from prune.train.sparsity import EVERY, Sparsity

    way = ROWS[args.row]
    net = initial_weights.build_fresh(args.cfg, names=data.names, seed=0).net
    load = partial(
        loader.train_loader,
        data,
        imgsz=args.img_size,
        batch_size=args.batch_size,
        stride=net.stride,
        hyp=hyperparameters.SCRATCH,
    )
    first = next(iter(load(workers=0)))
    settings = Settings(
        epochs=1000,
        imgsz=Size.of(args.img_size),
        batch_size=args.batch_size,
        nominal_batch=args.batch_size,  # an update a step, in every row
        precision=way.precision,
        eager=way.eager,
        compiled=way.compiled,
        sparsity=Sparsity(way.sparsity, 1e-4) if way.sparsity else None,
    )
    if way.plain:
        trial = plain(args, data, first=first, net=net.to(where), device=where)
    else:
        cached = load(workers=args.workers, cache="ram")
        run = start(net, len(cached), settings=settings, hyp=hyperparameters.SCRATCH, device=where)
        trial = ours(run, cached, first)
    gpu = where.type == "cuda"
    together = EVERY if gpu or way.sparsity else 1  # a penalty is added at one of so many steps

    def answer(order: str, count: int) -> dict[str, Any]:
        if order == "first":
            loss = float(trial.step(trial.first))
            stretch(trial, 2, together=1)  # warms up
            return {"loss": loss}
        if order == "block":
            # Workers loaded ahead while others had their turn: on a GPU that is not waited for.
            stretch(trial, 2 * args.workers + 5 if gpu else 1, together=together)
            return stretch(trial, together * max(count, 10 if gpu else 0), together=together)
        figures = {"torch": torch.__version__, **machine(where), "peak_gb": peak(where)}
        return figures | ({"kernel_ms": kernels(trial)} if gpu else {})

    return answer


def stretch(trial: Trial, count: int, *, together: int) -> dict[str, Any]:
    """Take steps; return milliseconds of each, seconds that data kept them waiting, seconds."""
    began = last = time.perf_counter()
    waited, ms = 0.0, []
    losses = []
    for index in range(1, count + 1):
        before = time.perf_counter()
        batch = next(trial.coming)
        waited += time.perf_counter() - before
        losses.append(trial.step(batch))
        if index % together == 0:
            assert all(loss.isfinite() for loss in losses)  # waits for a GPU, as training does
            losses.clear()
            now = time.perf_counter()
            ms.append(1000 * (now - last) / together)
            last = now
    return {"ms": ms, "waited": waited, "took": time.perf_counter() - began}


def ours(run: Run, batches: Any, first: Any) -> Trial:
    """Train as `prune train` does."""
    import torch

    from prune.train.loop import descend, update

    run.net.train()
    torch.backends.cudnn.benchmark = True
    position = [0]

    def step(batch: Any) -> Tensor:
        items = descend(run, batch, position=position[0])
        update(run, run.schedule.at(position[0]), done=0.5)
        position[0] += 1
        return items[3]

    def coming() -> Iterator[Any]:
        epoch = 0
        while True:
            batches.set_epoch(epoch)
            yield from whole(batches, run.settings.batch_size)
            epoch += 1

    return Trial(first, coming(), step)


def whole(batches: Iterable[Any], size: int) -> Iterator[Any]:
    """Leave an epoch's last batch out where it is smaller."""
    return (batch for batch in batches if len(batch.images) == size)


def plain(
    args: argparse.Namespace, data: DataSpec, *, first: Any, net: Any, device: torch.device
) -> Trial:
    """Train as the shortest correct loop does."""
    import torch
    from torch.utils.data import DataLoader

    from prune.common import hyperparameters
    from prune.models.loss import detection_loss

    net.train()
    average = copy.deepcopy(net)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=1e-3, momentum=0.937, nesterov=True, weight_decay=5e-4
    )

    def step(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = batch[0].to(device), batch[1].to(device)
        loss, items = detection_loss(net(images), net.heads, targets, hyp=hyperparameters.SCRATCH)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
        with torch.no_grad():
            current = net.state_dict()
            for name, value in average.state_dict().items():
                if value.dtype.is_floating_point:
                    value.mul_(0.999).add_(current[name], alpha=0.001)
        items[3].item()
        return items[3]

    loading: DataLoader[Any] = DataLoader(
        decoded(data, args.img_size),
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
        collate_fn=joined,
        pin_memory=device.type == "cuda",
    )

    def coming() -> Iterator[Any]:
        while True:
            yield from loading

    return Trial((first.images.float() / 255, first.targets), coming(), step)


@dataclass(frozen=True)
class Decoded:
    """A plain data set: read from disk, augment, one float image and its boxes at a time."""

    images: Images

    def __len__(self) -> int:
        return len(self.images.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        import torch

        from prune.common import hyperparameters
        from prune.data.batch import assemble, generator
        from prune.data.samples import training_sample

        drawn = generator(int(torch.randint(2**31, ())), 0, index)
        sample = training_sample(self.images, index, hyp=hyperparameters.SCRATCH, rng=drawn)
        batch = assemble([sample], paths=[])
        return batch.images[0].float() / 255, batch.targets


def decoded(data: DataSpec, imgsz: int) -> Any:
    """Open the training images plainly."""
    from prune.data.store import gather
    from prune.data.truth import read_truth

    paths = data.images("train")
    return Decoded(gather(paths, read_truth(paths, data.form).boxes, imgsz=imgsz, cache=None))


def joined(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join samples into a batch: images [N, 3, H, W], boxes [M, 6]."""
    import torch

    images, targets = zip(*samples, strict=True)
    for number, boxes in enumerate(targets):
        boxes[:, 0] = number
    return torch.stack(images), torch.cat(targets)


def scoring(args: argparse.Namespace, data: DataSpec, where: torch.device) -> Answer:
    """Set scoring up: in batches as a run does, and one image at a time."""
    import torch

    from prune import checkpoint
    from prune.data.loader import evaluation_loader
    from prune.evaluate.collect import evaluate_network
    from prune.train import initial_weights

    if args.weights:
        net = checkpoint.network(checkpoint.load(args.weights)).to(where)
    else:
        net = initial_weights.build_fresh(args.cfg, names=data.names, seed=0).net.to(where)
    laid = copy.deepcopy(net).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it misses this overload
    load = partial(evaluation_loader, data, split="val", imgsz=args.img_size, stride=net.stride)
    batches = load(batch_size=args.batch_size, workers=args.workers, cache="ram")
    one = load(batch_size=1, workers=0)
    ways: dict[str, Callable[[], Metrics]] = {
        "one by one": lambda: plainly(net, one, data.names, device=where),
        "batches": lambda: evaluate_network(
            laid, batches, data.names, device=where, precision=torch.bfloat16
        ),
    }
    scores = {name: way() for name, way in ways.items()}  # warms up, too
    first, second = scores.values()
    if abs(first.map - second.map) > SCORE_TOLERANCE:
        raise SystemExit(f"scores differ: {first.map} one by one, {second.map} in batches")

    def answer(order: str, _: int) -> dict[str, Any]:
        if order == "figures":
            return {"peak_gb": peak(where)}
        rates = {}
        for name, way in ways.items():
            began = time.perf_counter()
            rates[name] = way().images / (time.perf_counter() - began)
        return rates

    return answer


def plainly(net: Any, pictures: Any, names: Any, *, device: torch.device) -> Metrics:
    """Score as the shortest correct loop does, the network as it was trained."""
    from prune.common.eval_mode import evaluating
    from prune.evaluate.collect import collect

    with evaluating(net):
        found = collect(lambda images: net.decode(net(images)), pictures, len(names), device=device)
    return found.metrics(names)


def machine(where: torch.device) -> dict[str, Any]:
    """Name what computes."""
    import torch

    gpu = where.type == "cuda"
    return {"device": torch.cuda.get_device_name(where) if gpu else f"{os.cpu_count()} CPU cores"}


def peak(where: torch.device) -> float:
    """Return this process's peak memory in GB."""
    import torch

    if where.type == "cuda":
        return torch.cuda.max_memory_reserved(where) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def kernels(trial: Trial) -> float:
    """Return how long a GPU works in a step, ms: kernels and copies, where they overlap once.

    The profiler slows the host down, not the kernels; idle is what a step takes beside them.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        for _ in range(PROFILED):
            trial.step(next(trial.coming))
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        found.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    kinds = ("kernel", "gpu_memcpy", "gpu_memset")
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in kinds)
    busy, end = 0.0, 0.0
    for low, high in spans:
        busy += max(0.0, high - max(low, end))
        end = max(end, high)
    return busy / 1000 / PROFILED


if __name__ == "__main__":
    main()
