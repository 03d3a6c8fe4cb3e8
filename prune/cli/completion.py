"""prune completion: what a shell needs to complete commands and options."""

from __future__ import annotations

import argparse

EXAMPLE = """\
  prune completion bash > ~/.local/share/bash-completion/completions/prune
  prune completion zsh > ~/.zfunc/_prune"""

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to print a script for")


def run(args: argparse.Namespace) -> None:
    """Print the script."""
    import shtab

    print(shtab.complete(_all(), shell=args.shell))


def _all() -> argparse.ArgumentParser:
    """Build one parser that has every command below it; it is never parsed with."""
    from prune.cli import COMMANDS, module

    everything = argparse.ArgumentParser(prog="prune")
    commands = everything.add_subparsers()
    for name, summary in COMMANDS.items():
        module(name).add_arguments(commands.add_parser(name, help=summary))
    _complete_files(everything)
    return everything


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let every option that takes a path complete one."""
    from pathlib import Path

    import shtab

    from prune.cli.options import path_or_none
    from prune.cli.parser import actions

    for action in actions(parser):
        if action.type in (Path, path_or_none):
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's own hook
