"""prune layers: prune a range of layers, every coupled group once."""

from __future__ import annotations

import argparse

from prune.cli import cutting

EXAMPLE = """\
  prune layers --upto 60
  prune layers --from 10 --upto 60 --amount 0.3 --criterion l2 --out smaller.pt
  prune layers --upto 60 --amount 0.9 --sequential --dry-run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--from", dest="first", type=int, default=0, metavar="N", help="first layer (default 0)"
    )
    parser.add_argument("--upto", type=int, metavar="N", help="last layer (default: the last)")
    parser.add_argument(
        "--amount",
        type=float,
        default=0.5,
        metavar="FRACTION",
        help="fraction of the channels to prune (default 0.5)",
    )
    cutting.add_ranking(parser)
    cutting.add_arguments(parser, out="model_data/layer_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Prune as requested."""
    from prune.pruner.by_amount import LayersConfig

    cutting.run(LayersConfig, args)
