"""Options of the importance of channels."""

from __future__ import annotations

import argparse

from prune.cli import options

# Of prune.core.importance, which --help must not import.
CRITERIA = ("l1", "l2", "bn", "fpgm", "lamp", "taylor", "fisher", "activation", "random")
SCOPES = ("root", "group")
NORMALIZERS = ("none", "mean", "max", "sum")


def add_arguments(parser: argparse.ArgumentParser, *, criterion: str | None, scope: str) -> None:
    """Add --criterion, --scope, --normalize, and --images for criteria that look at --data.

    Without a default criterion it is fisher where there is data, else l1.
    """
    parser.add_argument(
        "--criterion",
        choices=CRITERIA,
        default=criterion,
        help="importance of channels; the lowest are pruned first (default "
        f"{criterion or 'fisher with --data, else l1'})",
    )
    add_scope(parser, default=scope)
    parser.add_argument(
        "--normalize",
        choices=NORMALIZERS,
        default="none",
        help="divide the importance within a group by this (default none)",
    )
    options.data(parser, required=False)
    parser.add_argument(
        "--images",
        type=int,
        default=64,
        metavar="N",
        help="images that taylor, fisher and activation look at (default 64)",
    )
    options.seed(parser)


def add_scope(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add --scope."""
    parser.add_argument(
        "--scope",
        choices=SCOPES,
        default=default,
        help=f"importance by the first layer of a group, or by all its layers (default {default})",
    )
