"""What pruning costs beside its floor and its peer: `python tools/bench_prune.py`.

- `prune layers` beside the way it was done before, written here from its description, on the same
  network: load the module, trace it with a real forward pass at 640 pixels, prune one convolution
  after another with torch-pruning, pickle the module. It proves nothing and writes no cfg.
- `prune global --macs 0.5`, on yolor_csp and on yolov4_p7, beside a process that imports torch,
  reads the file and writes it again.
- Finding the coupled groups, and scores by gradients beside plain forward and backward passes.

Commands run as whole processes, in turn; medians of wall seconds and of peak memory are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.models.darknet import Darknet

CFG = Path(__file__).resolve().parents[1] / "cfg"
UPTO, AMOUNT, SIZE = 60, 0.5, 640


def main() -> None:
    """Make the networks, run what is asked for in turn, print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=BENCHES, nargs="+", default=list(BENCHES))
    parser.add_argument("--old", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--copy", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--make", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.old:
        old_way(args.old)
        return
    if args.copy:
        copy(args.copy)
        return
    if args.make:
        write(args.make)
        return
    print(f"{platform.processor() or platform.machine()}, {args.rounds} rounds in turn, medians")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only:
            BENCHES[name](Path(folder), args.rounds)


def layers(folder: Path, rounds: int) -> None:
    """Time `prune layers` and the old way."""
    weights = make(folder, "yolor_csp")
    cut = f"layers --weights {weights} --upto {UPTO} --amount {AMOUNT} --out {folder / 'cut.pt'}"
    commands = {
        "prune layers, proof included": [sys.executable, "-m", "prune", *cut.split()],
        "one after another, traced at 640": [sys.executable, __file__, "--old", str(weights)],
    }
    show(in_turn(commands, rounds))


def whole(folder: Path, rounds: int) -> None:
    """Time `prune global` and reading and writing alone, on two sizes of network."""
    commands = {}
    for name in ("yolor_csp", "yolov4_p7"):
        weights = make(folder, name)
        cut = f"global --weights {weights} --macs 0.5 --criterion l1 --out {folder / 'cut.pt'}"
        commands[f"prune global, {name}"] = [sys.executable, "-m", "prune", *cut.split()]
        commands[f"read and write, {name}"] = [sys.executable, __file__, "--copy", str(weights)]
    show(in_turn(commands, rounds))


def scores(folder: Path, rounds: int) -> None:
    """Time the trace of yolor_csp, and gradients of yolor_csp_n beside plain passes."""
    import torch

    from prune.core.importance.statistics import gather
    from prune.core.trace.groups import trace

    net = network("yolor_csp")
    pictures = [(torch.rand(8, 3, 320, 320), None) for _ in range(8)]
    small: Darknet = network("yolor_csp_n")

    def loss(maps: object, _: object) -> torch.Tensor:
        assert isinstance(maps, tuple)
        return torch.stack([m.square().mean() for m in maps]).sum()

    def plain() -> None:
        for images, _ in pictures:
            torch.autograd.grad(loss(small(images), None), list(small.parameters()))

    works: dict[str, Callable[[], object]] = {
        "trace of yolor_csp": lambda: trace(
            net, net.small_image, protected=net.head_convolutions()
        ),
        "forward and backward, 64 pictures": plain,
        "change (taylor), 64 pictures": lambda: gather(small, pictures, loss, what="change"),
        "gate (fisher), 64 pictures": lambda: gather(small, pictures, loss, what="gate"),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            before = time.perf_counter()
            work()
            if turn:
                times[name].append(time.perf_counter() - before)
    for name, seconds in times.items():
        print(f"{name:34}{median(seconds):7.2f} s")


BENCHES: dict[str, Callable[[Path, int], None]] = {
    "layers": layers,
    "global": whole,
    "scores": scores,
}


def in_turn(commands: dict[str, list[str]], rounds: int) -> dict[str, list[tuple[float, int]]]:
    """Run every command `rounds` times in turn, after one round that is not counted."""
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            figures = measured(command)
            if turn:
                runs[name].append(figures)
    return runs


def show(runs: dict[str, list[tuple[float, int]]]) -> None:
    """Print the medians."""
    for name, rows in runs.items():
        seconds, kilobytes = (median(column) for column in zip(*rows, strict=True))
        print(f"{name:34}{seconds:7.2f} s {kilobytes / 1e6:7.2f} GB peak")


def network(name: str) -> Darknet:
    """Build a published network of one class with fresh weights."""
    from prune.models import darknet, sections

    parsed = sections.with_classes(sections.parse((CFG / f"{name}.cfg").read_text()), 1)
    return darknet.Darknet(parsed).eval()


def make(folder: Path, name: str) -> Path:
    """Have such a network written as a checkpoint, by a process of its own.

    What this process ever held would count as every later child's peak: they begin as its copy.
    """
    path = folder / f"{name}.pt"
    subprocess.run([sys.executable, __file__, "--make", str(path)], check=True)
    return path


def write(path: Path) -> None:
    """Write the network that a checkpoint is called after."""
    from prune import checkpoint

    net = network(path.stem)
    checkpoint.save(checkpoint.capture(net, names=["thing"], imgsz=SIZE), path)


def copy(weights: Path) -> None:
    """Read a checkpoint and write it again: what no command can do without."""
    import torch

    found = torch.load(weights, weights_only=True)
    torch.save(found, weights.with_name("copy.pt"))


def old_way(weights: Path) -> None:
    """Prune as the scripts did: every layer of the range by itself, on a graph traced for real."""
    import torch
    import torch_pruning as tp

    from prune import checkpoint

    net = checkpoint.network(checkpoint.load(weights))
    implicit = [(p, 1) for name, p in net.named_parameters() if name.endswith("implicit")]
    graph = tp.DependencyGraph().build_dependency(
        net, example_inputs=torch.rand(1, 3, SIZE, SIZE), unwrapped_parameters=implicit
    )
    for index in range(UPTO + 1):
        convolution = getattr(net.module_list[index], "Conv2d", None)
        if convolution is None:
            continue
        scores = convolution.weight.detach().abs().sum(dim=(1, 2, 3))
        lowest = torch.argsort(scores)[: int(AMOUNT * len(scores))].tolist()
        graph.get_pruning_group(convolution, tp.prune_conv_out_channels, lowest).prune()
    torch.save(net, weights.with_name("old.pt"))


def measured(command: list[str]) -> tuple[float, int]:
    """Run a command; return its wall seconds and its peak memory in kilobytes."""
    before = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # the system's own account of this one child
    if status:
        raise SystemExit(f"{command} ended with status {status}")
    return time.perf_counter() - before, usage.ru_maxrss


if __name__ == "__main__":
    main()
