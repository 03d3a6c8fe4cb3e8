"""prune global: prune the whole network to a budget of MACs, parameters or latency."""

from __future__ import annotations

import argparse
from pathlib import Path

from prune.cli import cutting, options, ranked, timing
from prune.common import choices

EXAMPLE = """\
  prune global --weights best.pt --macs 0.5
  prune global --weights best.pt --macs 0.5 --data mine.yaml --steps 4
  prune global --weights best.pt --latency 0.5 --data mine.yaml --depth 4
  prune global --weights best.pt --params 13M --round-to 8 --exclude 0-3"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    budget = parser.add_mutually_exclusive_group(required=True)
    for name, what in (("macs", "MACs per image"), ("params", "parameters")):
        budget.add_argument(
            f"--{name}",
            metavar="B",
            help=f"{what} that may be left: a fraction of the original's, 0.5, or 30G, 13M",
        )
    timing.add_arguments(parser, budget)
    parser.add_argument(
        "--allocation",
        choices=choices.ALLOCATIONS,
        help="how groups share the cut (default: sensitivity with --sensitivity, per-cost with "
        "taylor and fisher, else uniform)",
    )
    parser.add_argument(
        "--sensitivity", type=Path, metavar="FILE", help="measured drops, of prune sensitivity"
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=1,
        metavar="N",
        help="prune in N steps, with the importance computed anew for each (default 1)",
    )
    parser.add_argument(
        "--depth",
        type=options.depth,
        metavar="N",
        default="0",
        help="also remove N residual blocks; auto tries numbers of blocks, with recovery where "
        "that is requested, and takes the best (default 0)",
    )
    ranked.add_arguments(parser, criterion=None, scope="group")
    _add_limits(parser)
    options.image_size(parser)
    cutting.add_arguments(parser, out="model_data/global_pruning.pt")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-ratio",
        type=float,
        metavar="FRACTION",
        help="maximum fraction of a group's channels to prune (default: 1 - budget + 0.1; with "
        "--latency 1 - budget + 0.25)",
    )
    parser.add_argument(
        "--min-channels", type=int, metavar="N", help="channels that every group keeps at least"
    )
    options.round_to(parser)
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="LAYER",
        help="do not prune these layers: 5, 10-20, or a name such as '*.113.*'",
    )
    parser.add_argument(
        "--limits",
        type=Path,
        metavar="YAML",
        help="a file of the same constraints, and of constraints per layer",
    )


def run(args: argparse.Namespace) -> None:
    """Prune as requested."""
    timing.expect_alone(args)
    if args.latency is None:
        from prune.pruner.by_budget import GlobalConfig

        cutting.run(GlobalConfig, args)
    else:
        from prune.latency.by_latency import LatencyConfig

        cutting.run(LatencyConfig, args)
