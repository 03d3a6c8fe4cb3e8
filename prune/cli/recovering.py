"""Options of recovery without training, which every pruning command has, and their table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options
from prune.common.choices import ACTIVATIONS

if TYPE_CHECKING:
    from prune.pruner.result import RecoveryStep

COLUMNS = ("step", "mAP@.5", "mAP@.5:.95", "images", "seconds", "layers", "kept")

STEPS = {
    "compensate": "add the mean output of pruned channels to the next layer, measured on training "
    "images of YAML or --data, else computed from BatchNorm statistics",
    "reconstruct": "fit all weights behind the cut to the outputs of the original network by least "
    "squares, on training images of YAML (default: --data)",
    "recalibrate": "compute BatchNorm statistics anew on training images of YAML (default: --data)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options, except those that the command has already."""
    own = parser.add_argument_group("recovery without training")
    own.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="replace every nonlinear activation with this one; the steps below compensate for "
        "the change",
    )
    for name, text in STEPS.items():
        own.add_argument(
            f"--{name}",
            nargs="?",
            type=Path,
            const=True,
            default=False,
            metavar="YAML",
            help=text,
        )
    own.add_argument(
        "--recover-images",
        type=int,
        default=200,
        metavar="N",
        help="training images that the steps look at, mosaics (default 200)",
    )
    own.add_argument(
        "--recover-memory",
        type=float,
        default=4.0,
        metavar="GIB",
        help="memory of --reconstruct in GiB (default 4); images beyond it take much longer",
    )
    own.add_argument(
        "--score",
        action="store_true",
        help="evaluate mAP on --data before, after the cut and after each step; undo a step that "
        "lowers it",
    )
    has = parser._option_string_actions
    if "--data" not in has:
        options.data(parser, required=False)
    if "--device" not in has:
        own.add_argument(
            "--device",
            default="",
            metavar="D",
            help="of all that looks at images: cpu or the number of a GPU (default: GPU if any)",
        )


def print_rows(rows: Sequence[RecoveryStep]) -> None:
    """Print one line per step."""
    from prune.cli import console

    print()
    console.print_table(
        COLUMNS,
        [(r.step, r.map50, r.map, r.images, r.seconds, r.layers, r.kept) for r in rows],
    )
