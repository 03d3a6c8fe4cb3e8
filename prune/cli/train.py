"""prune train: train a network, fine-tune a pruned one, or go on with a run."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import options
from prune.errors import InputError

if TYPE_CHECKING:
    import torch

    from prune.data.loader import Loader, TrainLoader
    from prune.data.spec import DataSpec
    from prune.train.keep import Row
    from prune.train.log import Log
    from prune.train.run import Settings
    from prune.train.source import Source, Teacher
    from prune.train.team import Team

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
    team: Team
    batches: TrainLoader
    judge: Loader
    state: Mapping[str, object] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    _add_network(parser)
    options.data(parser, required=False)
    options.image_size(parser)
    options.batch_size(parser)
    _add_recipe(parser)
    _add_keeping(parser)
    options.device(parser)
    options.workers(parser)
    options.run_folder(parser, project="runs/train")
    options.json_output(parser)


def run(args: argparse.Namespace) -> int | None:
    """Train as asked, alone or as one of torchrun's processes; say what to use next."""
    from prune import device
    from prune.train import team

    where = device.choose(args.device, process=team.local_rank())
    with team.joined(where) as joined:
        return _run(args, where, joined)


def _run(args: argparse.Namespace, where: torch.device, team: Team) -> int:
    from prune.cli import console
    from prune.train.loop import Stopped

    say = console.logger().info if team.leads else _say_nothing
    folder, job = team.all_make(partial(_read, args, say, where, team))
    if folder is None:
        folder = team.first(partial(_new_folder, args, job))
    say(f"training on {job.device}, files in {folder}")
    try:
        rows = _train(job, folder, say)
    except Stopped:
        team.wait()  # until all is saved: when one process leaves, torchrun ends the others
        if team.leads:
            last = folder / "weights" / "last.pt"
            sys.stderr.write(f"prune: stopped and saved; to go on: prune train --resume {last}\n")
        return 130
    if team.leads:
        _tell(rows, folder, args.json, pruned=job.source.pruned)
    return 0


def _read(
    args: argparse.Namespace, say: Say, where: torch.device, team: Team
) -> tuple[Path | None, _Job]:
    """Read what a run needs; and where it was, if it is to go on."""
    folder = _take_up(args, say) if args.resume is not None else None
    return folder, _prepare(args, say, where, team)


def _say_nothing(_: str) -> None:
    """Take the place of a process's log, where the first one speaks for all."""


def _new_folder(args: argparse.Namespace, job: _Job) -> Path:
    from prune import runs

    folder = runs.new_run(args.project, args.name, exist_ok=args.exist_ok)
    _record(args, job, folder)
    return folder


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", type=_path_or_none, metavar="FILE", help="checkpoint to start from"
    )
    parser.add_argument(
        "--cfg", type=_path_or_none, metavar="CFG", help="network to train from nothing"
    )
    parser.add_argument("--pt", action="store_true", help="the weights are pruned")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="LAST.PT",
        help="go on with an interrupted run (default: the newest of the project)",
    )


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hyp",
        type=_path_or_none,
        metavar="YAML",
        help="hyper-parameters (default: as cfg/hyp/scratch.yaml, or finetune.yaml with --weights)",
    )
    parser.add_argument(
        "--teacher",
        type=_path_or_none,
        metavar="FILE",
        help="checkpoint to imitate, as a rule the network before it was pruned (distillation)",
    )
    parser.add_argument(
        "--distill",
        nargs="?",
        const="both",
        default="output",
        choices=("output", "feature", "both"),
        help="what of the teacher to imitate (default output; both if the word stands alone)",
    )
    parser.add_argument(
        "--sparsity",
        type=_sparsity,
        metavar="KIND:X",
        help="make channels fade before a cut: bn:1e-3 (scales, L1) or group:1e-3 (group lasso)",
    )
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="default 100")
    parser.add_argument(
        "--nominal-batch",
        type=int,
        default=64,
        metavar="N",
        help="pictures an update gathers once 1000 batches are past; fewer before (default 64)",
    )
    parser.add_argument(
        "--linear-lr",
        action="store_true",
        help="a learning rate that falls linearly, not as a cosine",
    )
    options.seed(parser)
    parser.add_argument(
        "--bf16", action="store_true", help="compute in bfloat16 (default on GPUs that can)"
    )
    parser.add_argument("--compile", action="store_true", help="let torch.compile make it faster")
    parser.add_argument(
        "--eager", action="store_true", help="on a GPU: no CUDA graphs, one launch an operation"
    )
    parser.add_argument(
        "--sync-bn",
        action="store_true",
        help="under torchrun: BatchNorms see the whole batch, not each process's share",
    )
    parser.add_argument(
        "--cache", nargs="?", const="ram", choices=["ram"], help="keep decoded pictures in memory"
    )


def _add_keeping(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--save-period",
        type=int,
        nargs="?",
        const=25,
        default=0,
        metavar="N",
        help="also keep every Nth epoch (25 if N is left out)",
    )
    parser.add_argument(
        "--val-every", type=int, default=1, metavar="N", help="score every Nth epoch (default 1)"
    )
    parser.add_argument("--noval", action="store_true", help="score the last epoch only")


def _path_or_none(text: str) -> Path | None:
    """Read a path; YOLO users write --weights '' for none."""
    return Path(text) if text else None


def _sparsity(text: str) -> tuple[str, float]:
    """Read KIND:STRENGTH; which kinds there are is not known here."""
    kind, colon, strength = text.partition(":")
    try:
        return kind, float(strength if colon else "nan")
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no kind and strength, e.g. bn:1e-3"
        ) from None


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


def _prepare(args: argparse.Namespace, say: Say, where: torch.device, team: Team) -> _Job:
    """Read and check everything a run needs, and write nothing.

    Raises:
        PruneError: some input cannot be used.
    """
    from prune.data import loader
    from prune.data import spec as data_spec

    if args.data is None:
        raise InputError("no data set; give --data, a data.yaml as `prune data voc` writes it")
    spec = data_spec.load(args.data, splits=("train", "val"))
    source, state = _source(args, spec)
    teacher = _teacher(args, source, spec)
    for note in (*source.notes, *(teacher.notes if teacher else ())):
        say(f"note: {note}")
    settings, hyp = _settings(args, source, where.type, say), _hyp(args)
    batches = loader.train_loader(
        spec,
        imgsz=settings.imgsz,
        batch_size=settings.batch_size,
        stride=source.net.stride,
        hyp=hyp,
        workers=args.workers,
        seed=settings.seed,
        cache=args.cache,
        part=team.part,
    )
    judge = loader.score_loader(
        spec,
        split="val",
        imgsz=settings.imgsz,
        batch_size=settings.batch_size,
        stride=source.net.stride,
        workers=args.workers,
        cache=args.cache,
        part=team.part,
    )
    return _Job(source, teacher, spec, settings, hyp, where, team, batches, judge, state)


def _source(args: argparse.Namespace, spec: DataSpec) -> tuple[Source, Mapping[str, object] | None]:
    """Choose what to train: an interrupted run's network, a checkpoint's, or a fresh one."""
    from prune.train import source

    if args.resume is not None:
        return source.interrupted(args.resume)
    if args.weights is not None:
        return source.trained(args.weights, names=spec.names, cfg=args.cfg, pt=args.pt), None
    if args.cfg is not None:
        return source.fresh(args.cfg, names=spec.names, seed=args.seed), None
    raise InputError("nothing to train; give --weights (a checkpoint) or --cfg (a network)")


def _teacher(args: argparse.Namespace, student: Source, spec: DataSpec) -> Teacher | None:
    from prune.train import source

    if args.teacher is None:
        if args.distill != "output":
            raise InputError("--distill needs a --teacher, e.g. the network before it was pruned")
        return None
    resumed = args.resume is not None
    return source.teacher(args.teacher, student, names=spec.names, resumed=resumed)


def _settings(args: argparse.Namespace, source: Source, device: str, say: Say) -> Settings:
    from prune.train.run import Settings
    from prune.train.sparsity import Sparsity

    wanted = source.imgsz if args.img_size is None else args.img_size
    stride = source.net.stride
    imgsz = -(-wanted // stride) * stride
    if imgsz != wanted:
        say(f"note: picture size {wanted} is raised to {imgsz}, a multiple of the stride {stride}")
    return Settings(
        epochs=args.epochs,
        imgsz=imgsz,
        batch_size=args.batch_size,
        nominal_batch=args.nominal_batch,
        seed=args.seed,
        linear_lr=args.linear_lr,
        val_every=0 if args.noval else args.val_every,
        save_period=args.save_period,
        precision="bfloat16" if args.bf16 else _fast(device),
        distill=args.distill,
        sparsity=Sparsity(*args.sparsity) if args.sparsity else None,
        eager=args.eager,
        compiled=args.compile,
        sync_bn=args.sync_bn,
    )


def _fast(device: str) -> str:
    """Return the fastest precision that trains as well as float32 on this kind of device."""
    import torch

    if device != "cuda":
        return "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"


def _hyp(args: argparse.Namespace) -> Mapping[str, float]:
    from prune.train import hyp

    if args.hyp is not None:
        return hyp.load(args.hyp)
    return hyp.SCRATCH if args.weights is None else hyp.FINETUNE


def _record(args: argparse.Namespace, job: _Job, folder: Path) -> None:
    """Write what the run was asked for, so that it can be understood and resumed anywhere."""
    from prune import runs
    from prune.train import hyp

    said = vars(args)
    paths = {name: said[name].resolve() for name in _PATHS if said[name] is not None}
    hyp.save(job.hyp, folder / "hyp.yaml")  # first: where there is an opt.yaml, all is there
    runs.record(folder, {**said, **paths, "img_size": job.settings.imgsz})


def _train(job: _Job, folder: Path, say: Say) -> list[Row]:
    from prune.train.keep import Origin
    from prune.train.loop import train
    from prune.train.run import start
    from prune.train.stop import listening

    origin = Origin(
        names=job.spec.names,
        data=str(job.spec.path),
        history=job.source.history,
        parent=job.source.parent,
        teacher=job.teacher.digest if job.teacher else None,
    )
    state = start(
        job.source.net,
        len(job.batches),
        settings=job.settings,
        hyp=job.hyp,
        device=job.device,
        teacher=job.teacher.net if job.teacher else None,
        team=job.team,
    )
    with (
        _logging(folder, say, quiet=not job.team.leads) as log,
        listening(log.say, launched=job.team.size > 1) as asked,
    ):
        rows = train(
            state,
            job.batches,
            job.judge,
            origin=origin,
            log=log,
            resume=job.state,
            asked=asked,
        )
    _draw_curves(job, rows, folder)
    return rows


@contextmanager
def _logging(folder: Path, say: Say, *, quiet: bool) -> Iterator[Log]:
    from torch.utils.tensorboard.writer import SummaryWriter

    from prune.cli import console
    from prune.train.log import Log, Quiet

    if quiet:
        yield Quiet(folder, say)
        return
    with console.progress() as bar, SummaryWriter(str(folder)) as board:
        # A line written past a live bar would tear it.
        above = partial(bar.console.print, markup=False, highlight=False, soft_wrap=True)
        yield Log(folder, say if bar.disable else above, bar=bar, board=board)


def _draw_curves(job: _Job, rows: list[Row], folder: Path) -> None:
    """Draw the run's figures, and what the best weights find; several processes look together."""
    from prune import checkpoint
    from prune.score import metrics, plots
    from prune.score.score import collect
    from prune.train.plots import results_picture

    best = job.team.first(partial(checkpoint.load, folder / "weights" / "best.pt"))
    net = checkpoint.network(best).to(job.device)
    names = job.spec.names
    classes = len(names)
    found = collect(
        lambda images: net.decode(net(images)),
        job.judge,
        classes,
        device=job.device,
        gather=job.team.gather,
    )
    if not job.team.leads:
        return
    results_picture(rows, folder / "results.png")
    pair = found.truth, found.found
    precision = metrics.coco_precision(*pair, classes)[0]
    plots.precision_recall(precision, names, folder / "pr_curve.png")
    plots.f1_confidence(metrics.confidence_curves(*pair, classes), names, folder / "f1_curve.png")
    plots.confusion_matrix(
        metrics.confusion(*pair, classes), names, folder / "confusion_matrix.png"
    )


def _tell(rows: list[Row], folder: Path, as_json: bool, *, pruned: bool) -> None:
    """Print the best epoch and the last, and what to use next."""
    from prune.cli import console
    from prune.train.keep import fitness

    best = max((row for row in rows if "map" in row), key=fitness)
    scores = ("precision", "recall", "f1", "map50", "map")
    files = {name: folder / "weights" / f"{name}.pt" for name in ("best", "last")}
    if as_json:
        figures = {name: best[name] for name in scores}
        seconds = sum(row["seconds"] for row in rows)
        console.print_json(
            {"epochs": len(rows), "best_epoch": int(best["epoch"]), **figures}
            | {"seconds": seconds, "folder": str(folder)}
            | {name: str(path) for name, path in files.items()}
        )
        return
    console.print_table(
        ["", "epoch", "P", "R", "F1", "mAP@.5", "mAP@.5:.95"],
        [
            [name, int(row["epoch"]), *(row[score] for score in scores)]
            for name, row in (("best", best), ("last", rows[-1]))
        ],
    )
    print(f"\nbest weights  {files['best']}\nlast weights  {files['last']}")
    print(f"curves        {folder / 'results.png'}")
    then = "export" if pruned else "layers --upto 60"
    print(f"next          prune {then} --weights {files['best']}")
