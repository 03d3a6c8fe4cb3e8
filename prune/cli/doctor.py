"""prune doctor: what this machine and this installation have."""

from __future__ import annotations

import argparse
from pathlib import Path

from prune.cli import options

EXAMPLE = """\
  prune doctor
  prune doctor --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.json_output(parser)


def run(args: argparse.Namespace) -> None:
    """Look, and print what was found."""
    from dataclasses import asdict

    from prune.cli import console
    from prune.report.doctor import examine

    found = examine(Path.cwd())
    if args.json:
        console.print_json({"format": "prune-doctor/1", "findings": [asdict(one) for one in found]})
        return
    rows = [(one.area, one.name, one.found, one.note) for one in found]
    console.print_table(("", "", "found", "note"), rows)
