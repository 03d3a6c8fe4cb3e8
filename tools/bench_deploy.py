r"""What was trained, pruned and quantised, side by side: mAP, milliseconds, bytes; and a image.

python tools/bench_deploy.py --data data/bccd.yaml --img-size 320 --png docs/pareto.png \
    --series "dense, from scratch" s.pt n.pt --series pruned s30.pt n30.pt \
    --series "pruned, INT8" s30-int8.onnx n30-int8.onnx

Checkpoints are exported first. All files are timed in turn, in every runtime named, and scored in
ONNX Runtime on val and test. The image has a line a series: mAP on the test split, which chose
nothing, over milliseconds in the runtime in which each file is fastest.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.figure import Figure

from prune.bench.side_by_side import BenchConfig, compare
from prune.common.size import Size
from prune.evaluate import EvaluateConfig, evaluate
from prune.export import ExportConfig, export


@dataclass(frozen=True)
class Point:
    """A file of a series: mAP@.5:.95 on val and test; by runtime ms and peak memory, MB; bytes."""

    series: str
    name: str
    val: float
    test: float
    ms: Mapping[str, float]
    memory: Mapping[str, float]
    bytes: int


def main() -> None:
    """Measure what the command line names; print the table, draw the image."""
    args = _arguments().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {
            path: (series[0], exported(path, args.img_size, Path(folder)))
            for series in args.series
            for path in map(Path, series[1:])
        }
        points = measured(files, args)
    print(table(points, args.runtime))
    if args.png:
        draw(points).savefig(args.png, dpi=150)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--img-size", type=int, required=True)
    parser.add_argument("--series", nargs="+", action="append", required=True, metavar="WORD")
    parser.add_argument("--runtime", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--threads", type=int, default=0, help="of a run (0: one a core)")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--png", type=Path)
    return parser


def exported(path: Path, imgsz: int, folder: Path) -> Path:
    """Return an ONNX file as it is, or export a checkpoint to one."""
    if path.suffix == ".onnx":
        return path
    out = folder / f"{len(list(folder.iterdir()))}-{path.stem}.onnx"
    export(ExportConfig(weights=path, img_size=Size.of(imgsz), out=out))
    return out


def measured(files: Mapping[Path, tuple[str, Path]], args: argparse.Namespace) -> list[Point]:
    """Time all files in turn, score each on both splits."""
    config = BenchConfig(
        files=tuple(path for _, path in files.values()),
        threads=args.threads,
        rounds=args.rounds,
        runtime=",".join(args.runtime),
    )
    rows = compare(config).rows
    points = []
    for path, (series, onnx) in files.items():
        own = {row.runtime: row for row in rows if row.file == onnx}
        scored = EvaluateConfig(data=args.data, weights=onnx, plots=False, workers=0)
        val, test = (evaluate(replace(scored, split=split)).map for split in ("val", "test"))
        points.append(
            Point(
                series,
                path.stem,
                val,
                test,
                ms={name: row.median_ms for name, row in own.items()},
                memory={name: row.peak_mb or math.nan for name, row in own.items()},
                bytes=onnx.stat().st_size,
            )
        )
    return points


def table(points: Sequence[Point], runtimes: Sequence[str]) -> str:
    """Set the points as Markdown; times as fast are to the first row in the same runtime."""
    columns = ["", "file", "mAP@.5:.95, val", "test", *(f"ms, {name}" for name in runtimes)]
    columns += ["memory, MB", "file, MB"]
    lines = [f"| {' | '.join(columns)} |", "|:--|:--|" + "--:|" * (len(columns) - 2)]
    for point in points:
        times = [
            f"{point.ms[name]:.2f} ({points[0].ms[name] / point.ms[name]:.2f} x)"
            if name in point.ms
            else "-"
            for name in runtimes
        ]
        scores = [f"{point.val:.3f}", f"{point.test:.3f}"]
        memory = " / ".join(
            f"{point.memory[name]:.0f}" for name in runtimes if name in point.memory
        )
        cells = [point.series, point.name, *scores, *times, memory, f"{point.bytes / 1e6:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(points: Sequence[Point]) -> Figure:
    """Draw a line a series: mAP on test over milliseconds in the fastest runtime of each file."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for marker, series in zip("osD^v", dict.fromkeys(p.series for p in points), strict=False):
        own = sorted((p for p in points if p.series == series), key=lambda p: min(p.ms.values()))
        axes.plot(
            [min(p.ms.values()) for p in own],
            [p.test for p in own],
            marker=marker,
            label=series,
        )
        for point in own:
            place = (min(point.ms.values()), point.test)
            axes.annotate(point.name, place, xytext=(5, 4), textcoords="offset points", fontsize=7)
    axes.set_xlim(left=0)
    axes.set_xlabel("ms a picture, in the fastest runtime")
    axes.set_ylabel("mAP@.5:.95, test")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    return figure


if __name__ == "__main__":
    main()
