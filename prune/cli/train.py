"""prune train: train a network, fine-tune a pruned one, or go on with a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options, outcome, recipe
from prune.errors import InputError

if TYPE_CHECKING:
    import torch

    from prune.data.loader import Loader, TrainLoader
    from prune.data.spec import DataSpec
    from prune.gradual import Narrowing
    from prune.score.metrics import Scores
    from prune.train.boards import Board
    from prune.train.keep import Row
    from prune.train.loop import Narrow
    from prune.train.run import Run, Settings
    from prune.train.source import Source, Teacher

    Say = Callable[[str], None]

EXAMPLE = """\
  prune train --cfg cfg/yolor_csp_n.cfg --data data/bccd.yaml --img-size 320 --epochs 60
  prune train --weights model_data/layer_pruning.pt --pt --data data/bccd.yaml --epochs 40
  prune train --weights half.pt --pt --teacher best.pt --distill --data data/bccd.yaml --epochs 55
  prune train --resume runs/train/exp/weights/last.pt"""

# What may be said anew when a run is taken up again; everything else stays as it was.
_FREE = ("resume", "device", "workers", "json")
_PATHS = ("weights", "cfg", "data", "hyp", "project", "teacher")


@dataclass(frozen=True)
class _Job:
    """A run whose input was read and found good; nothing is written yet."""

    source: Source
    teacher: Teacher | None
    spec: DataSpec
    settings: Settings
    hyp: Mapping[str, float]
    device: torch.device
    batches: TrainLoader
    judge: Loader
    test: Loader | None
    state: Mapping[str, object] | None
    narrowing: Narrowing | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    _add_network(parser)
    options.data(parser, required=False)
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
    """Train as asked, and say what to use next."""
    from prune import device
    from prune.cli import console

    say = console.logger().info
    folder = _take_up(args, say) if args.resume is not None else None
    with device.repeatable(args.deterministic):
        return _run(args, folder, say)


def _run(args: argparse.Namespace, folder: Path | None, say: Say) -> int:
    """Go on in an interrupted run's folder, or in a new one."""
    from prune import runs
    from prune.train.loop import Stopped

    job = _prepare(args, say)
    if folder is None:
        folder = runs.new_run(args.project, args.name, exist_ok=args.exist_ok)
        _record(args, job, folder)
    say(f"training on {job.device}, files in {folder}")
    try:
        rows = _train(args, job, folder, say)
    except Stopped:
        last = folder / "weights" / "last.pt"
        sys.stderr.write(f"prune: stopped and saved; to go on: prune train --resume {last}\n")
        return 130
    test = _score_test(job, folder, say)
    outcome.tell(
        rows,
        folder,
        args.json,
        best_after=job.settings.best_after,
        pruned=job.source.pruned or job.narrowing is not None,
        test=test,
    )
    return 0


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=options.path_or_none, metavar="FILE", help="checkpoint to start from"
    )
    parser.add_argument(
        "--cfg", type=options.path_or_none, metavar="CFG", help="network to train from nothing"
    )
    parser.add_argument("--pt", action="store_true", help="the weights are pruned")
    parser.add_argument(
        "--partial",
        action="store_true",
        help="train the network of --cfg, with what fits in it of --weights",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="LAST.PT",
        help="go on with an interrupted run (default: the newest of the project)",
    )


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def _take_up(args: argparse.Namespace, say: Say) -> Path:
    """Put an interrupted run's options into `args`; return its folder.

    Raises:
        InputError: there is no such run.
    """
    import yaml

    last = Path(args.resume) if args.resume else _newest(args.project)
    folder = last.parent.parent
    try:
        recorded = yaml.safe_load((folder / "opt.yaml").read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"cannot resume {last}: {folder / 'opt.yaml'}: {error.strerror}"
        ) from error
    if not isinstance(recorded, dict):
        raise InputError(f"cannot resume {last}: {folder / 'opt.yaml'} holds no options")
    said = _said(args)
    for name, value in recorded.items():
        if name not in _FREE:
            setattr(args, name, Path(value) if name in _PATHS and value is not None else value)
        elif name not in said:
            setattr(args, name, value)
    args.resume, args.hyp = last, folder / "hyp.yaml"
    if not last.is_file():
        say(f"note: {folder} has no weights yet; the run begins anew")
        args.resume = None
    if ignored := sorted(said - {*_FREE}):
        say(f"note: a resumed run keeps its own {', '.join(ignored)}")
    return folder


def _newest(project: Path) -> Path:
    found = sorted(project.glob("*/weights/last.pt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"no run to resume in {project}; name its last.pt: --resume FILE")
    return found[-1]


def _said(args: argparse.Namespace) -> set[str]:
    """Name the options whose values are not the defaults."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return {name for name, value in vars(args).items() if value != parser.get_default(name)}


def _prepare(args: argparse.Namespace, say: Say) -> _Job:
    """Read and check everything a run needs, and write nothing.

    Raises:
        PruneError: some input cannot be used.
    """
    from prune import device
    from prune.data import loader
    from prune.data import spec as data_spec
    from prune.train import boards

    boards.expect(args.log)
    where = device.choose(args.device)
    if args.data is None:
        raise InputError("no data set; give --data, a data.yaml as `prune data voc` writes it")
    spec = data_spec.load(args.data, splits=("train", "val"), optional=("test",))
    if args.single_cls:
        spec = spec.as_one_class()
    source, state = _source(args, spec)
    for note in source.notes:
        say(f"note: {note}")
    settings, hyp = recipe.settings(args, source, where.type, say), recipe.hyper_parameters(args)
    recipe.freeze(args, source.net, say)
    if args.batch_size == "auto":
        settings = _fitted(args, settings, source, hyp=hyp, spec=spec, where=where)
        args.batch_size = settings.batch_size  # a resumed run keeps it
        say(f"--batch-size auto: {settings.batch_size} pictures a batch")
    batches = loader.train_loader(
        spec,
        imgsz=settings.imgsz,
        batch_size=settings.batch_size,
        stride=source.net.stride,
        hyp=hyp,
        workers=args.workers,
        seed=settings.seed,
        cache=args.cache,
    )
    source = _with_anchors(args, source, batches, hyp, say)
    teacher = _teacher(args, source, spec)
    for note in teacher.notes if teacher else ():
        say(f"note: {note}")
    score_loader = partial(
        loader.score_loader,
        spec,
        imgsz=settings.imgsz,
        batch_size=settings.batch_size,
        stride=source.net.stride,
        workers=args.workers,
    )
    judge = score_loader(split="val", cache=args.cache)
    test = score_loader(split="test") if _has_test(spec, say) else None
    narrowing = recipe.narrowing(args, source, settings)
    return _Job(source, teacher, spec, settings, hyp, where, batches, judge, test, state, narrowing)


def _has_test(spec: DataSpec, say: Say) -> bool:
    """Tell whether there are test pictures with labels; competitions keep theirs."""
    from prune.data import labels

    pictures = spec.splits.get("test", ())
    labelled = any(labels.label_path(picture).is_file() for picture in pictures)
    if pictures and not labelled:
        say("note: the test split has no labels; it is not scored")
    return labelled


def _source(args: argparse.Namespace, spec: DataSpec) -> tuple[Source, Mapping[str, object] | None]:
    """Choose what to train: an interrupted run's network, a checkpoint's, or a fresh one."""
    from prune.train import source

    if args.resume is not None:
        return source.interrupted(args.resume)
    if args.partial:
        if args.weights is None or args.cfg is None:
            raise InputError("partial takes --weights into another network; give that as --cfg")
        return source.partial(args.weights, args.cfg, names=spec.names, seed=args.seed), None
    if args.weights is not None:
        return source.trained(args.weights, names=spec.names, cfg=args.cfg, pt=args.pt), None
    if args.cfg is not None:
        return source.fresh(args.cfg, names=spec.names, seed=args.seed), None
    raise InputError("nothing to train; give --weights (a checkpoint) or --cfg (a network)")


def _with_anchors(
    args: argparse.Namespace,
    source: Source,
    batches: TrainLoader,
    hyp: Mapping[str, float],
    say: Say,
) -> Source:
    """Fit the network's anchors to the boxes, if asked to; an interrupted run has done so."""
    from prune.train import anchors

    if args.autoanchor is None or args.resume is not None:
        return source
    net, found = anchors.fitted(
        source.net,
        anchors.box_sizes(batches.pictures),
        anchor_t=hyp["anchor_t"],
        seed=args.seed,
        change=args.weights is None,
        force=args.autoanchor == "force",
    )
    say(found)
    return replace(source, net=net)


def _teacher(args: argparse.Namespace, student: Source, spec: DataSpec) -> Teacher | None:
    from prune.train import source

    if args.teacher is None:
        if args.distill != "output":
            raise InputError("--distill needs a --teacher, e.g. the network before it was pruned")
        return None
    resumed = args.resume is not None
    return source.teacher(args.teacher, student, names=spec.names, resumed=resumed)


def _fitted(
    args: argparse.Namespace,
    settings: Settings,
    source: Source,
    *,
    hyp: Mapping[str, float],
    spec: DataSpec,
    where: torch.device,
) -> Settings:
    """Choose the largest batch that fits into memory."""
    from prune import checkpoint
    from prune.train import memory

    teacher = args.teacher and checkpoint.network(checkpoint.load(args.teacher))
    size = memory.largest_batch(
        source.net,
        settings,
        hyp=hyp,
        device=where,
        pictures=len(spec.pictures("train")),
        teacher=teacher,
    )
    return replace(settings, batch_size=size)


def _record(args: argparse.Namespace, job: _Job, folder: Path) -> None:
    """Write what the run was asked for, so that it can be understood and resumed anywhere."""
    from prune import runs
    from prune.train import hyp

    said = vars(args)
    paths = {name: said[name].resolve() for name in _PATHS if said[name] is not None}
    hyp.save(job.hyp, folder / "hyp.yaml")  # first: opt.yaml is written last of all
    runs.record(folder, {**said, **paths, "img_size": job.settings.imgsz})


def _train(args: argparse.Namespace, job: _Job, folder: Path, say: Say) -> list[Row]:
    from prune.cli import console
    from prune.train import boards, keep, memory
    from prune.train.keep import Origin
    from prune.train.log import Log
    from prune.train.loop import train
    from prune.train.run import start
    from prune.train.safe import saving
    from prune.train.stop import listening

    origin = Origin(
        names=job.spec.names,
        data=str(job.spec.path),
        history=job.source.history,
        parent=job.source.parent,
        teacher=job.teacher.digest if job.teacher else None,
    )
    with (
        console.progress() as bar,
        boards.opened(folder, args.log, vars(args)) as board,
        memory.enough(job.settings, job.device),
    ):
        # A line written past a live bar would tear it.
        above = partial(bar.console.print, markup=False, highlight=False, soft_wrap=True)
        log = Log(folder, say if bar.disable else above, bar=bar, board=board)
        state = start(
            job.source.net,
            len(job.batches),
            settings=job.settings,
            hyp=job.hyp,
            device=job.device,
            teacher=job.teacher.net if job.teacher else None,
        )
        with listening(log.say) as asked:
            rows = train(
                state,
                job.batches,
                job.judge,
                origin=origin,
                log=log,
                resume=job.state,
                asked=asked,
                narrow=_narrow(job, log.say),
            )
        if job.settings.profile:
            _tell_times(state, job, folder, log.say)
        if not args.no_plots:
            _draw_curves(job, rows, folder, board)
    with saving(folder, len(rows)):
        keep.finish(folder / "weights")  # last: until then, a killed run can be resumed
    return rows


def _narrow(job: _Job, say: Say) -> Narrow | None:
    """Return what cuts the network as it trains, if that is wished."""
    if job.narrowing is None:
        return None
    from prune import gradual

    return partial(gradual.narrow, wish=job.narrowing, data=job.spec, say=say)


def _score_test(job: _Job, folder: Path, say: Say) -> Scores | None:
    """Score the best weights on the test split, if there is one, as they were scored on val."""
    from prune import checkpoint
    from prune.score.score import score

    if job.test is None:
        return None
    say("scoring the best weights on the test split")
    net = checkpoint.network(checkpoint.load(folder / "weights" / "best.pt")).to(job.device)
    half = job.settings.precision != "float32"
    return score(net, job.test, job.spec.names, device=job.device, half=half)


def _tell_times(run: Run, job: _Job, folder: Path, say: Say) -> None:
    """Say where the time went, and write it into the run's folder."""
    from prune.atomic import write_text
    from prune.train import profile

    lines = profile.report_of(run, job.batches)
    write_text(folder / "profile.txt", "\n".join(lines) + "\n")
    for line in lines:
        say(line)


def _draw_curves(job: _Job, rows: list[Row], folder: Path, board: Board) -> None:
    """Draw the run's figures, and what the best weights find."""
    from prune import checkpoint
    from prune.score import metrics, plots
    from prune.score.score import collect
    from prune.train import plots as pictures

    pictures.results_picture(rows, folder / "results.png")
    net = checkpoint.network(checkpoint.load(folder / "weights" / "best.pt")).to(job.device)
    names = job.spec.names
    classes = len(names)
    found = collect(lambda images: net.decode(net(images)), job.judge, classes, device=job.device)
    pair = found.truth, found.found
    paths = next(iter(job.judge)).paths
    shown = pictures.found_image(paths, found.found[: len(paths)], names, imgsz=job.settings.imgsz)
    pictures.write(shown, folder / "val_batch0.jpg")
    board.picture("val_batch0", pictures.as_rgb(shown), len(rows))
    precision = metrics.coco_precision(*pair, classes)[0]
    plots.precision_recall(precision, names, folder / "pr_curve.png")
    plots.f1_confidence(metrics.confidence_curves(*pair, classes), names, folder / "f1_curve.png")
    plots.confusion_matrix(
        metrics.confusion(*pair, classes), names, folder / "confusion_matrix.png"
    )
