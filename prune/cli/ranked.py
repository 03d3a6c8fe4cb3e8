"""Options that say how channels are ranked, and the scores they ask for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prune.cli import options

if TYPE_CHECKING:
    from prune.pruner.importance import Scores
    from prune.pruner.session import Session

# Of prune.core.importance, which --help must not import.
CRITERIA = ("l1", "l2", "bn", "fpgm", "lamp", "taylor", "fisher", "activation", "random")
SCOPES = ("root", "group")
NORMALIZERS = ("none", "mean", "max", "sum")


def add_arguments(parser: argparse.ArgumentParser, *, criterion: str | None, scope: str) -> None:
    """Add --criterion, --scope, --normalize, and --images for criteria that look at --data.

    Without a default criterion it is fisher where there is data, else l1.
    """
    parser.add_argument(
        "--criterion",
        choices=CRITERIA,
        default=criterion,
        help=f"how channels are ranked (default {criterion or 'fisher with --data, else l1'})",
    )
    parser.add_argument(
        "--scope",
        choices=SCOPES,
        default=scope,
        help=f"score a group by its first layer or by all it couples (default {scope})",
    )
    parser.add_argument(
        "--normalize",
        choices=NORMALIZERS,
        default="none",
        help="divide the scores of a group by this (default none)",
    )
    options.data(parser, required=False)
    parser.add_argument(
        "--images",
        type=int,
        default=64,
        metavar="N",
        help="pictures that taylor, fisher and activation look at (default 64)",
    )
    options.seed(parser)


def scores(args: argparse.Namespace, subject: Session) -> Scores:
    """Score the subject's channels as the options say.

    Raises:
        PruneError: see `measured.scores`.
    """
    from prune.common import device, notes
    from prune.pruner import importance

    pictures = None
    if args.data is not None:
        from prune.data import spec

        data = spec.load(args.data, splits=("train",))
        pictures = importance.Pictures(data, args.images, subject.checkpoint.imgsz)
    return importance.scores(
        subject,
        criterion=args.criterion,
        scope=args.scope,
        normalize=args.normalize,
        seed=args.seed,
        pictures=pictures,
        where=device.choose(args.device) if pictures else None,
        say=notes.note,  # once, however many cuts are tried
    )
