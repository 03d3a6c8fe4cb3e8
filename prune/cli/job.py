"""What `prune train` needs before it can start, read and checked; nothing is written here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import recipe
from prune.cli.options import as_typed
from prune.cli.reading import class_names
from prune.cli.recorded import STARTED_IN
from prune.common.inputs import naming
from prune.errors import InputError

if TYPE_CHECKING:
    import torch

    from prune.data.loader import Loader, TrainLoader
    from prune.data.spec import DataSpec
    from prune.models.darknet import Darknet
    from prune.train.distributed import Team
    from prune.train.gradual import Narrowing
    from prune.train.run import Settings
    from prune.train.source import Source, Teacher

    Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
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
    test: Loader | None
    state: Mapping[str, object] | None
    narrowing: Narrowing | None


def prepare(args: argparse.Namespace, where: torch.device, team: Team, say: Say) -> Job:
    """Read and check everything a run needs, and write nothing.

    Raises:
        PruneError: some input cannot be used.
    """
    from prune.train import trackers

    if team.leads:
        with named(args, "log"):
            trackers.expect(args.log)
    spec = _spec(args)
    source, state = _source(args, spec)
    for note in source.notes:
        say(f"note: {note}")
    with named(args):
        settings = recipe.settings(args, source, where.type, say)
    _expect_spread(args, settings, source.net, count=len(spec.pictures("train")))
    hyp = recipe.hyper_parameters(args)
    if args.batch_size == "auto":
        if team.size > 1:
            raise InputError("--batch-size auto fits one process; several need a number")
        settings = _fitted(args, settings, source, hyp=hyp, spec=spec, where=where)
        args.batch_size = settings.batch_size  # a resumed run keeps it
        say(f"--batch-size auto: {settings.batch_size} pictures a batch")
    stride = source.net.stride
    with named(args, "workers"):
        batches = _batches(args, spec, settings, hyp=hyp, stride=stride, part=team.part)
    source = _with_anchors(args, source, batches, hyp, say)
    with named(args):
        recipe.freeze(args, source.net, say)  # of the very network that trains
    teacher = _teacher(args, source, spec)
    for note in teacher.notes if teacher else ():
        say(f"note: {note}")
    with named(args):
        narrowing = recipe.narrowing(args, source, settings)
    if narrowing is not None:
        settings = replace(settings, best_after=narrowing.done)
    judge, test = _judges(args, spec, settings, stride=stride, part=team.part, say=say)
    for split, loader in (("train", batches), ("val", judge), ("test", test)):
        if loader is not None:
            say(f"{split}: {loader.truth}")
    return Job(
        source=source,
        teacher=teacher,
        spec=spec,
        settings=settings,
        hyp=hyp,
        device=where,
        team=team,
        batches=batches,
        judge=judge,
        test=test,
        state=state,
        narrowing=narrowing,
    )


def named(args: argparse.Namespace, option: str = "") -> AbstractContextManager[None]:
    """Say where options were read that nobody typed: in the opt.yaml of a run that goes on.

    Args:
        args: the command's.
        option: one that may be typed for such a run, too.
    """
    if args.resume is None or option in args.typed:
        return nullcontext()
    return naming(args.resume.parents[1] / "opt.yaml")


def _expect_spread(
    args: argparse.Namespace, settings: Settings, net: Darknet, *, count: int
) -> None:
    """Refuse batches of one image of one cell: a batch norm needs two values per channel.

    Args:
        args: the command's.
        settings: of the run.
        net: the network.
        count: images of an epoch.

    Raises:
        InputError: the images are so small, and a batch of an epoch has one.
    """
    from torch import nn

    from prune.train import multi_scale

    stride = net.stride
    possible = multi_scale.sizes(settings.imgsz, stride=stride) if settings.multi_scale else ()
    is_cell = (stride, stride) in (settings.imgsz, *possible)
    is_alone = 1 in (settings.batch_size, count % settings.batch_size)
    if is_cell and is_alone and any(isinstance(m, nn.BatchNorm2d) for m in net.modules()):
        with named(args):
            raise InputError(
                f"image size is {settings.imgsz}, of which a batch of one image is one cell of "
                f"{stride} pixels, too few to train on; give --img-size {2 * stride}"
            )


def _spec(args: argparse.Namespace) -> DataSpec:
    """Read the data set's description."""
    from prune.data import spec
    from prune.data.sift import sift

    if args.data is None:
        raise InputError("no data set; give --data, a data.yaml as `prune data voc` writes it")
    found = spec.load(args.data, splits=("train", "val"), working=_started_in(args))
    found = sift(found, spec.SPLITS, strict=args.strict)
    return found.as_one_class() if args.single_cls else found


def _started_in(args: argparse.Namespace) -> Path | None:
    """Return the folder that a resumed run was started in, None for one that starts here."""
    found = getattr(args, STARTED_IN, None)
    return Path(found) if found else None


def _batches(
    args: argparse.Namespace,
    spec: DataSpec,
    settings: Settings,
    *,
    hyp: Mapping[str, float],
    stride: int,
    part: tuple[int, int],
) -> TrainLoader:
    """Open what is trained on."""
    from prune.data import loader

    return loader.train_loader(
        spec,
        imgsz=settings.imgsz,
        batch_size=settings.batch_size,
        stride=stride,
        hyp=hyp,
        workers=args.workers,
        seed=settings.seed,
        cache=args.cache,
        part=part,
    )


def _judges(
    args: argparse.Namespace,
    spec: DataSpec,
    settings: Settings,
    *,
    stride: int,
    part: tuple[int, int],
    say: Say,
) -> tuple[Loader, Loader | None]:
    """Open what scores are made on: the validation split, and the test split if there is one."""
    from prune.data.loader import score_loader

    load = partial(
        score_loader,
        spec,
        imgsz=settings.imgsz,
        batch_size=settings.batch_size,
        stride=stride,
        workers=args.workers,
        part=part,
    )
    return load(split="val", cache=args.cache), load(split="test") if _has_test(spec, say) else None


def _has_test(spec: DataSpec, say: Say) -> bool:
    """Tell whether there are test pictures with labels; competitions keep theirs."""
    from prune.data import labels

    pictures = spec.splits.get("test", ())
    labelled = any(labels.label_path(picture).is_file() for picture in pictures)
    if pictures and not labelled:
        say("note: the test split has no label files; it is not scored")
    return labelled


def _source(args: argparse.Namespace, spec: DataSpec) -> tuple[Source, Mapping[str, object] | None]:
    """Choose what to train: an interrupted run's network, a checkpoint's, or a fresh one."""
    from prune.train import checkpointing, source

    if args.resume is not None:
        found, state = source.interrupted(args.resume, names=spec.names)
        checkpointing.expect_pictures(state, spec.pictures("train"))
        return found, state
    found = _begun(args, spec)
    return source.activated(found, args.activation) if args.activation else found, None


def _begun(args: argparse.Namespace, spec: DataSpec) -> Source:
    """Choose what a new run starts from."""
    from prune.train import source
    from prune.train.start import Start, begin

    if args.weights is not None:
        if args.partial and args.cfg is None:
            raise InputError("--partial takes --weights into another network; give that as --cfg")
        start = Start(
            weights=args.weights,
            cfg=args.cfg,
            names=class_names(args.names),
            decoding=args.decoding,
            pt=args.pt,
            partial=args.partial,
            keep_classes=args.keep_classes,
            teacher=args.teacher is not None,
            seed=args.seed,
        )
        return begin(start, names=spec.names)
    for option in ("partial", "keep_classes", "names", "decoding"):
        if getattr(args, option):
            raise InputError(f"{as_typed(option)} needs --weights, the checkpoint to start from")
    if args.cfg is not None:
        return source.fresh(args.cfg, names=spec.names, seed=args.seed)
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
    from prune.checkpoint.convert import open_weights
    from prune.train import memory
    from prune.train.distillation import expect_alike

    teacher = args.teacher and checkpoint.network(open_weights(args.teacher))
    if teacher:
        expect_alike(teacher, source.net)
    size = memory.largest_batch(
        source.net,
        settings,
        hyp=hyp,
        device=where,
        pictures=len(spec.pictures("train")),
        teacher=teacher,
    )
    return replace(settings, batch_size=size)
