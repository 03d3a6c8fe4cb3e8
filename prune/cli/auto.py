"""prune auto: the whole road, from a trained detector to a file that is fast enough here."""

from __future__ import annotations

import argparse
import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.cli import options, reading, timing
from prune.common import streams
from prune.common.amounts import read_latency
from prune.common.dimensions import SIDE
from prune.common.inputs import is_dir, naming, resolved, shown
from prune.common.size import Size
from prune.common.visible import markdown, visible
from prune.errors import MISSED, InputError, StageError

if TYPE_CHECKING:
    from prune.auto.pipeline import AutoConfig, AutoRun
    from prune.auto.result import Verdict
    from prune.checkpoint import Checkpoint
    from prune.common.schema import Field

EXAMPLE = """\
  prune auto --weights best.pt --data mine.yaml --latency 0.4
  prune auto --weights best.pt --data mine.yaml --latency 20ms --int8
  prune auto --resume runs/auto/exp"""


# What prune auto itself says to prune train.
_OWN = frozenset(
    {
        *(
            "weights",
            "cfg",
            "names",
            "decoding",
            "pt",
            "partial",
            "resume",
            "teacher",
            "data",
            "img_size",
            "epochs",
        ),
        *("activation", "seed", "device", "project", "name", "exist_ok", "json"),
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
        help="time per image that is requested: a fraction of the detector's own, 0.4, or 20ms",
    )
    parser.add_argument(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="mAP@.5:.95 that may be lost in all (default 1.0)",
    )
    parser.add_argument("--int8", action="store_true", help="quantise as well")
    timing.add_place(parser)
    options.image_size(parser)
    parser.add_argument(
        "--depth",
        type=options.depth,
        default="auto",
        metavar="N",
        help="residual blocks that leave; auto tries numbers (default auto)",
    )
    parser.add_argument(
        "--epochs", type=options.positive, default=50, metavar="N", help="of fine-tuning (50)"
    )
    parser.add_argument(
        "--activation",
        metavar="NAME",
        help="what convolutions learn instead of their own; keep leaves it (default: relu with "
        "--int8, else keep)",
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
        "--resume", type=Path, metavar="DIR", help="go on with a run that was broken off"
    )
    options.json_output(parser)


def run(args: argparse.Namespace) -> int:
    """Walk the road, or what is left of it; print one table and one recommendation."""
    with ExitStack() as kept:
        return _run(args, _taken_up(args, kept) if args.resume else _begun(args, kept))


def _run(args: argparse.Namespace, road: AutoRun) -> int:
    from prune.auto import result as verdicts
    from prune.auto.pipeline import run_stages
    from prune.cli import console
    from prune.common.files import write_text

    again = shlex.join(["prune", "auto", "--resume", str(road.folder)])
    try:
        run_stages(road)
    except KeyboardInterrupt:
        streams.log(f"prune: stopped; to go on: {again}")
        return 130
    except StageError as error:
        raise StageError(f"{error}; to go on: {again}", error.exit_code) from error
    found = verdicts.verdict(road.journal, max_drop=road.wish.max_drop)
    table, conclusion = verdicts.table(found), visible(verdicts.conclusion(found))
    title = markdown(road.wish.weights.name)
    write_text(road.file("report.md"), f"# {title}\n\n{table}\n\n{conclusion}\n")
    if args.json:
        console.print_json(document(road, found))
    else:
        print(f"{table}\n")
        console.print_text(conclusion)
    return 0 if found.held else MISSED


def document(road: AutoRun, found: Verdict) -> dict[str, object]:
    """Return what --json prints."""
    return {
        "rows": [asdict(row) for row in found.rows],
        "recommended": asdict(found.best),
        "goal": found.goal,
        "goal_ms": found.goal * found.rows[0].ms,
        "fast_enough": found.fast_enough,
        "good_enough": found.good_enough,
        "too_deep": found.too_deep is not None,
        "folder": str(road.folder),
        "stages": road.journal.stages,
    }


def _begun(args: argparse.Namespace, kept: ExitStack) -> AutoRun:
    """Check what is asked for, make the run's folder, write the wish down.

    The folder has this one writer for as long as `kept` stays open.
    """
    from prune.auto.journal import Journal
    from prune.auto.pipeline import TRAINING, AutoRun
    from prune.common import lock, run_dir
    from prune.train.resume import clear

    _expect_given(args)
    found = reading.opened(args)
    wish = _wish(args, found)
    with tempfile.TemporaryDirectory() as place:
        _check(_on_our_own(args, wish, found, Path(place)))
    folder = run_dir.new_run(args.project.resolve(), args.name, exist_ok=args.exist_ok)
    kept.enter_context(lock.held(folder))
    if is_dir(tuning := folder / TRAINING):  # of an earlier run, which would be taken up
        with lock.held(tuning):
            clear(tuning, needed=(args.weights,))
    run_dir.record(folder, vars(args))
    wish = _on_our_own(args, wish, found, folder)
    journal = Journal(folder / "auto.json", {**vars(wish), "imgsz": wish.imgsz.plain}, {})
    journal.write()
    return AutoRun(wish, folder, journal, _say)


def _taken_up(args: argparse.Namespace, kept: ExitStack) -> AutoRun:
    """Read a run's wish and what of it is done; its folder has this one writer, as above."""
    from prune.auto import journal as journals
    from prune.auto.pipeline import AutoConfig, AutoRun
    from prune.common import lock
    from prune.common.schema import expect

    if ignored := sorted(args.typed - {"resume", "json"}):
        _say(f"note: a resumed run keeps its own {', '.join(map(options.as_typed, ignored))}")
    folder = resolved(args.resume)
    if is_dir(folder):
        kept.enter_context(lock.held(folder))
    journal = journals.read(folder / "auto.json")
    expect(journal.wish, _wish_field(), where=f"{journal.path} is damaged", key="wish")
    said: dict[str, Any] = dict(journal.wish)
    said |= {name: Path(said[name]) for name in ("weights", "data")}
    if (size := Size.read(said["imgsz"])) is None:
        raise InputError(f"{journal.path}: wish.imgsz is a list of more than two numbers")
    said["imgsz"] = size
    said["training"] = tuple(said["training"])
    wish = AutoConfig(**said)
    with naming(journal.path):
        _expect_own_words(wish.training)
    if is_dir(wish.started_in or "."):
        os.chdir(wish.started_in or ".")
    return AutoRun(wish, folder, journal, _say)


def _wish_field() -> Field:
    """Say what the wish in a journal must be: what the command line lets through."""
    from prune.common.schema import Field, flag, listed, mapping, number, text, whole

    size = Field((int, list), "one or two whole numbers", 1, SIDE, item=whole(1, SIDE))
    return mapping(
        {
            "weights": text(),
            "data": text(),
            "latency": number(0, 1e9, above=True),
            "is_share": flag(),
            "int8": flag(),
            "max_drop": number(0, 1e9),
            "runtime": text(choices=timing.RUNTIMES),
            "threads": whole(1, 4096),
            "imgsz": size,
            "epochs": whole(1),
            "activation": text(choices=("", *options.ACTIVATIONS)),
            "depth": text(),
            "training": listed(text()),
            "device": text(),
            "seed": whole(0),
            "started_in": text().or_missing(),
        },
        closed=True,
    )


def _expect_given(args: argparse.Namespace) -> None:
    for name in ("weights", "data", "latency"):
        if getattr(args, name) is None:
            raise InputError(f"--{name} is missing; see prune auto --help")


def _on_our_own(
    args: argparse.Namespace, wish: AutoConfig, found: Checkpoint, folder: Path
) -> AutoConfig:
    """Put public weights into a folder as a checkpoint of ours, which all stages then start from.

    So are ours that are read otherwise than they are: by --names or --decoding.
    """
    from prune.checkpoint.reading import as_our_file

    target = folder / f"{wish.weights.stem}.pt"
    own = as_our_file(wish.weights, found, reading.reading(args), target=target)
    return replace(wish, weights=own)


def _wish(args: argparse.Namespace, found: Checkpoint) -> AutoConfig:
    from prune.auto.pipeline import AutoConfig
    from prune.runtimes.machine import threads_of

    amount, is_share = read_latency(args.latency)
    usual = "relu" if args.int8 else "keep"
    activation = args.activation or usual
    return AutoConfig(
        weights=args.weights.resolve(),
        data=args.data.resolve(),
        started_in=str(Path.cwd()),
        latency=amount,
        is_share=is_share,
        int8=args.int8,
        max_drop=args.max_drop,
        runtime=args.runtime or timing.RUNTIMES[0],
        threads=threads_of(args.threads or 0),
        imgsz=options.size(args, found.imgsz),
        epochs=args.epochs,
        activation="" if activation == "keep" else activation,
        depth=args.depth,
        training=_words(args.train),
        device=args.device,
        seed=args.seed,
    )


def _words(text: str) -> tuple[str, ...]:
    """Split the value of --train as a shell would.

    Raises:
        InputError: a quotation in it is not closed.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise InputError(f"--train {shown(text)}: {error}") from error


def _check(wish: AutoConfig) -> None:
    """Find out before an hour's work what could not be used at its end.

    Raises:
        PruneError: data, runtime or activation that cannot be used.
    """
    from prune.data import spec
    from prune.runtimes.backends import library

    spec.load(wish.data, splits=("train", "val"))
    library(wish.runtime)
    if not wish.max_drop >= 0:
        raise InputError(f"max-drop is {wish.max_drop}; it is in mAP points, e.g. 1.0")
    if wish.activation and wish.activation not in options.ACTIVATIONS:
        known = ", ".join(("keep", *options.ACTIVATIONS))
        raise InputError(f"activation is {wish.activation!r}; it can be {known}")
    _expect_training(wish)


def _expect_training(wish: AutoConfig) -> None:
    """Prepare the fine-tuning, which writes nothing; the uncut detector stands for the cut."""
    from prune.auto.pipeline import training
    from prune.cli import read, train
    from prune.common import device
    from prune.common.notes import silent
    from prune.train import setup
    from prune.train.distributed import Team

    _expect_own_words(wish.training)
    args = read("train", ["--weights", str(wish.weights), *map(str, training(wish))])
    _, config, _ = train.read_run(args, silent)
    setup.prepare(config, device=device.choose(wish.device), team=Team(), report=silent)


def _expect_own_words(words: Sequence[str]) -> None:
    from prune.cli import read

    if clash := sorted(read("train", words).typed & _OWN):
        raise InputError(f"{options.as_typed(clash[0])} is no word for --train; auto says it")


def _say(line: str) -> None:
    streams.log(f"prune: {line}")
