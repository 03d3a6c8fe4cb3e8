"""Options of the importance of channels."""

from __future__ import annotations

import argparse

from prune.cli import options
from prune.common import choices


class Criteria(tuple[str, ...]):
    """Names of criteria; as choices of an option they also accept a function in a file or package.

    What is meant is found by prune.core.importance.own_criteria, which --help must not import.
    """

    def __contains__(self, name: object) -> bool:
        if tuple.__contains__(self, name):
            return True
        if not isinstance(name, str):
            return False
        if ".py:" in name:
            return True
        from importlib.metadata import entry_points

        return bool(entry_points(group="prune.criteria", name=name))


CRITERIA = Criteria(choices.CRITERIA)


def add_arguments(parser: argparse.ArgumentParser, *, criterion: str | None, scope: str) -> None:
    """Add --criterion, --scope, --normalize, and --images for criteria that look at --data.

    Without a default criterion it is fisher where there is data, else l1.
    """
    add_criterion(parser, default=criterion, usual=criterion or "fisher with --data, else l1")
    add_scope(parser, default=scope)
    parser.add_argument(
        "--normalize",
        choices=choices.NORMALIZERS,
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


def add_criterion(parser: argparse.ArgumentParser, *, default: str | None, usual: str) -> None:
    """Add --criterion; `usual` describes the default."""
    parser.add_argument(
        "--criterion",
        choices=CRITERIA,
        default=default,
        help="importance of channels, the lowest are pruned first: a name, or a function of your "
        f"own, file.py:name (default {usual})",
    )


def add_scope(parser: argparse.ArgumentParser, *, default: str) -> None:
    """Add --scope."""
    parser.add_argument(
        "--scope",
        choices=choices.SCOPES,
        default=default,
        help=f"importance by the first layer of a group, or by all its layers (default {default})",
    )
