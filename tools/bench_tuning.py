"""What the training after a cut is worth: roads from one trained detector to a small one, scored.

python tools/bench_tuning.py --data data/bccd.yaml --out bench/bccd-tuning --jobs 2

A detector is trained for --epochs. It is cut to each budget and trained for --tune epochs on every
road of ROADS: plainly, with a teacher, after sparse training, cut a little at a time. What is cut
at once also loses --depth residual blocks and is recovered by least squares; what is cut a little
at a time loses widths alone. The controls are the same family at that cost trained from nothing for
as many epochs in all: at once, with the detector as teacher, or in two stages as well. Every result
is a small file under --out, so that a run that stops goes on where it was; the table comes last.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from trials import Bench, done, prune, read, spread, together, trained

from prune import checkpoint
from prune.common.files import write_text
from prune.data import spec
from prune.train import initial_weights

CFG = Path(__file__).resolve().parents[1] / "cfg" / "yolor_csp_n.cfg"


@dataclass(frozen=True)
class Road:
    """One way from a trained detector to a small one.

    Attributes:
        base: what is cut, trained plainly ("dense") or with a penalty ("sparse").
        teacher: whether that is also the teacher.
        words: more options of the training; BUDGET stands for the budget, EVERY for epochs.
        at_once: whether `prune global` cuts it first.
    """

    base: str = "dense"
    teacher: bool = True
    words: tuple[str, ...] = ()
    at_once: bool = True


BUDGET, EVERY = "BUDGET", "EVERY"
ROADS: dict[str, Road] = {
    "plain": Road(teacher=False),
    "teacher": Road(),
    "teacher, features too": Road(words=("--distill",)),
    "sparse first, teacher": Road(base="sparse"),
    "a little at a time, teacher": Road(
        words=("--prune-to", BUDGET, "--prune-every", EVERY), at_once=False
    ),
}


@dataclass(frozen=True)
class Control:
    """How the family's network of the same cost is trained from nothing.

    Attributes:
        teacher: whether the dense detector is its teacher.
        base: as a road's: it is trained like that first, then on with itself as teacher, so that
            what a second stage adds is not put down to pruning. Empty: one stage.
    """

    teacher: bool = False
    base: str = ""


CONTROLS = {
    "control": Control(),
    "control, teacher": Control(teacher=True),
    "control, two stages": Control(base="dense"),
    "control, sparse first": Control(base="sparse"),
}


@dataclass(frozen=True)
class Tuning(Bench):
    """A bench of roads: epochs before and after the cut, and how it is made."""

    cfg: Path = CFG
    epochs: int = 60
    tune: int = 55
    every: int = 2
    penalty: str = "group:2e-4"
    cut: tuple[str, ...] = field(default=())


def main() -> None:
    """Do what is not done yet, then print the tables."""
    args = _arguments().parse_args()
    bench = Tuning(
        data=args.data,
        out=args.out,
        imgsz=args.img_size,
        seeds=args.seeds,
        jobs=args.jobs,
        batch=args.batch_size,
        workers=args.workers,
        device=args.device,
        cfg=args.cfg,
        epochs=args.epochs,
        tune=args.tune,
        every=args.every,
        penalty=args.sparsity,
        hyp=args.hyp,
        cut=("--depth", args.depth, *args.cut.split()),
    )
    budgets: list[float] = args.macs
    bases = dict.fromkeys(["dense", *(ROADS[name].base for name in args.roads)])
    runs: list[Callable[[], object]] = [partial(base, bench, name) for name in bases]
    for seed in range(bench.seeds):
        for name in args.controls:
            runs += [partial(control, bench, name, macs, seed) for macs in budgets]
        for name in args.roads:
            runs += [partial(road, bench, name, macs, seed) for macs in budgets]
    if not args.no_whole:
        runs.append(partial(base, bench, "dense", whole=True))
    try:
        together(bench, [] if args.table else runs)
    finally:
        for macs in budgets:
            print(table(bench, macs), flush=True)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of results and weights, of one recipe"
    )
    parser.add_argument("--cfg", type=Path, default=CFG)
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=60, help="of the detector that is cut")
    parser.add_argument("--tune", type=int, default=55, help="epochs after the cut")
    parser.add_argument("--seeds", type=int, default=1, help="of everything after the cut")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.3], help="budgets")
    parser.add_argument("--roads", nargs="+", default=list(ROADS), choices=list(ROADS))
    parser.add_argument("--depth", default="4", help="residual blocks that leave with the widths")
    parser.add_argument("--cut", default="", help="more options of prune global, in one word")
    parser.add_argument("--hyp", type=Path, help="a file of what all trainings do otherwise")
    parser.add_argument("--sparsity", default="group:2e-4", help="of what is trained sparse first")
    parser.add_argument("--every", type=int, default=2, help="epochs between little cuts")
    parser.add_argument("--controls", nargs="*", default=list(CONTROLS), choices=list(CONTROLS))
    parser.add_argument("--no-whole", action="store_true", help="no dense run of all epochs")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; they share cores")
    parser.add_argument("--workers", type=int, default=0, help="loaders of each")
    parser.add_argument("--device", default="", help="cpu or a GPU's number")
    return parser


def base(bench: Tuning, name: str, *, whole: bool = False) -> dict[str, float]:
    """Train a detector that is cut later, or for as many epochs as all others have in the end."""
    run = f"{name}-{bench.epochs + bench.tune}" if whole else name
    epochs = bench.epochs + bench.tune if whole else bench.epochs
    start, words = ("--cfg", bench.cfg), _base_words(bench, name)
    return done(bench, run, lambda: trained(bench, run, start, *words, epochs=epochs))


def _base_words(bench: Tuning, name: str) -> list[str]:
    return ["--sparsity", bench.penalty] if name == "sparse" else []


def road(bench: Tuning, name: str, macs: float, seed: int) -> None:
    """Go one road to one budget."""
    way = ROADS[name]
    base(bench, way.base)
    start = cut(bench, way.base, macs) if way.at_once else bench.weights(way.base)
    meant = {BUDGET: f"macs:{macs}", EVERY: str(bench.every)}
    words = [meant.get(word, word) for word in way.words]
    words += ["--teacher", str(bench.weights(way.base))] if way.teacher else []
    run = f"{name}-{macs}-{seed}"
    made = ("--weights", start, *(("--pt",) if way.at_once else ()))
    done(bench, run, lambda: trained(bench, run, made, *words, epochs=bench.tune, seed=seed))


def control(bench: Tuning, name: str, macs: float, seed: int) -> None:
    """Train the family's network of this cost from nothing, for as many epochs in all."""
    way, run = CONTROLS[name], f"{name}-{macs}-{seed}"
    start: tuple[object, ...] = ("--cfg", family(bench, macs))
    words: tuple[object, ...] = ()
    epochs = bench.epochs + bench.tune
    if way.base:
        first, how = f"family-{macs}-{way.base}", _base_words(bench, way.base)
        done(bench, first, lambda: trained(bench, first, start, *how, epochs=bench.epochs))
        start, epochs = ("--weights", bench.weights(first), "--pt"), bench.tune
        words = ("--teacher", bench.weights(first))
    if way.teacher:
        base(bench, "dense")
        words = ("--teacher", bench.weights("dense"))
    done(bench, run, lambda: trained(bench, run, start, *words, epochs=epochs, seed=seed))


def cut(bench: Tuning, name: str, macs: float) -> Path:
    """Cut a detector and recover what can be without training."""
    made = f"{name}-{macs}-recovered"

    def make() -> dict[str, object]:
        words = ["--weights", bench.weights(name), "--macs", macs, "--data", bench.data]
        words += ["--criterion", "fisher", *bench.cut, "--compensate", "--reconstruct", bench.data]
        words += ["--score", "--device", bench.device, "--out", bench.weights(made), "--json"]
        return {"told": prune(bench, "global", *words)}

    done(bench, made, make)
    return bench.weights(made)


def family(bench: Tuning, macs: float) -> Path:
    """Write the cfg of the same family at that cost: all groups of a fresh network narrowed alike.

    Widths alone matter, so no training is waited for.
    """
    cfg, fresh = bench.out / f"family-{macs}.cfg", bench.weights(f"fresh-{macs}")

    def make() -> dict[str, object]:
        names = spec.load(bench.data, splits=("train",)).names
        net = initial_weights.build_fresh(bench.cfg, names=names, seed=0).net
        checkpoint.save(checkpoint.capture(net, names=names, imgsz=bench.imgsz), fresh)
        out = bench.weights(f"family-{macs}")
        words = ["--weights", fresh, "--macs", macs, "--criterion", "random", "--out", out]
        prune(bench, "global", *words, "--allocation", "uniform", "--json")
        write_text(cfg, checkpoint.load(out).cfg)
        return {"cfg": str(cfg)}

    done(bench, f"family-{macs}", make)
    return cfg


def table(bench: Tuning, macs: float) -> str:
    """Write one budget's table in Markdown."""
    lines = [
        f"\n{bench.data.stem}, {bench.cfg.stem} at {bench.imgsz} px, {macs:.0%} of the MACs, "
        f"{bench.epochs} + {bench.tune} epochs\n",
        "| way | MACs | params | mAP@.5:.95, val | test | mAP@.5, val | test | minutes |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ("dense", f"dense-{bench.epochs + bench.tune}", "sparse"):
        lines.append(row(name, [read(bench, name)]))
    for name in (*ROADS, *CONTROLS):
        runs = [read(bench, f"{name}-{macs}-{seed}") for seed in range(bench.seeds)]
        lines.append(row(name, runs))
    return "\n".join(lines)


def row(name: str, runs: Sequence[dict[str, float]]) -> str:
    """Write one row: means over the runs that are there; minutes are of the last training alone."""
    found = [run for run in runs if run]
    if not found:
        return f"| {name} |{' |' * 7}"
    keys = ("val_map", "test_map", "val_map50", "test_map50")
    cells = [f"{found[0]['macs'] / 1e6:.0f} M", f"{found[0]['params'] / 1e6:.2f} M"]
    cells += [spread([run[key] for run in found]) for key in keys]
    cells.append(spread([run["seconds"] / 60 for run in found], 1))
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
