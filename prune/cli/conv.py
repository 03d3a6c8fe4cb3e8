"""prune conv: prune single convolutions, with everything coupled to them."""

from __future__ import annotations

import argparse

from prune.cli import cutting
from prune.common.layer_ranges import is_index
from prune.errors import PlanError

EXAMPLE = """\
  prune conv --layer 22 --amount 0.4
  prune conv --layer 22 --channels 2,6,9 --weights best.pt
  prune conv --layer 5,9 --layer 22-40 --amount 0.3 --round-to 8 --dry-run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--layer",
        action="append",
        metavar="N",
        default=[],
        help="layer index, list or range such as 22-40; may be repeated (see prune show)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--amount", type=float, metavar="FRACTION", help="fraction of the channels to prune"
    )
    what.add_argument("--channels", metavar="A,B", help="the channels to prune, of one layer")
    cutting.add_ranking(parser)
    cutting.add_arguments(parser, out="model_data/conv_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Prune as requested."""
    from prune.pruner.by_amount import ConvConfig

    channels = None if args.channels is None else _channels(args.channels)
    cutting.run(ConvConfig, args, channels=channels)


def _channels(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(map(is_index, parts)):
        raise PlanError(f"channels are {text!r}; write numbers, e.g. 2,6,9")
    return tuple(int(part) for part in parts)
