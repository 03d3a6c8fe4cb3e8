"""The command line: a table of commands, each a file of its own, imported when it is asked for."""

from __future__ import annotations

import argparse
import difflib
import gc
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn, Protocol, cast

from prune import __version__
from prune.errors import PruneError

COMMANDS: dict[str, str] = {
    "data": "make or check a data set: voc, coco, shapes, check",
    "train": "train a network, or fine-tune a pruned one (--pt)",
    "val": "score a checkpoint on a split: P, R, mAP",
    "detect": "draw boxes on pictures, folders, videos",
    "whole": "turn any public checkpoint into ours",
    "show": "layers, couplings and costs of a checkpoint",
    "diff": "two checkpoints, layer by layer",
    "conv": "prune single convolutions",
    "layers": "prune a range of layers",
    "global": "prune the whole network to a budget",
    "apply": "carry out a saved plan",
    "depth": "remove whole residual blocks",
    "sensitivity": "what cutting each coupled group alone costs in mAP",
    "export": "write ONNX (checked) or Darknet files",
    "auto": "the whole road: cut, fine-tune, quantise and measure down to a latency",
    "quantize": "an ONNX file in INT8, scored and timed",
    "bench": "how long files take in the runtimes of this machine",
}


class _CommandModule(Protocol):
    """What each file in this folder offers."""

    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace) -> int | None: ...


class Options(argparse.Namespace):
    """A command's options; `typed` names those that the command line holds, and is none of them."""

    __slots__ = ("typed",)
    typed: frozenset[str]


class Parser(argparse.ArgumentParser):
    """An argparse parser whose errors are one line, with a guess at what was meant."""

    def error(self, message: str) -> NoReturn:
        """Print one line and leave with status 2."""
        hint = f" (see {self.prog} --help)"
        sys.stderr.write(f"prune: {message}{hint}\n")
        sys.exit(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    words = [_hyphens(word) for word in (sys.argv[1:] if argv is None else argv)]
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"prune {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        sys.stderr.write(f"prune: unknown command {name!r}{_guess(name, COMMANDS)}\n")
        return 2
    settle()
    return _guarded(_module(name), read(name, rest))


def settle() -> None:
    """Set up the process as every command is; before torch is imported, which reads it."""
    # Threads that wait must not spin for long where others want the processor, a loader's workers
    # first of all: on a busy machine that took steps from 5 s to over 40. Asleep at once, they wake
    # too late for the next operation, which made steps 1.4 times as long: so a few microseconds.
    if os.environ.setdefault("OMP_WAIT_POLICY", "passive") == "passive":
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # The collector walks all that torch's import made again and again: half a second of every cut.
    gc.set_threshold(20_000)


def read(name: str, words: Sequence[str]) -> Options:
    """Read a command's options; where they cannot be read, say why in one line and exit with 2."""
    parser = _parser(name, _module(name))
    options, unknown = parser.parse_known_args(words, Options())
    if unknown:
        known = [option for action in _actions(parser) for option in action.option_strings]
        parser.error(f"unknown argument {unknown[0]!r}{_guess(unknown[0], known)}")
    options.typed = _typed(parser, words)
    return options


def _module(name: str) -> _CommandModule:
    return cast(_CommandModule, importlib.import_module(f"prune.cli.{name}"))


def _guarded(module: _CommandModule, args: argparse.Namespace) -> int:
    try:
        return module.run(args) or 0
    except PruneError as error:
        sys.stderr.write(f"prune: {' '.join(str(error).split())}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("prune: stopped\n")
        return 130
    except BrokenPipeError:  # the reader went away (`| head`): drop what is left, quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser(name: str, module: _CommandModule) -> Parser:
    parser = Parser(
        prog=f"prune {name}",
        description=COMMANDS[name],
        epilog=f"example:\n{module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def _typed(parser: Parser, words: Sequence[str]) -> frozenset[str]:
    """Name the options among words that this parser takes; it is of no other use afterwards."""
    for action in _actions(parser):
        action.default = argparse.SUPPRESS
    return frozenset(vars(parser.parse_known_args(words)[0]))


def _overview() -> str:
    rows = "\n".join(f"  {name:8} {text}" for name, text in COMMANDS.items())
    return (
        f"prune {__version__}: make trained detectors small and fast, every cut proved\n\n"
        f"usage: prune COMMAND [options]    prune COMMAND --help\n\n{rows}"
    )


def _hyphens(word: str) -> str:
    """Let --img_size mean --img-size; values keep their underscores."""
    option, equals, value = word.partition("=")
    return option.replace("_", "-") + equals + value if word.startswith("--") else word


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                yield from _actions(sub)


def _guess(word: str, known: Sequence[str] | dict[str, str]) -> str:
    close = difflib.get_close_matches(word.partition("=")[0], list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
