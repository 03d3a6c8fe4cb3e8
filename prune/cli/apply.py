"""prune apply: carry out a saved plan, which may have been edited by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from prune.cli import cutting, options

EXAMPLE = """\
  prune global --weights best.pt --macs 0.5 --dry-run --plan-out plan.json
  prune apply --weights best.pt --plan plan.json --out smaller.pt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="plan, JSON")
    options.seed(parser, of="of the image for the verification")
    cutting.add_arguments(parser, out="model_data/applied_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Prune as the plan says."""
    from prune.pruner.by_plan import ApplyConfig

    cutting.run(ApplyConfig, args)
