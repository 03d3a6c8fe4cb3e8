"""Time `prune layers` against the way it was done before: `python tools/bench_prune.py`.

The old way is written here from its description, on the same network: load the module, trace it
with a real forward pass at 640 pixels, prune one convolution after another with torch-pruning,
pickle the module. It proves nothing and writes no cfg. Both run as whole processes, in turn; the
medians of wall seconds and of peak memory are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

CFG = Path(__file__).resolve().parents[1] / "cfg" / "yolor_csp.cfg"
UPTO, AMOUNT, SIZE = 60, 0.5, 640


def main() -> None:
    """Make the network, run both ways in turn, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--old", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.old:
        old_way(args.old)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), args.rounds)


def compare(folder: Path, rounds: int) -> None:
    """Time both ways `rounds` times each, after one round that is not counted."""
    weights = make(folder)
    cut = f"layers --weights {weights} --upto {UPTO} --amount {AMOUNT} --out {folder / 'cut.pt'}"
    commands = {
        "prune layers, proof included": [sys.executable, "-m", "prune", *cut.split()],
        "one after another, traced at 640": [sys.executable, __file__, "--old", str(weights)],
    }
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            figures = measured(command)
            if turn:
                runs[name].append(figures)
    print(f"{platform.processor() or platform.machine()}, {rounds} rounds in turn, medians")
    for name, rows in runs.items():
        seconds, kilobytes = (median(column) for column in zip(*rows, strict=True))
        print(f"{name:34}{seconds:7.2f} s {kilobytes / 1e6:7.2f} GB peak")


def make(folder: Path) -> Path:
    """Write a fresh YOLOR-CSP of one class as a checkpoint."""
    from prune import checkpoint
    from prune.models import darknet, sections

    parsed = sections.with_classes(sections.parse(CFG.read_text()), 1)
    net = darknet.Darknet(parsed)
    path = folder / "whole_model.pt"
    checkpoint.save(checkpoint.capture(net, names=["thing"], imgsz=SIZE), path)
    return path


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
