"""prune sensitivity: what each coupled group costs in mAP when it is cut alone."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import cutting, options, ranked, reading
from prune.errors import InputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from prune.pruner.sensitivity.masked_evaluation import Setup
    from prune.pruner.sensitivity.rows import Sensitivity, SensitivityRow

EXAMPLE = """\
  prune sensitivity --weights best.pt --data mine.yaml --ratios 0.25,0.5,0.75
  prune sensitivity --weights best.pt --data mine.yaml --metric loss --jobs 2"""

METRICS = ("map", "loss")  # of prune.pruner.sensitivity.metrics, which --help must not import
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
        metavar="SHARES",
        help="shares of a group to cut, e.g. 0.25,0.5,0.75 (the default)",
    )
    parser.add_argument(
        "--criterion", choices=ranked.CRITERIA, default="l1", help="how channels are ranked"
    )
    parser.add_argument(
        "--scope",
        choices=ranked.SCOPES,
        default="group",
        help="score a group by its first layer or by all it couples (default group)",
    )
    options.seed(parser)
    parser.add_argument(
        "--metric", choices=METRICS, default="map", help="mAP@.5:.95 (default) or detection loss"
    )
    parser.add_argument("--split", "--task", default="val", help="split to score (default val)")
    parser.add_argument(
        "--images", type=int, metavar="N", help="so many pictures of it, evenly spaced (all)"
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
        help="JSON to write or, after a stop, to go on with; .csv and .png come beside it "
        "(default ./sensitivity.json)",
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Judge every group; print the cheapest."""
    from prune.cli import console
    from prune.pruner.sensitivity.rows import by_price
    from prune.pruner.sensitivity.run import SensitivityOptions
    from prune.pruner.sensitivity.run import run as judge

    if args.out.suffix.lower() in (".csv", ".png"):
        raise InputError(f"{args.out} is no name for the JSON file; it must end in .json")
    console.logger()
    wish = SensitivityOptions(args.ratios, args.criterion, args.scope, args.seed)
    with console.progress() as bar:
        found = judge(_setup(args), wish, args.out, jobs=args.jobs, progress=_shown(bar))
    groups = by_price(found.rows)
    _draw(groups, found, args.out.with_suffix(".png"))
    if args.json:
        console.print_json(document(found))
        return
    _print(groups, found)
    written = [str(args.out.with_suffix(end)) for end in (".json", ".csv", ".png")]
    print()
    console.print_text(f"written  {', '.join(written)}")


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list such as 0.25,0.5,0.75") from None


def _setup(args: argparse.Namespace) -> Setup:
    from prune.pruner.sensitivity.masked_evaluation import Setup

    found = reading.opened(args)
    return Setup(
        weights=args.weights,
        data=args.data,
        split=args.split,
        images=args.images,
        imgsz=options.size(args, found.imgsz),
        batch_size=args.batch_size,
        metric=args.metric,
        confidence=args.conf_thres,
        iou=args.iou_thres,
        device=args.device,
        reading=reading.reading(args),
    )


def _shown(bar: Progress) -> Callable[[float, int], None]:
    task = bar.add_task("cuts", total=None, note="")

    def show(done: float, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return show


def document(found: Sensitivity) -> dict[str, object]:
    """Return what --json prints: what the file holds."""
    import json

    from prune.pruner.sensitivity.rows import to_json

    plain: dict[str, object] = json.loads(to_json(found))
    return plain


def _print(groups: Sequence[Sequence[SensitivityRow]], found: Sensitivity) -> None:
    """Print the groups that cost least for what they save."""
    from prune.cli import console
    from prune.pruner.sensitivity.rows import price

    ratios = _ratios_of(found)
    columns = ("group", "channels", *(f"drop at {r:g}" for r in ratios), "MACs saved", "drop/GMAC")
    rows = [
        (
            cutting.short_name(own[0].group),
            own[0].channels,
            *(_drop(own, ratio) for ratio in ratios),
            max(row.macs for row in own),
            1e9 * price(own),
        )
        for own in groups
    ]
    console.print_table(columns, rows[:SHOWN])
    if len(rows) > SHOWN:
        print(f"... and {len(rows) - SHOWN} groups that cost more for what they save")
    print(f"\n{found.about['metric']} with nothing cut: {found.baseline:.4f}")


def _draw(groups: Sequence[Sequence[SensitivityRow]], found: Sensitivity, target: Path) -> None:
    from prune.report.heatmap import heatmap

    ratios = _ratios_of(found)
    nan = float("nan")
    cells = [[nan if (d := _drop(own, r)) is None else d for r in ratios] for own in groups]
    metric = found.about["metric"]
    heatmap(
        cells,
        target,
        rows=[f"{cutting.short_name(own[0].group)} ({own[0].channels})" for own in groups],
        columns=[f"{ratio:g}" for ratio in ratios],
        title=f"{found.about['criterion']}: group (channels) by share cut\n"
        "least loss per multiply-add saved first",
        label="rise of the loss" if metric == "loss" else f"drop of {metric}",
    )


def _ratios_of(found: Sensitivity) -> list[float]:
    return sorted({row.ratio for row in found.rows})


def _drop(rows: Sequence[SensitivityRow], ratio: float) -> float | None:
    return next((row.drop for row in rows if row.ratio == ratio), None)
