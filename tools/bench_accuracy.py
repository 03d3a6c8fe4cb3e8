"""What pruning is worth: every way to cut one trained detector, at the same cost, scored.

python tools/bench_accuracy.py --data data/bccd.yaml --out bench/bccd

A detector is trained once. It is cut to each budget in every way of WAYS, and scored right after
the cut and after recovery, without training. The best ways and all baselines are then fine-tuned
alike, with several seeds; the very best and Torch-Pruning's also with the detector as teacher.
Baselines: the scripts people wrote (one layer after another), Torch-Pruning's MagnitudePruner as
its README uses it, and the control: the same family built at that cost and trained from nothing
for as many epochs in all. Every result is a small file under --out, so that a run that stops goes
on where it was; the tables come last.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

import torch
import torch_pruning as tp
from trials import Bench, cost, done, prune, read, scored, spread, together, trained

from prune import checkpoint
from prune.common.files import write_text
from prune.core.cost.macs import count
from prune.core.plan import Plan, joined, to_json
from prune.core.select import selection
from prune.models.groups import detector_groups
from prune.pruner import session

CFG = Path(__file__).resolve().parents[1] / "cfg" / "yolor_csp_n.cfg"
CRITERIA = ("l1", "l2", "bn", "fpgm", "lamp", "taylor", "fisher", "activation", "random")
FAMILY = "random, uniform"  # whose structure the control has: all groups narrowed alike
BEST = "fisher"  # the criterion that allocations and structures are compared with


@dataclass(frozen=True)
class Way:
    """One way to cut: what it varies, and the options of `prune global` that say so."""

    kind: str
    words: tuple[str, ...]


def _ways() -> dict[str, Way]:
    ways = {
        f"{name}, uniform": Way("criterion", ("--criterion", name, "--allocation", "uniform"))
        for name in CRITERIA
    }
    for name in ("global", "per-cost", "isomorphic", "sensitivity"):
        way = Way("allocation", ("--criterion", BEST, "--allocation", name))
        ways[f"{BEST}, {name}"] = way
    for depth in ("auto", "4", "9"):  # nine are all there are, a quarter of the MACs
        words = ("--criterion", BEST, "--allocation", "per-cost", "--depth", depth)
        ways[f"{BEST}, per-cost, depth {depth}"] = Way("structure", words)
    return ways


WAYS = _ways()


@dataclass(frozen=True)
class Accuracy(Bench):
    """A bench of ways to cut; epochs before and after the cut, and the recipe of those after."""

    epochs: int = 100
    tune: int = 15
    hyp: Path | None = None


def main() -> None:
    """Do what is not done yet, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of results and weights")
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=100, help="of the detector that is cut")
    parser.add_argument("--tune", type=int, default=15, help="epochs after the cut")
    parser.add_argument("--seeds", type=int, default=3, help="of fine-tuning and control")
    parser.add_argument("--macs", type=float, nargs="+", default=[0.5, 0.3], help="budgets")
    parser.add_argument("--best", type=int, default=3, help="ways of each kind to fine-tune")
    parser.add_argument("--ways", nargs="+", help="only these ways (default all)")
    parser.add_argument("--hyp", type=Path, help="recipe of fine-tuning (default the command's)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once; they share cores")
    args = parser.parse_args()
    bench = Accuracy(
        data=args.data,
        out=args.out,
        imgsz=args.img_size,
        epochs=args.epochs,
        tune=args.tune,
        seeds=args.seeds,
        hyp=args.hyp,
        jobs=args.jobs,
    )
    done(bench, "dense", lambda: trained(bench, "dense", ("--cfg", CFG), epochs=bench.epochs))
    makers = {name: partial(by_global, way=way) for name, way in WAYS.items()} | BASELINES
    chosen = [name for name in makers if not args.ways or name in args.ways]
    together(
        bench,
        [
            partial(cut_and_scored, bench, name, macs, makers[name])
            for macs in args.macs
            for name in chosen
        ],
    )
    seeds = range(bench.seeds)
    together(bench, [run for seed in seeds for run in foremost(bench, args.macs, seed)])
    together(bench, [run for seed in seeds for run in others(bench, args, seed)])
    for macs in args.macs:
        print(table(bench, macs))


def foremost(bench: Accuracy, budgets: Sequence[float], seed: int) -> list[Callable[[], None]]:
    """List the trainings of one seed that decide: the best way, the peers, the control."""
    found: list[Callable[[], None]] = [partial(control, bench, macs, seed) for macs in budgets]
    for macs in budgets:
        recovered = {way: read(bench, f"{way}-{macs}-recovered") for way in best_ways(bench, macs)}
        best = sorted(recovered, key=lambda way: -recovered[way]["val_map"])[:1]
        peers = [name for name in BASELINES if read(bench, f"{name}-{macs}-cut")]
        stages = dict.fromkeys(best, "recovered") | dict.fromkeys(peers, "cut")
        for taught, names in ((True, [*best, *{PEER}.intersection(peers)]), (False, stages)):
            found += [
                partial(tuned, bench, name, macs, seed, stage=stages[name], taught=taught)
                for name in names
            ]
    return found


def others(bench: Accuracy, args: argparse.Namespace, seed: int) -> list[Callable[[], None]]:
    """List the trainings of the best ways of each kind."""
    return [
        partial(tuned, bench, way, macs, seed, stage="recovered")
        for macs in args.macs
        for way in best_ways(bench, macs, args.best)
    ]


# --- One result: made once, kept as a small file -------------------------------------------------


def cut_and_scored(bench: Accuracy, name: str, macs: float, plan: Planner) -> None:
    """Plan one way; score the cut right after it and after recovery."""
    path = bench.out / "plans" / f"{name}-{macs}.json"

    def applied(stage: str, *words: object) -> dict[str, object]:
        if not path.is_file():
            plan(bench, macs, path)
        out = bench.weights(f"{name}-{macs}-{stage}")
        common = ["--weights", bench.weights("dense"), "--plan", path, "--out", out, "--json"]
        prune(bench, "apply", *common, *words)
        return scored(bench, out)

    done(bench, f"{name}-{macs}-cut", lambda: applied("cut"))
    recovery = ("--compensate", "--reconstruct", bench.data)
    done(bench, f"{name}-{macs}-recovered", lambda: applied("recovered", *recovery))


def tuned(
    bench: Accuracy, name: str, macs: float, seed: int, *, stage: str, taught: bool = False
) -> None:
    """Fine-tune what was cut one way; peers go on from the bare cut, as their users do."""
    run = f"{name}-{macs}-{'taught' if taught else 'tuned'}-{seed}"
    start = ("--weights", bench.weights(f"{name}-{macs}-{stage}"), "--pt")
    words: list[object] = ["--teacher", bench.weights("dense")] if taught else []
    words += ["--hyp", bench.hyp] if bench.hyp else []
    done(bench, run, lambda: trained(bench, run, start, *words, epochs=bench.tune, seed=seed))


def control(bench: Accuracy, macs: float, seed: int) -> None:
    """Train the family's network of this cost from nothing, for as many epochs in all."""
    run, cfg = f"control-{macs}-tuned-{seed}", bench.out / f"family-{macs}.cfg"
    with ONE_AT_A_TIME:
        cut_and_scored(bench, FAMILY, macs, partial(by_global, way=WAYS[FAMILY]))
        write_text(cfg, checkpoint.load(bench.weights(f"{FAMILY}-{macs}-cut")).cfg)
    total = bench.epochs + bench.tune
    done(bench, run, lambda: trained(bench, run, ("--cfg", cfg), epochs=total, seed=seed))


# --- Ways to cut ---------------------------------------------------------------------------------


# Writes a plan that meets a budget: (bench, share of MACs, file).
Planner = Callable[[Accuracy, float, Path], None]


def by_global(bench: Accuracy, macs: float, out: Path, *, way: Way) -> None:
    """Plan with `prune global`."""
    words = [
        "--weights",
        bench.weights("dense"),
        "--macs",
        macs,
        *way.words,
    ]
    words += ["--data", bench.data, "--plan-out", out, "--dry-run", "--json"]
    if "sensitivity" in way.words:
        words += ["--sensitivity", sensitivity(bench)]
    prune(bench, "global", *words)


ONE_AT_A_TIME = Lock()


def sensitivity(bench: Accuracy) -> Path:
    """Measure the sensitivity once; a run that was broken off goes on."""
    out = bench.out / "sensitivity.json"
    with ONE_AT_A_TIME:
        words = ["--weights", bench.weights("dense"), "--data", bench.data, "--out", out]
        prune(bench, "sensitivity", *words, "--criterion", BEST, "--json")
    return out


def one_after_another(bench: Accuracy, macs: float, out: Path) -> None:
    """Plan as the old scripts do: the same share off layer after layer."""

    def plan(amount: float) -> int:
        words = ["--weights", bench.weights("dense"), "--sequential", "--amount", amount]
        told = prune(bench, "layers", *words, "--plan-out", out, "--dry-run", "--json")
        macs: int = json.loads(told)["macs"]["after"]
        return macs

    narrowed(bench, macs, plan)


def torch_pruning(bench: Accuracy, macs: float, out: Path) -> None:
    """Plan with Torch-Pruning's MagnitudePruner as its README uses it: one share off every group.

    Which channels it takes is read off its groups; that the cut is its cut is asserted by counting.
    """
    subject = session.open_session(bench.weights("dense"))

    def plan(amount: float) -> int:
        net = copy.deepcopy(subject.net)
        plan, shape = Plan("", "l2", ()), (1, 3, bench.imgsz, bench.imgsz)
        names = {module: name for name, module in net.named_modules()}
        pruner = tp.pruner.MagnitudePruner(
            net,
            torch.rand(shape),
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=amount,
            ignored_layers=[net.get_submodule(name) for name in net.head_convolutions()],
            unwrapped_parameters=[
                (p, 1) for name, p in net.named_parameters() if name.endswith("implicit")
            ],
        )
        groups = subject.groups
        for group in pruner.step(interactive=True):
            dep, places = group[0]
            cut = selection.by_channels(detector_groups(net), names[dep.target.module], places)
            plan = joined(groups, plan, cut) if plan.cuts else cut
            group.prune()
        made = session.cut_session(subject, plan, made_by="Torch-Pruning")
        assert made.after == count(net, shape), "the plan is not what Torch-Pruning cut"
        write_text(out, to_json(made.plan))
        return made.after.macs

    narrowed(bench, macs, plan)


PEER = "Torch-Pruning"
BASELINES: dict[str, Planner] = {
    "one after another": one_after_another,
    PEER: torch_pruning,
}


def narrowed(bench: Accuracy, macs: float, plan: Callable[[float], int]) -> None:
    """Find the least amount whose plan is within the budget, and plan it last."""
    limit = macs * cost(bench, bench.weights("dense"))["macs"]
    low, high = 0.0, 0.95
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (middle, high) if plan(middle) > limit else (low, middle)
    plan(high)


# --- Tables --------------------------------------------------------------------------------------


def best_ways(bench: Accuracy, macs: float, number: int = 1) -> list[str]:
    """Name the ways of each kind that scored best after recovery, random left out."""
    chosen = []
    for kind in dict.fromkeys(way.kind for way in WAYS.values()):
        names = [name for name, way in WAYS.items() if way.kind == kind and "random" not in name]
        # Two names for one cut, as depth auto is for the number it takes, are trained once.
        found = {str(read(bench, f"{name}-{macs}-recovered")): name for name in reversed(names)}
        known = {name: read(bench, f"{name}-{macs}-recovered") for name in found.values()}
        scored = [name for name in known if known[name]]
        chosen += sorted(scored, key=lambda name: -known[name]["val_map"])[:number]
    return chosen


def table(bench: Accuracy, macs: float) -> str:
    """Write one budget's table in Markdown: mAP@.5:.95, and mAP@.5 where it says so."""
    dense = read(bench, "dense")
    lines = [
        f"\n{bench.data.stem}, {bench.imgsz} px, {macs:.0%} of {dense['macs'] / 1e6:.0f} M MACs, "
        f"{platform.machine()}; dense {dense['val_map']:.3f} (test {dense['test_map']:.3f})\n",
        "| way | MACs | params | cut | recovered | tuned, val | test | mAP@.5, test "
        "| taught, val | test | mAP@.5, test |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [row(bench, name, macs) for name in (*WAYS, *BASELINES, "control")]
    return "\n".join(lines)


def row(bench: Accuracy, name: str, macs: float) -> str:
    """Write one way's row; a spread is the standard deviation over seeds."""
    stages = [read(bench, f"{name}-{macs}-{stage}") for stage in ("cut", "recovered")]
    runs = [
        [
            found
            for seed in range(bench.seeds)
            if (found := read(bench, f"{name}-{macs}-{k}-{seed}"))
        ]
        for k in ("tuned", "taught")
    ]
    known = next((found for found in (*stages, *runs[0], *runs[1]) if found), None)
    if known is None:
        return f"| {name} |{' |' * 10}"
    cells = [f"{known['macs'] / 1e6:.0f} M", f"{known['params'] / 1e6:.2f} M"]
    cells += [f"{found['val_map']:.3f}" if found else "" for found in stages]
    keys = ("val_map", "test_map", "test_map50")
    cells += [spread([run[key] for run in kind]) for kind in runs for key in keys]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
