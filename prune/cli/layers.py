"""prune layers: cut a range of layers, every coupled group once."""

from __future__ import annotations

import argparse

from prune.cli import cutting
from prune.errors import PlanError

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
        "--amount", type=float, default=0.5, metavar="SHARE", help="share to cut (default 0.5)"
    )
    cutting.add_ranking(parser)
    cutting.add_arguments(parser, out="model_data/layer_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Cut as asked."""
    from prune.pruner.session import convolutions

    subject = cutting.opened(args)
    last = len(subject.net.layers) - 1
    upto = last if args.upto is None else args.upto
    if not 0 <= args.first <= upto <= last:
        raise PlanError(
            f"the range is {args.first} to {upto}; it must go up from 0 to at most {last}"
        )
    layers = cutting.layer_indices([f"{args.first}-{upto}"], convolutions(subject.net))
    plan = cutting.plan_by_amount(args, subject, layers)
    cutting.finish(args, subject, plan, made_by="layers")
