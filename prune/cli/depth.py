"""prune depth: remove whole residual blocks from a network."""

from __future__ import annotations

import argparse

from prune.cli import cutting, options
from prune.common.choices import BLOCK_CRITERIA

EXAMPLE = """\
  prune depth --blocks 8 --weights best.pt
  prune depth --macs 0.7 --weights best.pt --data mine.yaml --out shallower.pt
  prune depth --macs 30G --criterion bn --dry-run --plan-out plan.json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    how_many = parser.add_mutually_exclusive_group(required=True)
    how_many.add_argument("--blocks", type=int, metavar="N", help="number of blocks to remove")
    how_many.add_argument(
        "--macs",
        metavar="M",
        help="MACs that may be left: a fraction of the original's such as 0.7, or 30G",
    )
    parser.add_argument(
        "--criterion",
        choices=BLOCK_CRITERIA,
        help="importance of a block: how far its removal moves the head maps (output; default with "
        "--data), its mean weight (l1; default without), or the last scale of its branch (bn)",
    )
    options.data(parser, required=False)
    parser.add_argument(
        "--images",
        type=int,
        default=8,
        metavar="N",
        help="training images of --data that output looks at (default 8; noise without --data)",
    )
    parser.add_argument(
        "--rescore",
        action="store_true",
        help="compute the importance of the remaining blocks again after each removal",
    )
    options.seed(parser, of="of noise and of --criterion random")
    options.image_size(parser)
    cutting.add_arguments(parser, out="model_data/depth_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Prune as requested."""
    from prune.pruner.by_depth import DepthConfig

    cutting.run(DepthConfig, args)
