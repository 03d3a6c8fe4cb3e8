"""prune bench: how long files take in the runtimes of this machine, side by side."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading

if TYPE_CHECKING:
    from prune.bench.rows import Advice, BenchRow, Measured, Pair
    from prune.data.spec import DataSpec
    from prune.evaluate.runner import Runner
    from prune.runtimes.machine import Machine
    from prune.runtimes.profiles import Layers

EXAMPLE = """\
  prune bench dense.onnx pruned.onnx int8.onnx --data mine.yaml
  prune bench dense.onnx best.pt --img-size 320 --runtime onnxruntime,torch
  prune bench dense.onnx pruned.onnx --profile --png bench.png"""

_SCORED = 16  # pictures a batch
COLUMNS = (
    *("file", "runtime", "precision", "ms", "p10", "p90", "ratio", "95 %"),
    *("load ms", "peak MB", "file MB"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".onnx, .pt, .pth, .weights or .param"
    )
    reading.add_arguments(parser)
    options.image_size(parser)
    parser.add_argument(
        "--batch-size",
        "--batch",
        type=options.positive,
        metavar="N",
        help="pictures a run (default: the file's, or 1)",
    )
    parser.add_argument(
        "--threads", type=options.natural, default=0, metavar="N", help="of a run (0: one a core)"
    )
    parser.add_argument(
        "--runtime",
        metavar="A,B",
        help="onnxruntime, openvino, ncnn, opencv, torch (default: those installed that read the "
        "files as they are); a .pt is exported for those that read ONNX",
    )
    parser.add_argument(
        "--rounds", type=options.positive, default=50, metavar="N", help="timed runs (default 50)"
    )
    options.seed(parser, of="of the order in each round")
    options.data(parser, required=False)
    parser.add_argument("--split", "--task", default="val", help="split to score (default val)")
    parser.add_argument(
        "--profile", action="store_true", help="list the slowest layers of each file"
    )
    parser.add_argument("--png", type=Path, metavar="FILE", help="draw the milliseconds as bars")
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Open, score if asked to, time in turn, print."""
    from prune.bench.rows import advise, measure
    from prune.cli import console
    from prune.cli.pairs import paired
    from prune.common.files import expect_writable
    from prune.common.progress import tracked
    from prune.report import bars
    from prune.runtimes import doubts
    from prune.runtimes.machine import machine, threads_of
    from prune.runtimes.timing import WARM_UP

    if args.png:
        bars.expect_format(args.png)
        expect_writable(args.png)
    with tempfile.TemporaryDirectory() as folder:
        pairs, notes = paired(args, Path(folder))
        here = machine(sorted({pair.runtime for pair in pairs}))
        doubts.note_if_busy(console.logger().info, threads=threads_of(args.threads))
        _warn_of_shapes(pairs)
        maps, unscored = _maps(args, pairs) if args.data else ({}, [])
        measured = measure(
            pairs,
            rounds=args.rounds,
            seed=args.seed,
            maps=maps,
            watch=lambda turns: tracked(turns, "timing", WARM_UP + args.rounds),
        )
        profiles = [_profile(row) for row in measured.rows] if args.profile else []
    doubts.note_if_unsure(
        console.logger().info,
        [row.ratio_to_first for row in measured.rows],
        remedy="more --rounds narrow that, or an idle machine",
    )
    advice, notes = advise(measured), [*notes, *unscored, *measured.refused]
    if args.png:
        _draw(measured, here, args.png)
    if args.json:
        console.print_json(document(measured, advice, here, notes=notes, profiles=profiles))
    else:
        _print(measured, advice, here, notes=notes, profiles=profiles)


def document(
    measured: Measured,
    advice: Advice,
    here: Machine,
    *,
    notes: Sequence[str],
    profiles: Sequence[Layers | None],
) -> dict[str, object]:
    """Return what --json prints."""
    rounds = len(measured.times)
    rows = [_facts(row, rounds) for row in measured.rows]
    for row, layers in zip(rows, profiles, strict=False):
        row["slowest_ms"] = layers
    chosen = advice.row.pair
    deploy = {"file": str(chosen.file), "runtime": chosen.runtime, "why": advice.why}
    threads = chosen.setting.threads
    machine = vars(here) | {"threads": threads}
    return {"rows": rows, "notes": list(notes), "machine": machine, "deploy": deploy}


def _facts(row: BenchRow, rounds: int) -> dict[str, object]:
    return {
        "file": str(row.pair.file),
        "runtime": row.pair.runtime,
        "exported": row.pair.exported,
        "shape": row.pair.setting.shape,
        "precision": row.precision,
        "median_ms": row.spread.median,
        "p10_ms": row.spread.p10,
        "p90_ms": row.spread.p90,
        "runs": rounds,
        "ratio_to_first": row.ratio_to_first.middle,
        "ratio_low": row.ratio_to_first.low,
        "ratio_high": row.ratio_to_first.high,
        "load_ms": row.load_ms,
        "peak_mb": None if row.peak_bytes is None else row.peak_bytes / 1e6,
        "bytes": row.bytes,
        "map": row.map,
    }


def _warn_of_shapes(pairs: Sequence[Pair]) -> None:
    """Say on stderr that files take different batches: their times do not compare."""
    from prune.cli import console

    shapes = sorted({pair.setting.shape for pair in pairs})
    if len(shapes) > 1:
        text = ", ".join(map(str, shapes))
        console.logger().info(f"note: the files take different batches: {text}")


def _maps(args: argparse.Namespace, pairs: Sequence[Pair]) -> tuple[dict[Path, float], list[str]]:
    """Score each file once: a .pt by torch, an .onnx by ONNX Runtime, others not at all.

    Beside a file of fixed shape all are scored on the shape they are timed on: the same weights
    score otherwise on rectangles. A file that holds no boxes to score is timed all the same, and
    noted.

    Raises:
        DataError: the split has no labels.
    """
    from prune.cli import console
    from prune.data import spec as data
    from prune.errors import CheckpointError
    from prune.evaluate.runner import READ, open_weights

    spec, maps, notes = data.load(args.data, splits=[args.split]), {}, []
    timed = {pair.file: pair.setting.imgsz for pair in pairs if pair.file.suffix in READ}
    runners = {}
    for path in timed:
        try:
            runners[path] = open_weights(path, device_name="cpu", reading=reading.reading(args))
        except CheckpointError as error:
            notes.append(f"not scored: {error}")
    padded = any(runner.shape for runner in runners.values())
    for path, runner in runners.items():
        height, width = timed[path]
        on = f", padded to {height} x {width}" if padded else ""
        console.logger().info(f"scoring {path} on {args.split}{on}")
        seen = replace(runner, shape=timed[path]) if padded else runner
        try:
            maps[path] = _map(args, path, spec, seen)
        except CheckpointError as error:
            notes.append(f"not scored: {error}")
    return maps, notes


def _map(args: argparse.Namespace, path: Path, spec: DataSpec, runner: Runner) -> float:
    from prune.common.progress import tracked
    from prune.errors import DataError
    from prune.evaluate.collect import collect
    from prune.evaluate.preprocess import split_batches

    spec.expect_classes(runner.names, of=path)
    batches, count = split_batches(
        runner,
        spec,
        args.split,
        imgsz=runner.image_size(args.img_size),
        batch_size=_SCORED,
        workers=0,
    )
    collected = collect(
        runner.detect,
        tracked(batches, f"scoring {path.name}", count),
        len(spec.names),
        device=runner.device,
        shares=runner.shares,
    )
    scores = collected.metrics(spec.names)
    if not scores.instances:
        raise DataError(f"{spec.path}: {args.split} has no labels, so that nothing is scored")
    return scores.map


def _profile(row: BenchRow) -> Layers | None:
    from prune.runtimes.profiles import slowest

    return slowest(row.pair.runtime, row.pair.source, row.pair.setting)


def _draw(measured: Measured, here: Machine, target: Path) -> None:
    from prune.report.bars import bars

    rows = measured.rows
    bars(
        [f"{row.pair.file.name}\n{row.pair.runtime}, {row.precision}" for row in rows],
        [(row.spread.p10, row.spread.median, row.spread.p90) for row in rows],
        target,
        title=_conditions(measured, here),
        label="milliseconds a run: median, p10 to p90",
    )


def _print(
    measured: Measured,
    advice: Advice,
    here: Machine,
    *,
    notes: Sequence[str],
    profiles: Sequence[Layers | None],
) -> None:
    from prune.bench.rows import name
    from prune.cli import console

    scored = any(row.map is not None for row in measured.rows)
    columns = (*COLUMNS, "mAP") if scored else COLUMNS
    console.print_table(columns, [_cells(row)[: len(columns)] for row in measured.rows])
    for note in notes:
        console.print_text(f"not run  {note}")
    print()
    console.print_text(_conditions(measured, here))
    console.print_text(", ".join(f"{library} {at}" for library, at in here.versions.items()))
    for row, layers in zip(measured.rows, profiles, strict=False):
        if layers is None:
            print()
            console.print_text(f"slowest layers of {name(row)}: it has no profile to ask for")
            continue
        print()
        console.print_text(f"slowest layers of {name(row)}, ms a run")
        console.print_table(("layer", "ms"), [list(item) for item in layers.items()])
    print()
    console.print_text(f"deploy {name(advice.row)}: {advice.why}")


def _cells(row: BenchRow) -> list[object]:
    ratio = row.ratio_to_first
    megabytes = None if row.peak_bytes is None else round(row.peak_bytes / 1e6)
    exported = " (exported)" if row.pair.exported else ""
    return [
        f"{row.pair.file}{exported}",
        row.pair.runtime,
        row.precision,
        *(row.spread.median, row.spread.p10, row.spread.p90),
        ratio.middle,
        f"{ratio.low:.2f}-{ratio.high:.2f}",
        round(row.load_ms),
        megabytes,
        row.bytes / 1e6,
        row.map,
    ]


def _conditions(measured: Measured, here: Machine) -> str:
    setting = measured.rows[0].pair.setting
    shape = " x ".join(map(str, setting.shape))
    return (
        f"{here.cpu}, {setting.threads} of {here.cores} core(s), {shape}, "
        f"{len(measured.times)} runs each, in turn"
    )
