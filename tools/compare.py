"""Score and time checkpoints side by side, and print one Markdown table.

python tools/compare.py --data data/bccd.yaml --img-size 320 dense=a.pt pruned=b.pt

mAP is that of `prune val`; MACs are those of one image; the file and the latency are those of the
exported ONNX file, run by ONNX Runtime on this machine, the files in turn, medians.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from prune import checkpoint
from prune.core.cost.macs import count
from prune.report.tables import Stage, stages
from prune.runtimes.compare import latencies_ms


def main() -> None:
    """Measure what the command line names, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rows", nargs="+", metavar="NAME=FILE", help="what to call a checkpoint")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--img-size", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=50, help="timed runs of each file")
    parser.add_argument("--threads", type=int, default=0, help="of ONNX Runtime (0: one a core)")
    args = parser.parse_args()
    weights = {name: Path(path) for name, _, path in (row.partition("=") for row in args.rows)}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(weights)}
        for name, path in weights.items():
            prune("export", "--weights", path, "--img-size", args.img_size, "--out", files[name])
        latency = latencies_ms(list(files.values()), rounds=args.rounds, threads=args.threads)
        rows = [
            stage(name, path, args, size=files[name].stat().st_size, ms=latency[files[name]])
            for name, path in weights.items()
        ]
    print(f"{args.data.stem}, split {args.split}, {args.img_size} px, {platform.machine()}\n")
    print(stages(rows))


def stage(name: str, path: Path, args: argparse.Namespace, *, size: int, ms: float) -> Stage:
    """Score one checkpoint and count what it costs."""
    words = ["--weights", path, "--data", args.data, "--split", args.split]
    words += ["--img-size", args.img_size, "--no-plots", "--workers", 0]  # no start of processes
    scores = json.loads(prune("val", *words, "--json"))
    net = checkpoint.network(checkpoint.load(path))
    cost = count(net, (1, 3, args.img_size, args.img_size))
    return Stage(name, scores["map50"], scores["map"], cost.params, cost.macs, size, ms)


def prune(*words: object) -> str:
    """Run a command as a user would; return what it prints."""
    command = [sys.executable, "-m", "prune", *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"compare: prune {words[0]} failed with status {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
