"""prune conv: cut single convolutions, with everything coupled to them."""

from __future__ import annotations

import argparse

from prune.cli import cutting
from prune.common import layer_ranges
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
        help="layer index, list or range such as 22-40; may be repeated (see prune show)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--amount", type=float, metavar="SHARE", help="share of the channels to cut")
    what.add_argument("--channels", metavar="A,B", help="the very channels to cut, of one layer")
    cutting.add_ranking(parser)
    cutting.add_arguments(parser, out="model_data/conv_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Cut as asked."""
    from prune.core.select import selection
    from prune.pruner.session import convolutions

    if not args.layer:
        raise PlanError("no layer is given; name one, e.g. --layer 22 (prune show lists them)")
    if args.amount is None and args.channels is None:
        raise PlanError("say how much goes: --amount 0.4, or which channels: --channels 2,6,9")
    subject = cutting.opened(args)
    named = convolutions(subject.net)
    layers = cutting.layer_indices(args.layer, named)
    if args.channels is None:
        plan = cutting.plan_by_amount(args, subject, layers)
    elif len(layers) == 1:
        plan = selection.by_channels(subject.groups, named[layers[0]], _channels(args.channels))
    else:
        raise PlanError(f"--channels names channels of one layer; --layer gives {len(layers)}")
    cutting.finish(args, subject, plan, made_by="conv")


def _channels(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(map(layer_ranges.is_index, parts)):
        raise PlanError(f"channels are {text!r}; write numbers, e.g. 2,6,9")
    return [int(part) for part in parts]
