"""What INT8 is worth by runtime and activation: networks of shipped cfgs, float beside INT8.

python tools/bench_int8.py --cfg yolor_csp_n yolor_csp_s yolor_csp

Weights are fresh and ranges come from noise, since only the clock is looked at. Every network is
timed with its own activation and with ReLU, in float and in INT8 as `prune quantize` makes it
for the runtime, all in turn.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

from prune.bench.rows import MeasuredPair, Pair, measure
from prune.latency.form import Form
from prune.quantize.parts import OPERATORS
from prune.runtimes.file_inputs import settle
from prune.runtimes.machine import machine, threads_of
from prune.train.initial_weights import build_fresh

CFG = Path(__file__).resolve().parents[1] / "cfg"
NAMES = ("one", "two", "three")  # classes


def main() -> None:
    """Print a row a network, activation and runtime."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cfg", nargs="+", default=["yolor_csp_n", "yolor_csp_s", "yolor_csp"])
    parser.add_argument("--activation", nargs="+", default=["own", "relu"])
    parser.add_argument("--runtime", nargs="+", default=list(OPERATORS), choices=list(OPERATORS))
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--threads", type=int, default=0, help="of a run (0: one a core)")
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    here, threads = machine(args.runtime), threads_of(args.threads)
    print(f"{here.cpu}, {threads} threads, load {here.load}, {args.img_size} px\n")
    print("| network | activation | runtime | float, ms | INT8, ms | times as fast (95 %) |")
    print("|:--|:--|:--|--:|--:|--:|")
    for cfg in args.cfg:
        for activation in args.activation:
            for runtime, (plain, int8) in rows(cfg, activation, args, threads=threads):
                ratio = int8.ratio_to_first
                print(
                    f"| {cfg} | {activation} | {runtime}, {plain.precision} "
                    f"| {plain.spread.median:.2f} | {int8.spread.median:.2f} "
                    f"| {1 / ratio.middle:.2f} ({1 / ratio.high:.2f} to {1 / ratio.low:.2f}) |",
                    flush=True,
                )


def rows(
    cfg: str, activation: str, args: argparse.Namespace, *, threads: int
) -> Iterator[tuple[str, tuple[MeasuredPair, ...]]]:
    """Time a network in float and in INT8, in every runtime."""
    net = build_fresh(CFG / f"{cfg}.cfg", names=NAMES, seed=0).net
    size = (args.img_size, args.img_size)
    with tempfile.TemporaryDirectory() as folder:
        for runtime in args.runtime:
            pairs = []
            for int8 in (False, True):
                form = Form(runtime, "" if activation == "own" else activation, int8)
                path = form.write(form.network(net), Path(folder) / f"{int8}.onnx", imgsz=size)
                pairs.append(Pair(path, runtime, path, settle(path, threads=threads)))
            yield runtime, measure(pairs, rounds=args.rounds).rows


if __name__ == "__main__":
    main()
