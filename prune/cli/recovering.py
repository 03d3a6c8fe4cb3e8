"""Options of recovery without training, which every cutting command has, and their table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options
from prune.common import streams
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.core.plan import Plan
    from prune.models.darknet import Darknet
    from prune.pruner.recovery import Prepared, RecoveryOptions, RecoveryStep
    from prune.pruner.session import Session

_TRIAL_IMAGES = 48  # enough to tell one cut from another
_NO_VALUE = Path()  # of a step that is asked for without naming data

COLUMNS = ("step", "mAP@.5", "mAP@.5:.95", "pictures", "seconds", "layers", "kept")


STEPS = {
    "compensate": "add the mean output of pruned channels to the next layer, measured on training "
    "images of YAML or --data, else taken from the BatchNorms",
    "reconstruct": "fit all weights behind the cut to the outputs of the original network by least "
    "squares, on training images of YAML (default: --data)",
    "recalibrate": "compute BatchNorm statistics anew on training images of YAML (default: --data)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options; those a command has already are shared."""
    own = parser.add_argument_group("recovery without training")
    own.add_argument(
        "--activation",
        choices=options.ACTIVATIONS,
        help="what convolutions have from now on in place of their own, if that bends; the steps "
        "below make up for it",
    )
    for name, text in STEPS.items():
        own.add_argument(
            f"--{name}",
            nargs="?",
            type=Path,
            const=_NO_VALUE,
            metavar="YAML",
            help=text,
        )
    own.add_argument(
        "--recover-images",
        type=int,
        default=200,
        metavar="N",
        help="training pictures to look at, mosaics (default 200)",
    )
    own.add_argument(
        "--recover-memory",
        type=float,
        default=4.0,
        metavar="GIB",
        help="memory of --reconstruct (default 4); pictures beyond it take much longer",
    )
    own.add_argument(
        "--score",
        action="store_true",
        help="score on --data before, after the cut and after each step; undo what lowers it",
    )
    has = parser._option_string_actions
    if "--data" not in has:
        options.data(parser, required=False)
    if "--device" not in has:
        own.add_argument(
            "--device",
            default="",
            metavar="D",
            help="of whatever looks at pictures (default: GPU if any)",
        )


def prepared(args: argparse.Namespace, subject: Session) -> Prepared | None:
    """Check the wishes and open their data before any long work; None if nothing is wished for.

    Raises:
        PruneError: see `recovery.Prepared`; or --score without --data.
    """
    if args.score and args.data is None:
        raise InputError("--score needs the pictures to score on; add --data, e.g. data/mine.yaml")
    if not _steps(args) and not args.score and not args.activation:
        return None
    from prune.pruner.recovery import Prepared

    return Prepared(_wishes(args), subject)


def trial(args: argparse.Namespace, subject: Session) -> Callable[[Plan], Darknet] | None:
    """Return what carries a plan out and does as wished, with few pictures; None if nothing is.

    Raises:
        PruneError: see `prepared`.
    """
    if not _steps(args) and not args.activation:
        return None
    from prune.pruner.recovery import Prepared

    wishes = _wishes(args)
    few = min(wishes.images, _TRIAL_IMAGES)
    return Prepared(replace(wishes, judge=None, images=few), subject).tried


def _steps(args: argparse.Namespace) -> dict[str, Path | None]:
    """Return the data of each step that is asked for: its own, or that of --data.

    Raises:
        InputError: a step that needs images, and no data is named.
    """
    steps: dict[str, Path | None] = {}
    for name in STEPS:
        path: Path | None = getattr(args, name)
        if path is None:
            continue
        steps[name] = args.data if path == _NO_VALUE else path
        if steps[name] is None and name != "compensate":
            raise InputError(
                f"--{name} needs training images; name their data.yaml by --data or right behind "
                f"it, e.g. --{name} data/mine.yaml"
            )
    return steps


def _wishes(args: argparse.Namespace) -> RecoveryOptions:
    from prune.pruner.recovery import RecoveryOptions

    return RecoveryOptions(
        steps=_steps(args),
        judge=args.data if args.score else None,
        activation=args.activation or "",
        images=args.recover_images,
        memory=_bytes(args.recover_memory),
        seed=args.seed,
        device=args.device,
    )


def _bytes(gib: float) -> int:
    if not isfinite(gib):
        raise InputError(f"recovery memory is {gib}; it must be a number of GiB, e.g. 4")
    return int(gib * 2**30)


def say(line: str) -> None:
    """Tell of a step on stderr."""
    streams.log(f"prune: {line}")


def print_rows(rows: Sequence[RecoveryStep]) -> None:
    """Print one line a step."""
    from prune.cli import console

    print()
    console.print_table(
        COLUMNS,
        [(r.step, r.map50, r.map, r.images, r.seconds, r.layers, r.kept) for r in rows],
    )
