"""Reading a command line: what was typed, what is unknown, and the one line that says so."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn, Protocol

from prune.cli import config_file, habits, outputs, paths
from prune.cli.options import with_sizes_joined
from prune.common import streams

_LONGEST_CHOICES = 24  # characters that all choices of an option may take in its usage


class CommandModule(Protocol):
    """What each command's file offers."""

    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's options."""

    def run(self, args: argparse.Namespace) -> int | None:
        """Carry the command out; return its exit status, or None for 0."""


class Options(argparse.Namespace):
    """A command's options; `typed` names those that the command line holds, and is none of them."""

    __slots__ = ("typed",)
    typed: frozenset[str]


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with status 2."""
        streams.log(f"prune: {message} (see {self.prog} --help)")
        sys.exit(2)


def build(name: str, summary: str, module: CommandModule) -> Parser:
    """Build the parser of a command."""
    parser = Parser(
        prog=f"prune {name}",
        description=summary,
        epilog=f"example:\n{module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    for action in actions(parser):
        _shorten(action)
    for one in (parser, *subparsers(parser).values()):
        config_file.add_argument(one)
    return parser


def read(name: str, summary: str, module: CommandModule, words: Sequence[str]) -> Options:
    """Read a command's options; where they cannot be read, say why in one line and exit with 2.

    Raises:
        InputError: the file of --config cannot be used, a path that no file can have, or a file to
            write that is one to read.
    """
    draft = build(name, summary, module)
    _accept_gaps(draft)
    known = _known(draft)
    given, words = words, with_sizes_joined(config_file.insert(words, known))
    typed, unknown = draft.parse_known_args(words)
    if unknown:  # before a missing option: that one may be the very word that was mistyped
        draft.error(
            _unknown(name, unknown[0], [option for option in known if option.startswith("--")])
        )
    options = build(name, summary, module).parse_args(words, Options())
    options.typed = frozenset(vars(typed))
    paths.expect_usable(options)
    outputs.expect_separate(
        name,
        options,
        configs=config_file.named(given),
        positional={action.dest for action in actions(draft) if not action.option_strings},
    )
    return options


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers below one, as `prune data` has them, by name."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield what a parser and those below it take."""
    yield from parser._actions
    for sub in subparsers(parser).values():
        yield from actions(sub)


def _known(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the options of a parser and of those below it, by every name that they have."""
    return {option: action for action in actions(parser) for option in action.option_strings}


def _shorten(action: argparse.Action) -> None:
    """List many choices in an option's help instead of its usage, where no line could be broken."""
    if action.choices is None or action.metavar is not None:
        return
    names = ", ".join(map(str, action.choices))
    if len(names) > _LONGEST_CHOICES:
        action.metavar = action.dest.upper().replace("_", "-")
        action.help = f"{action.help or ''}; one of {names}".removeprefix("; ")


def _accept_gaps(parser: argparse.ArgumentParser) -> None:
    """Let a parser read only what was typed: nothing is required, and nothing has a default."""
    for action in actions(parser):
        action.default, action.required = argparse.SUPPRESS, False
    for one in (parser, *subparsers(parser).values()):
        for group in one._mutually_exclusive_groups:
            group.required = False


def _unknown(command: str, word: str, known: Sequence[str]) -> str:
    """Say what an unknown word is, and what was meant where that is certain."""
    option, equals, value = word.partition("=")
    if equals and f"--{option}" in known:
        return f"unknown argument {word!r}; write --{option} {value}"
    answer = habits.answer(command, option)
    if answer:
        return f"{option} is not an option of prune {command}: {answer}"
    # Of several commands under one name, another may have the very option.
    meant = habits.suggestion(option, [one for one in known if one != option])
    return f"unknown argument {word!r}" + (f"; did you mean {meant}?" if meant else "")
