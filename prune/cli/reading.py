"""The options on how --weights is read; `prune.checkpoint.reading` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prune.common.choices import DECODINGS

if TYPE_CHECKING:
    from prune.checkpoint import Checkpoint
    from prune.checkpoint.convert import Reading

NAMES = "class names, or a file with one per line (default: the file's own, or 0,1,...)"


def add_arguments(parser: argparse.ArgumentParser, *, cfg: bool = True, names: bool = True) -> None:
    """Add --cfg, --names and --decoding, for weights of other projects."""
    if cfg:
        parser.add_argument(
            "--cfg",
            type=Path,
            metavar="FILE",
            help="cfg of Darknet weights or of a public .pt (default: what the file "
            "contains, or a cfg of the same name beside it or in ./cfg)",
        )
    if names:
        parser.add_argument("--names", metavar="A,B", help=NAMES)
    parser.add_argument(
        "--decoding",
        choices=DECODINGS,
        help="how the heads of public weights decode boxes: exp (YOLOv3, Darknet) or sigmoid "
        "(YOLOR, YOLOv4-CSP); default: what the cfg and the file say, with a note",
    )


def opened(args: argparse.Namespace) -> Checkpoint:
    """Open --weights as the options beside it say; a note says how a public file was read.

    Raises:
        PruneError: the file cannot be used.
    """
    from prune.checkpoint.reading import open_with_note

    return open_with_note(args.weights, reading(args))


def reading(args: argparse.Namespace) -> Reading:
    """Return how --weights is read.

    Raises:
        InputError: --names cannot be read.
    """
    from prune.checkpoint.reading import reading_of

    return reading_of(args.cfg, getattr(args, "names", None), args.decoding)
