"""The options on how --weights is read; `prune.checkpoint.reading` reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from prune.common.choices import DECODINGS

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
