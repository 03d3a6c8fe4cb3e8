"""What INT8 is worth by runtime and activation: networks of shipped cfgs, float beside INT8.

python tools/bench_int8.py --data data/bccd.yaml --cfg yolor_csp_n yolor_csp_s yolor_csp

Weights are fresh, since only the clock is looked at: ranges come from eight pictures. Every network
is timed with its own activation and with ReLU, in float and in INT8 as `prune quantize` makes it
for the runtime, all in turn.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx

from prune.bench.files import settle
from prune.bench.machine import machine, threads_of
from prune.bench.rows import Pair, Row, measure
from prune.data import spec
from prune.data.spec import DataSpec
from prune.export.onnx import export
from prune.quantize.parts import OPERATORS
from prune.quantize.run import Wish, maker
from prune.quantize.subject import FEWEST, open_subject
from prune.train.source import activated, fresh

CFG = Path(__file__).resolve().parents[1] / "cfg"


def main() -> None:
    """Print a row a network, activation and runtime."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
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
    data = spec.load(args.data, splits=("train",))
    for cfg in args.cfg:
        for activation in args.activation:
            for runtime, (plain, int8) in rows(cfg, activation, data, args, threads=threads):
                ratio = int8.ratio_to_first
                print(
                    f"| {cfg} | {activation} | {runtime}, {plain.precision} "
                    f"| {plain.spread.median:.2f} | {int8.spread.median:.2f} "
                    f"| {1 / ratio.middle:.2f} ({1 / ratio.high:.2f} to {1 / ratio.low:.2f}) |",
                    flush=True,
                )


def rows(
    cfg: str, activation: str, data: DataSpec, args: argparse.Namespace, *, threads: int
) -> Iterator[tuple[str, tuple[Row, ...]]]:
    """Time a network in float and in INT8, in every runtime."""
    source = fresh(CFG / f"{cfg}.cfg", names=data.names, seed=0)
    if activation != "own":
        source = activated(source, activation)
    with tempfile.TemporaryDirectory() as folder:
        plain, int8 = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        export(source.net, plain, names=data.names, imgsz=(args.img_size, args.img_size))
        for runtime in args.runtime:
            subject = open_subject(plain, data)
            pictures = subject.pictures(FEWEST, seed=0)
            onnx.save(maker(subject, pictures, Wish(runtime=runtime))(()), int8)
            pairs = [
                Pair(path, runtime, path, settle(path, threads=threads)) for path in (plain, int8)
            ]
            yield runtime, measure(pairs, rounds=args.rounds).rows


if __name__ == "__main__":
    main()
