"""prune apply: carry out a plan that was saved, and perhaps edited by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from prune.cli import cutting, options
from prune.common.inputs import naming, printable, read_text
from prune.errors import PlanError

EXAMPLE = """\
  prune global --weights best.pt --macs 0.5 --dry-run --plan-out plan.json
  prune apply --weights best.pt --plan plan.json --out smaller.pt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="plan, JSON")
    options.seed(parser, of="of the proof's picture")
    cutting.add_arguments(parser, out="model_data/applied_pruning.pt")


def run(args: argparse.Namespace) -> None:
    """Cut as the plan says."""
    from prune.core.plan import from_json

    plan = from_json(read_text(args.plan, "json"), where=printable(str(args.plan)))
    if not plan.blocks and not any(cut.remove for cut in plan.cuts):
        raise PlanError(f"nothing to remove: {args.plan} names no channels and no blocks")
    subject = cutting.opened(args)
    with naming(args.plan, PlanError):
        cutting.finish(args, subject, plan, made_by=plan.made_by or "apply")
