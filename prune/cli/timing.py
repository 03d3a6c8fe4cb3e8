"""Options of a latency budget, and its two lines of output."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from prune.cli import options
from prune.common.choices import LATENCY_RUNTIMES
from prune.errors import PlanError

if TYPE_CHECKING:
    from prune.pruner.result import Latency


def add_arguments(
    parser: argparse.ArgumentParser, budget: argparse._MutuallyExclusiveGroup
) -> None:
    """Add --latency to the budgets, and how it is measured."""
    budget.add_argument(
        "--latency",
        metavar="B",
        help="time per image on this machine that is requested: a fraction, 0.5, or 20ms",
    )
    add_place(parser)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="time the pruned model in INT8 for --latency, if prune quantize will follow",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add --runtime and --threads."""
    parser.add_argument(
        "--runtime",
        choices=LATENCY_RUNTIMES,
        help="runtime that is timed for --latency (default onnxruntime)",
    )
    parser.add_argument(
        "--threads",
        type=options.natural,
        metavar="N",
        help="inference threads when timing for --latency (default 0: one per core)",
    )


def expect_alone(args: argparse.Namespace) -> None:
    """Refuse options that do not go with the kind of budget.

    Raises:
        PlanError: one of them was given.
    """
    if args.latency is None and (args.int8 or args.runtime is not None or args.threads is not None):
        raise PlanError("--runtime, --threads and --int8 are of --latency; remove them")
    if args.latency is not None and (args.steps != 1 or args.sensitivity or args.allocation):
        raise PlanError(
            "--latency has an allocation of its own, in one step; remove --allocation, "
            "--sensitivity and --steps"
        )


def as_text(found: Latency) -> str:
    """Write what was measured and requested, in two lines."""
    words = [found.runtime, f"{found.threads} thread{'s' * (found.threads > 1)}"]
    words += ["afterwards in INT8"] * found.int8
    words += [f"with {found.activation}"] * bool(found.activation)
    return (
        f"latency  {found.before_ms:.2f} -> {found.after_ms:.2f} ms measured, ratio "
        f"{found.ratio:.3f} ({found.ratio_low:.3f} to {found.ratio_high:.3f})\n"
        f"         {found.predicted:.3f} predicted, {found.requested:.3g} requested; "
        f"{', '.join(words)}"
    )
