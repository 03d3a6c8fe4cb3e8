"""prune sensitivity: how much the mAP drops when each coupled group is cut alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, ranked, reading
from prune.common.choices import SENSITIVITY_METRICS
from prune.common.layer_ranges import short_name
from prune.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from prune.pruner.sensitivity.rows import SensitivityResult

EXAMPLE = """\
  prune sensitivity --weights best.pt --data mine.yaml --ratios 0.25,0.5,0.75
  prune sensitivity --weights best.pt --data mine.yaml --metric loss --jobs 2"""

SHOWN = 15  # groups in the table; the files have all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.weights(parser)
    reading.add_arguments(parser)
    options.data(parser)
    parser.add_argument(
        "--ratios",
        type=_ratios,
        default=(0.25, 0.5, 0.75),
        metavar="FRACTIONS",
        help="fractions of a group's channels to cut (default 0.25,0.5,0.75)",
    )
    ranked.add_criterion(parser, default="l1", usual="l1")
    ranked.add_scope(parser, default="group")
    options.seed(parser)
    parser.add_argument(
        "--metric",
        choices=SENSITIVITY_METRICS,
        default="map",
        help="mAP@.5:.95 (default) or detection loss",
    )
    parser.add_argument("--split", "--task", default="val", help="split to evaluate (default val)")
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="number of images of the split, evenly spaced (default: all)",
    )
    options.image_size(parser)
    options.batch_size(parser, default=4)
    options.thresholds(parser, confidence=0.001, iou=0.65)
    options.device(parser)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("sensitivity.json"),
        metavar="FILE",
        help="JSON to write, or to continue with after a stop; .csv and .png are written beside "
        "it (default ./sensitivity.json)",
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Evaluate every group; print those that can be cut at the smallest drop."""
    from prune.cli import console
    from prune.pruner.sensitivity.run import SensitivityConfig, measure
    from prune.report.sensitivity import draw

    if args.out.suffix.lower() in (".csv", ".png"):
        raise InputError(f"{args.out} is no name for the JSON file; it must end in .json")
    console.logger()
    config = options.config_of(SensitivityConfig, args)
    with console.progress() as bar:
        result = measure(
            config,
            progress=_shown(bar),
        )
    draw(result, args.out.with_suffix(".png"))
    if args.json:
        console.print_json(result.document())
        return
    _print(result)
    written = [str(args.out.with_suffix(end)) for end in (".json", ".csv", ".png")]
    print()
    console.print_text(f"written  {', '.join(written)}")


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0.25,0.5,0.75") from None


def _shown(bar: Progress) -> Callable[[float, int], None]:
    task = bar.add_task("cuts", total=None, note="")

    def show(done: float, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return show


def _print(result: SensitivityResult) -> None:
    """Print the groups with the smallest drop per MAC saved."""
    from prune.cli import console
    from prune.pruner.sensitivity.rows import by_price, price

    drops = (f"drop at {ratio:g}" for ratio in result.ratios)
    rows = []
    for own in by_price(result.rows):
        measured = {row.ratio: row.drop for row in own}
        rows.append(
            (
                short_name(own[0].group),
                own[0].channels,
                *map(measured.get, result.ratios),
                max(row.macs for row in own),
                1e9 * price(own),
            )
        )
    console.print_table(("group", "channels", *drops, "MACs saved", "drop/GMAC"), rows[:SHOWN])
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN} groups with a larger drop per MAC saved")
    print(f"\n{result.about['metric']} with nothing cut: {result.baseline:.4f}")
