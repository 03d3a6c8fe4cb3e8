"""What pre-trained weights are worth on own images: transfer beside training from scratch, scored.

python tools/bench_transfer.py --cfg net.cfg --weights net.weights --data a.yaml b.yaml --out bench

The same network is trained on every data set from the weights for --epochs and from scratch for
--scratch-epochs, with several seeds. Batch, image size and the end of a run (RECIPE) are the same
in both arms; only the warm-up is the default of each. Every result is a small JSON file under
--out, so that a bench that is killed continues where it was. The table comes last.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean, stdev

from trials import Bench, done, read, together, trained

from prune.common.files import write_text

# On few images the end of a run decides (docs/results.md): both arms get that of fine-tuning.
RECIPE = "lrf: 0.05\nclip: 10.0\nclose_mosaic: 0.15\nclose_norms: 0.3\n"
ARMS = {"transfer": "from the weights", "scratch": "from scratch"}
FIGURES = {
    "val_map": "mAP@.5:.95, val",
    "test_map": "mAP@.5:.95, test",
    "val_map50": "mAP@.5, val",
    "test_map50": "mAP@.5, test",
}
# Student's t that 95 % of means lie within, for 2 to 10 values.
T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def main() -> None:
    """Do what is not done yet, then print the table of every data set."""
    args = _arguments().parse_args()
    recipe = args.out / "recipe.yaml"
    args.out.mkdir(parents=True, exist_ok=True)
    write_text(recipe, RECIPE)
    benches = [
        Bench(
            data=data.resolve(),
            out=args.out / data.stem,
            imgsz=args.img_size,
            seeds=args.seeds,
            jobs=args.jobs,
            batch=args.batch_size,
            workers=args.workers,
            device=args.device,
            hyp=recipe,
        )
        for data in args.data
    ]
    epochs = {"transfer": args.epochs, "scratch": args.scratch_epochs}
    starts = {
        "transfer": ("--weights", args.weights, "--cfg", args.cfg),
        "scratch": ("--cfg", args.cfg),
    }
    runs = [
        partial(run, bench, arm, starts[arm], epochs=epochs[arm], seed=seed)
        for seed in range(args.seeds)
        for bench in benches
        for arm in ARMS
    ]
    try:
        together(benches[0], [] if args.table else runs)
    finally:
        for bench in benches:
            print(table(bench, epochs), flush=True)


def run(bench: Bench, arm: str, start: Sequence[object], *, epochs: int, seed: int) -> None:
    """Train one arm with one seed, unless its result is there."""
    name = f"{arm}-{epochs}-{seed}"
    done(bench, name, lambda: trained(bench, name, start, epochs=epochs, seed=seed))


def table(bench: Bench, epochs: dict[str, int]) -> str:
    """Write the results that are there as a Markdown table: mean, 95 % interval, seeds."""
    lines = [
        f"| {bench.data.stem} | epochs | {' | '.join(FIGURES.values())} | seeds |",
        "|:--|--:|" + "--:|" * (len(FIGURES) + 1),
    ]
    for arm, label in ARMS.items():
        names = [f"{arm}-{epochs[arm]}-{seed}" for seed in range(bench.seeds)]
        found = [result for name in names if (result := read(bench, name))]
        if found:
            cells = [interval([result[figure] for result in found]) for figure in FIGURES]
            lines.append(f"| {label} | {epochs[arm]} | {' | '.join(cells)} | {len(found)} |")
    return "\n".join([*lines, ""])


def interval(values: Sequence[float]) -> str:
    """Write a mean with the half width of its 95 % interval over seeds."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = T_95[len(values) - 2] * stdev(values) / len(values) ** 0.5
    return f"{mean(values):.3f} ± {half:.3f}"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cfg", type=Path, required=True, help="the network's cfg")
    parser.add_argument("--weights", type=Path, required=True, help="its trained weights")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="data.yaml files")
    parser.add_argument("--out", type=Path, required=True, help="folder of results and weights")
    parser.add_argument("--epochs", type=int, default=30, help="from the weights (default 30)")
    parser.add_argument("--scratch-epochs", type=int, default=60, help="from scratch (default 60)")
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 11), metavar="1..10")
    parser.add_argument("--img-size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="loader processes per training")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once; they share cores")
    parser.add_argument("--device", default="", help="cpu or the number of a GPU")
    parser.add_argument("--table", action="store_true", help="print what is there, train nothing")
    return parser


if __name__ == "__main__":
    main()
