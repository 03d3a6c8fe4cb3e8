"""prune train: train a network, fine-tune a pruned one, or resume a run."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, reading, recipe, recorded, resume
from prune.common import streams
from prune.common.choices import ACTIVATIONS
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.cli.parser import Options
    from prune.common.notes import Report
    from prune.common.size import Size
    from prune.train.config import TrainConfig
    from prune.train.fit import TrainResult
    from prune.train.resume import Resumed

EXAMPLE = """\
  prune train --cfg cfg/yolor_csp_n.cfg --data mine.yaml --epochs 60
  prune train --weights pruned.pt --pt --data mine.yaml --epochs 40
  prune train --weights half.pt --pt --teacher best.pt --data mine.yaml
  prune train --resume runs/train/exp/weights/last.pt"""

# Options that mean something beside --prune-to alone.
_PRUNING = ("prune_every", "prune_until", "prune_criterion")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    _add_network(parser)
    options.data(parser, required=False)
    options.strict(parser)
    options.image_size(parser)
    parser.add_argument(
        "--batch-size",
        "--batch",
        type=_batch_size,
        default=16,
        metavar="N",
        help="images per batch, or auto: as many as fit into memory, up to --nominal-batch "
        "(default 16)",
    )
    recipe.add_arguments(parser)
    options.device(parser)
    options.workers(parser)
    options.run_folder(parser, project="runs/train")
    options.json_output(parser)


def run(args: Options) -> int:
    """Train, alone or as one of torchrun's processes; print metrics and the next command."""
    from prune.cli import console
    from prune.train import distributed
    from prune.train.fit import fit

    with distributed.join() as team:
        report = console.logger(quiet=not team.is_main).info
        chosen, config, resumed = team.make_on_all(partial(read_run, args, report))
        result = fit(
            config,
            resume=resumed,
            team=team,
            report=report,
            progress=console.progress,
            record=vars(chosen),
        )
        if team.is_main:
            _print(result, as_json=chosen.json)
            for note in result.notes:
                report(note)
        return 130 if result.stopped else 0


def read_run(
    args: Options, report: Report
) -> tuple[argparse.Namespace, TrainConfig, Resumed | None]:
    """Return the options, also as a config, and the run that goes on, if one does.

    Raises:
        InputError: the run cannot be resumed, or an option needs another.
    """
    from prune.train.config import TrainConfig

    chosen: argparse.Namespace = args
    resumed = None
    if args.resume is not None:
        chosen, resumed = resume.take_up(args, report)
    if chosen.prune_to is None and (resumed is None or resumed.last is None):
        alone = [name for name in _PRUNING if name in args.typed]
        if alone:
            raise InputError(f"{options.as_typed(alone[0])} needs --prune-to, e.g. macs:0.5")
    if isinstance(chosen.img_size, options.TwoNumbers):
        report(_how_two_numbers_are_read(chosen.img_size))
    folder = getattr(chosen, recorded.WORKING_FOLDER, None)
    config = options.config_of(TrainConfig, chosen, working_folder=folder and Path(folder))
    return chosen, config, resumed


def _print(result: TrainResult, *, as_json: bool) -> None:
    """Print the metrics of the best epoch, the last and the test split; files; what to run next."""
    from prune.cli import console
    from prune.train.fit import METRICS

    if result.stopped:
        streams.log(f"prune: stopped and saved; to resume: {result.next_command}")
        return
    if as_json:
        console.print_json(result.document())
        return
    best, last = result.rows[result.best_epoch - 1], result.rows[-1]
    lines = [("best", best), ("last", last)]
    if result.test is not None:
        test = {name: float(getattr(result.test, name)) for name in METRICS}
        lines.append(("best, test split", {**best, **test}))
    console.print_table(
        ["", "epoch", "P", "R", "F1", "mAP@.5", "mAP@.5:.95"],
        [[name, int(row["epoch"]), *(row[metric] for metric in METRICS)] for name, row in lines],
    )
    print()
    console.print_text(f"best weights  {result.best}")
    console.print_text(f"last weights  {result.last}")
    if (result.folder / "results.png").is_file():
        console.print_text(f"curves        {result.folder / 'results.png'}")
    console.print_text(f"next          {result.next_command}")


def _how_two_numbers_are_read(size: Size) -> str:
    """Return a note: in YOLOR and YOLOv5 two numbers are the sizes of training and test."""
    typed = f"note: --img-size {size.height} {size.width} is read as"
    if size.square:
        return f"{typed} a square of {size.described}, for training and for validation"
    return f"{typed} height and width, for both training and validation"


def _batch_size(text: str) -> int | str:
    """Read a number, which is checked with the other numbers, or auto."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number or auto") from None


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=options.path_or_none,
        metavar="FILE",
        help="weights to start from: a checkpoint, a public .pt, or Darknet .weights with --cfg; "
        "if the data has other classes, everything but their rows is taken over",
    )
    parser.add_argument(
        "--cfg",
        type=options.path_or_none,
        metavar="CFG",
        help="network to train from scratch, or the cfg of --weights; from a checkpoint with other "
        "layers, everything that fits is taken over",
    )
    reading.add_arguments(parser, cfg=False)
    parser.add_argument("--pt", action="store_true", help="the weights are pruned")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="train the network of --cfg with what fits of --weights, even if they are pruned",
    )
    parser.add_argument(
        "--keep-classes",
        action="store_true",
        help="the data's class names are new names for the classes of --weights, in their order",
    )
    parser.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="train with this activation in all convolutions: relu costs nothing in INT8",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="LAST.PT",
        help="resume an interrupted run: its last.pt or folder (default: the newest in --project)",
    )
