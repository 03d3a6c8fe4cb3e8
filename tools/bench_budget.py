"""What a budget buys: one network cut by multiply-adds and by milliseconds, both counted and timed.

python tools/bench_budget.py --weights best.pt --data data/bccd.yaml --out bench/budget --threads 2

The network is cut to each share of its multiply-adds (`prune global --macs`) and timed; then it is
cut to the time that came out (`prune global --latency`). All of them are timed in turn at the end.
Options that are not its own go to `prune global`. The cuts lie under --out, so that they can be
fine-tuned alike; those that are there are not made again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trials import Bench, cost, prune

from prune import checkpoint
from prune.common.choices import LATENCY_RUNTIMES
from prune.latency.form import Form
from prune.latency.plan import Clock, fill, open_clock, timed_in_turn
from prune.pruner import session
from prune.runtimes.backends import Setting
from prune.runtimes.machine import machine, threads_of
from prune.runtimes.timing import Ratio, Times, ratio, spread

COLUMNS = (
    *("network", "MACs", "parameters", "time (95 %)", "time saved / MACs saved"),
    *("ms", "p10 to p90", "predicted ms", "off"),
)


@dataclass(frozen=True)
class Row:
    """A network, with what it costs, takes and was predicted to take."""

    name: str
    macs: int
    params: int
    times: Times  # milliseconds, [rounds]
    to_dense: Ratio
    predicted_ms: float


def main() -> None:
    """Cut what is not cut yet, time, print."""
    args = _arguments()
    bench = Bench(args.data, args.out, args.img_size, seeds=1, jobs=1)
    setting = Setting(threads_of(args.threads), (args.img_size, args.img_size))
    here = machine([args.runtime])
    print(f"{here.cpu}, {setting.threads} of {here.cores} core(s), load {here.load}")
    print(f"{args.runtime} {here.versions[args.runtime]}, {args.img_size} px, {args.rounds} runs")
    subject = session.open_session(args.weights)
    clock = open_clock(subject, form=Form(args.runtime), setting=setting, report=_say)
    clock = fill(clock, subject, seed=0, report=_say)
    words = ("--threads", setting.threads, "--runtime", args.runtime)
    files = {"dense": args.weights}
    for share in args.shares:
        by_macs = files[f"--macs {share:g}"] = _cut(args, bench, "--macs", share)
        pair = timed([args.weights, by_macs], clock, args.rounds)
        left = round(ratio(pair[:, 1], pair[:, 0]).middle, 3)
        if left < 1:
            files[f"--latency {left:g}"] = _cut(args, bench, "--latency", left, *words)
        else:
            _say(f"{share:g} of the multiply-adds take {left:g} of the time: nothing to reach")
    print(f"\n{table(measured(files, bench, clock, args.rounds))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="its train split scores channels")
    parser.add_argument("--out", type=Path, required=True, help="folder of the cut networks")
    parser.add_argument("--runtime", choices=LATENCY_RUNTIMES, default=LATENCY_RUNTIMES[0])
    parser.add_argument("--threads", type=int, default=0, help="of a run (0: one a core)")
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--shares", type=float, nargs="+", default=(0.7, 0.5), help="of the MACs")
    parser.add_argument("--rounds", type=int, default=50)
    args, others = parser.parse_known_args()
    args.options = others
    return args


def _cut(args: argparse.Namespace, bench: Bench, budget: str, share: float, *words: object) -> Path:
    """Cut the network, unless that was done before."""
    out = bench.weights(f"{args.runtime}{budget}-{share:g}".replace("--", "-"))
    if not out.is_file():
        _say(f"prune global {budget} {share:g}")
        said = ["--weights", args.weights, "--data", args.data, "--img-size", args.img_size]
        prune(bench, "global", *said, *args.options, budget, share, *words, "--out", out)
    return out


def timed(files: Sequence[Path], clock: Clock, rounds: int) -> Times:
    """Time checkpoints as they are deployed, in turn, [rounds, files]."""
    nets = [checkpoint.network(checkpoint.load(file)) for file in files]
    return timed_in_turn([(net, clock.form) for net in nets], clock.setting, rounds=rounds).times


def measured(files: Mapping[str, Path], bench: Bench, clock: Clock, rounds: int) -> list[Row]:
    """Count, time and predict all of them; the first is what the others came from."""
    times = timed(list(files.values()), clock, rounds)
    return [
        Row(
            name,
            **cost(bench, file),
            times=own,
            to_dense=ratio(own, times[:, 0]),
            predicted_ms=clock.predicted(checkpoint.network(checkpoint.load(file))),
        )
        for (name, file), own in zip(files.items(), times.T, strict=True)
    ]


def table(rows: Sequence[Row]) -> str:
    """Set the rows as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(cells(row, rows[0]) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cells(row: Row, dense: Row) -> tuple[str, ...]:
    """Write one row."""
    macs, ms, took = row.macs / dense.macs, spread(row.times), row.to_dense
    return (
        row.name,
        f"{macs:.3f}",
        f"{row.params / dense.params:.3f}",
        f"{took.middle:.3f} ({took.low:.3f} to {took.high:.3f})",
        "" if row is dense else f"{(1 - took.middle) / (1 - macs):.2f}",
        f"{ms.median:.2f}",
        f"{ms.p10:.2f} to {ms.p90:.2f}",
        f"{row.predicted_ms:.2f}",
        f"{100 * (row.predicted_ms / ms.median - 1):+.0f} %",
    )


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
