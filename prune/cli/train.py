"""prune train: train a network, fine-tune a pruned one, or go on with a run."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import job as jobs
from prune.cli import options, outcome, reading, recipe, recorded, resume
from prune.common import child_processes, streams

if TYPE_CHECKING:
    import torch

    from prune.cli.job import Job
    from prune.evaluate.metrics import Metrics
    from prune.train.checkpointing import Origin, Row
    from prune.train.distributed import Team
    from prune.train.loop import Narrow
    from prune.train.profile import Stopwatch
    from prune.train.run import Run
    from prune.train.run_log import Log

    Say = Callable[[str], None]

EXAMPLE = """\
  prune train --cfg cfg/yolor_csp_n.cfg --data mine.yaml --epochs 60
  prune train --weights pruned.pt --pt --data mine.yaml --epochs 40
  prune train --weights half.pt --pt --teacher best.pt --data mine.yaml
  prune train --resume runs/train/exp/weights/last.pt"""


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
        help="pictures a batch, or auto: the most that fit, up to --nominal-batch (default 16)",
    )
    recipe.add_arguments(parser)
    options.device(parser)
    options.workers(parser)
    options.run_folder(parser, project="runs/train")
    options.json_output(parser)


def run(args: argparse.Namespace) -> int | None:
    """Train as asked, alone or as one of torchrun's processes; say what to use next."""
    from prune.cli import console
    from prune.common import device
    from prune.train import distributed as teams

    with teams.joined() as team, ExitStack() as kept:
        say = console.logger(quiet=not team.leads).info
        folder, where = team.all_make(partial(_settle, args, team, say, kept))
        with device.repeatable(args.deterministic), device.vanishing_as_zero():
            return _run(args, folder, where, team, say, kept)


def _settle(
    args: argparse.Namespace, team: Team, say: Say, kept: ExitStack
) -> tuple[Path | None, torch.device]:
    """Find the folder of a run that is to go on, if it is, with its options; and the device.

    Of the folder it becomes the one writer, for as long as `kept` stays open.
    """
    import torch

    from prune.common import device, lock
    from prune.train.distributed import local_rank

    asked, folder = args.device, None
    if args.resume is not None:
        folder = resume.take_up(args, args.typed, say)
        if team.leads:
            kept.enter_context(lock.held(folder))  # before anything of its state is read
    if args.sync_bn and team.size == 1:
        say("note: --sync-bn does nothing in one process; torchrun starts several")
    # Of several processes each has its own GPU, whichever a run had that was alone before.
    alone = team.size == 1 or args.device == "cpu"
    with jobs.named(args, "device"):
        where = device.choose(args.device if alone else asked, process=local_rank())
    if where.type == "cuda" and team.size > 1:
        torch.cuda.set_device(where)
    return folder, where


def _run(
    args: argparse.Namespace,
    folder: Path | None,
    where: torch.device,
    team: Team,
    say: Say,
    kept: ExitStack,
) -> int:
    """Go on in an interrupted run's folder, or in a new one."""
    from prune.train.loop import Stopped

    job = team.all_make(partial(jobs.prepare, args, where, team, say))
    make = partial(_taken_up, args, folder) if folder else partial(_new_folder, args, job, kept)
    folder = team.first(make)
    say(f"training on {job.device}, files in {folder}")
    try:
        rows, test = _train(args, job, folder, say)
    except Stopped:
        team.wait()  # until all is saved: when one process leaves, torchrun ends the others
        if team.leads:
            last = folder / "weights" / "last.pt"
            again = shlex.join(["prune", "train", "--resume", str(last)])
            streams.log(f"prune: stopped and saved; to go on: {again}")
        return 130
    if team.leads:
        outcome.tell(
            rows,
            folder,
            args.json,
            best_after=job.settings.best_after,
            then=outcome.next_command(job, folder, rows),
            test=test,
        )
        for note in outcome.notes(job, folder, rows):
            say(note)
    return 0


def _new_folder(args: argparse.Namespace, job: Job, kept: ExitStack) -> Path:
    from prune.common import lock, run_dir

    folder = run_dir.new_run(args.project, args.name, exist_ok=args.exist_ok)
    kept.enter_context(lock.held(folder))
    resume.clear(folder, needed=(args.weights, args.teacher))
    _record(args, job, folder)
    return folder


def _taken_up(args: argparse.Namespace, folder: Path) -> Path:
    """Check that a run can go on in its folder; note there where its data is now."""
    from prune.common import run_dir
    from prune.common.files import probe

    probe(folder)
    run_dir.amend(folder, data=args.data.resolve(), **_started_in(args))
    return folder


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=options.path_or_none,
        metavar="FILE",
        help="weights to start from: a checkpoint, a public .pt, or Darknet .weights with --cfg; "
        "with other classes in the data all else is taken over",
    )
    parser.add_argument(
        "--cfg",
        type=options.path_or_none,
        metavar="CFG",
        help="network to train from scratch, or the cfg of --weights; of a checkpoint with other "
        "layers all that fits is taken over",
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
        choices=options.ACTIVATIONS,
        help="train with this activation in all convolutions: relu costs nothing in INT8",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="LAST.PT",
        help="go on with an interrupted run: its last.pt or folder (default: --project's newest)",
    )


def _batch_size(text: str) -> int | str:
    """Read a number, which is checked with the others, or auto."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number or auto") from None


def _record(args: argparse.Namespace, job: Job, folder: Path) -> None:
    """Write what the run was asked for, so that it can be understood and resumed anywhere.

    In opt.yaml and run.json are all options, files among them as absolute paths, and the picture
    size as it was rounded; in hyp.yaml all hyper-parameters. A resumed run reads these files.

    Raises:
        InputError: the folder cannot be written.
        WriteError: the disk is full.
    """
    from prune.common import hyperparameters, run_dir

    said = vars(args)
    paths = {name: said[name].resolve() for name in resume.PATHS if said[name] is not None}
    hyperparameters.save(job.hyp, folder / "hyp.yaml")  # first: opt.yaml is written last of all
    run_dir.record(
        folder, {**said, **paths, **_started_in(args), "img_size": job.settings.imgsz.plain}
    )


def _started_in(args: argparse.Namespace) -> dict[str, object]:
    """Return the folder that paths in the data's description may be relative to."""
    return {recorded.STARTED_IN: getattr(args, recorded.STARTED_IN, None) or str(Path.cwd())}


def _train(
    args: argparse.Namespace, job: Job, folder: Path, say: Say
) -> tuple[list[Row], Metrics | None]:
    """Train, and look at what came of it; the figures of all epochs, and of the test split."""
    from prune.train import checkpointing, memory
    from prune.train.loop import train
    from prune.train.profile import Stopwatch
    from prune.train.stopping import listening
    from prune.train.write_failures import loading, saving

    opened = _logging(args, job.team, folder, say)
    with opened as log, memory.enough(job.settings, job.device), loading(folder):
        watch = Stopwatch(job.device) if job.settings.profile else None
        launched = job.team.size > 1 or child_processes.entered()
        with listening(log.say, launched=launched) as asked:
            rows = train(
                _started(job, watch),  # without a name, which would keep it while cuts replace it
                job.batches,
                job.judge,
                origin=_origin(job),
                log=log,
                resume=job.state,
                asked=asked,
                narrow=_narrow(job, log.say),
            )
        # What all do together comes first: nobody has to wait for what one does alone.
        test = outcome.score_test(job, folder, log.say)
        if not args.no_plots:
            outcome.draw_curves(job, rows, log)
        if job.team.leads and watch is not None:
            outcome.tell_times(watch, job, log)
    if job.team.leads:
        with saving(folder, len(rows)):
            checkpointing.finish(
                folder / "weights"
            )  # last: until then, a killed run can be resumed
    return rows, test


def _started(job: Job, watch: Stopwatch | None) -> Run:
    from prune.train.run import start

    return start(
        job.source.net,
        len(job.batches),
        settings=job.settings,
        hyp=job.hyp,
        device=job.device,
        teacher=job.teacher.net if job.teacher else None,
        team=job.team,
        watch=watch,
    )


def _origin(job: Job) -> Origin:
    from prune.train.checkpointing import Origin, listing

    return Origin(
        names=job.spec.names,
        data=str(job.spec.path),
        history=job.source.history,
        parent=job.source.parent,
        teacher=job.teacher.digest if job.teacher else None,
        pictures=listing(job.spec.pictures("train")),
    )


@contextmanager
def _logging(args: argparse.Namespace, team: Team, folder: Path, say: Say) -> Iterator[Log]:
    from prune.cli import console
    from prune.train import trackers
    from prune.train.run_log import Log, Quiet

    if not team.leads:
        yield Quiet(folder, say)
        return
    with console.progress() as bar, trackers.opened(folder, args.log, vars(args)) as board:
        # A line written past a live bar would tear it.
        above = partial(bar.console.print, markup=False, highlight=False, soft_wrap=True)
        yield Log(folder, say if bar.disable else above, bar=bar, board=board)


def _narrow(job: Job, say: Say) -> Narrow | None:
    """Return what cuts the network as it trains, if that is wished."""
    if job.narrowing is None:
        return None
    from prune.train import gradual

    return partial(gradual.narrow, wish=job.narrowing, data=job.spec, say=say)
