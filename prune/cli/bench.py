"""prune bench: how long files take in the runtimes of this machine, side by side."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading

if TYPE_CHECKING:
    from prune.bench import BenchResult, BenchRow

EXAMPLE = """\
  prune bench dense.onnx pruned.onnx int8.onnx --data mine.yaml
  prune bench dense.onnx best.pt --img-size 320 --runtime onnxruntime,torch
  prune bench dense.onnx pruned.onnx --profile --png bench.png"""

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
        help="images per run (default: what the file says, or 1)",
    )
    parser.add_argument(
        "--threads",
        type=options.natural,
        default=0,
        metavar="N",
        help="threads of a run (default: one per core)",
    )
    parser.add_argument(
        "--runtime",
        metavar="A,B",
        help="onnxruntime, openvino, ncnn, opencv, torch; a .pt is exported for those that read "
        "ONNX (default: those installed that read the files as they are)",
    )
    parser.add_argument(
        "--rounds",
        type=options.positive,
        default=50,
        metavar="N",
        help="timed runs of each file (default 50)",
    )
    options.seed(parser, of="of the order in each round")
    options.data(parser, required=False)
    parser.add_argument(
        "--split", "--task", default="val", help="split to evaluate on (default val)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="list the slowest layers of each file"
    )
    parser.add_argument(
        "--png", type=Path, metavar="FILE", help="draw the milliseconds as bars: .png, .svg or .pdf"
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Time, and print a row per file and runtime."""
    from prune.bench import BenchConfig, compare
    from prune.cli import console

    result = compare(options.config_of(BenchConfig, args), report=console.logger().info)
    if args.json:
        console.print_json(result.document())
    else:
        _print(result)


def _print(result: BenchResult) -> None:
    from prune.bench.side_by_side import name
    from prune.cli import console

    evaluated = any(row.map is not None for row in result.rows)
    columns = (*COLUMNS, "mAP") if evaluated else COLUMNS
    console.print_table(columns, [_cells(row)[: len(columns)] for row in result.rows])
    for note in result.notes:
        console.print_text(f"not run  {note}")
    print()
    console.print_text(result.conditions)
    versions = result.machine.versions.items()
    console.print_text(", ".join(f"{library} {version}" for library, version in versions))
    for row in result.rows if result.profiled else ():
        print()
        if row.slowest_ms is None:
            console.print_text(f"slowest layers of {name(row)}: the runtime has no profile")
            continue
        console.print_text(f"slowest layers of {name(row)}, ms per run")
        console.print_table(("layer", "ms"), [list(item) for item in row.slowest_ms.items()])
    print()
    console.print_text(f"deploy {name(result.deploy)}: {result.deploy.why}")


def _cells(row: BenchRow) -> list[object]:
    return [
        f"{row.file}{' (exported)' if row.exported else ''}",
        row.runtime,
        row.precision,
        *(row.median_ms, row.p10_ms, row.p90_ms),
        row.ratio_to_first,
        f"{row.ratio_low:.2f}-{row.ratio_high:.2f}",
        round(row.load_ms),
        None if row.peak_mb is None else round(row.peak_mb),
        row.bytes / 1e6,
        row.map,
    ]
