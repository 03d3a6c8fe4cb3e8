"""prune auto: from a trained detector to a file that is fast enough on this machine."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from prune.cli import options, reading, timing
from prune.common import streams
from prune.common.inputs import shown
from prune.errors import MISSED, InputError

if TYPE_CHECKING:
    from prune.auto.config import AutoConfig
    from prune.cli.parser import Options
    from prune.train.config import TrainConfig

EXAMPLE = """\
  prune auto --weights best.pt --data mine.yaml --latency 0.4
  prune auto --weights best.pt --data mine.yaml --latency 20ms --int8
  prune auto --resume runs/auto/exp"""

R = TypeVar("R")
# What prune auto itself decides of the fine-tuning.
_OWN = frozenset(
    {
        *("weights", "cfg", "names", "decoding", "pt", "partial", "resume", "teacher", "data"),
        *("img_size", "epochs", "activation", "seed", "device", "project", "name", "exist_ok"),
        "json",
    }
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the trained detector")
    reading.add_arguments(parser)
    options.data(parser, required=False)
    parser.add_argument(
        "--latency",
        metavar="B",
        help="requested time per image: a fraction of the detector's own, 0.4, or 20ms",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="mAP@.5:.95 that may be lost in all, in percentage points (default 1.0)",
    )
    parser.add_argument("--int8", action="store_true", help="also quantise to INT8")
    timing.add_place(parser)
    options.image_size(parser)
    parser.add_argument(
        "--depth",
        type=options.depth,
        default="auto",
        metavar="N",
        help="residual blocks to remove; auto tries numbers (default auto)",
    )
    parser.add_argument(
        "--epochs",
        type=options.positive,
        default=50,
        metavar="N",
        help="epochs of fine-tuning (default 50)",
    )
    parser.add_argument(
        "--activation",
        metavar="NAME",
        help="activation of all convolutions; keep leaves their own (default: relu with --int8, "
        "else keep)",
    )
    parser.add_argument(
        "--train",
        default="",
        metavar="WORDS",
        help='more options of prune train in one word, e.g. "--batch-size 8 --bf16 --cache ram"',
    )
    options.device(parser)
    options.seed(parser)
    options.run_folder(parser, project="runs/auto")
    parser.add_argument(
        "--resume", type=Path, metavar="DIR", help="go on with a run that was interrupted"
    )
    options.json_output(parser)


def run(args: Options) -> int:
    """Run all stages, or those that are left; print one table and one recommendation."""
    from prune.auto.pipeline import auto, resume
    from prune.auto.result import conclusion, table
    from prune.cli import console
    from prune.common.visible import visible

    try:
        if args.resume is None:
            result = auto(_config(args), report=_report, isolate=_isolate)
        else:
            if ignored := sorted(args.typed - {"resume", "json"}):
                kept = ", ".join(map(options.as_typed, ignored))
                _report(f"note: a resumed run keeps its own {kept}")
            result = resume(args.resume, read_training=_training, report=_report, isolate=_isolate)
    except KeyboardInterrupt:
        return 130  # how it is resumed was reported
    if args.json:
        console.print_json(result.document())
    else:
        print(f"{table(result)}\n")
        console.print_text(visible(conclusion(result)))
    return 0 if result.held else MISSED


def _config(args: Options) -> AutoConfig:
    from prune.auto.config import AutoConfig

    for name in ("weights", "data", "latency"):
        if getattr(args, name) is None:
            raise InputError(f"--{name} is missing; see prune auto --help")
    try:
        words = tuple(shlex.split(args.train))
    except ValueError as error:  # a quotation that is not closed
        raise InputError(f"--train {shown(args.train)}: {error}") from error
    return options.config_of(AutoConfig, args, train=words, training=_training(words))


def _training(words: Sequence[str]) -> TrainConfig:
    """Read the words of --train as the command line of `prune train`.

    Raises:
        InputError: one of them is an option that prune auto itself sets.
    """
    from prune.cli import read
    from prune.train.config import TrainConfig

    chosen = read("train", words)
    if clash := sorted(chosen.typed & _OWN):
        raise InputError(f"{options.as_typed(clash[0])} cannot be in --train; prune auto sets it")
    return options.config_of(TrainConfig, chosen)


def _report(line: str) -> None:
    streams.log(f"prune: {line}")


def _isolate(function: Callable[..., R], config: object) -> R:
    from prune.common.child_processes import call

    return call("prune.cli:answer_call", function, config)
