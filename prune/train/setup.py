"""What a training run needs before it can start, read and checked; nothing is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from prune import checkpoint
from prune.checkpoint.convert import open_weights
from prune.common import hyperparameters, layer_ranges
from prune.common.amounts import read_amount
from prune.common.notes import Report
from prune.data import labels, loader
from prune.data import spec as specs
from prune.data.sift import sift
from prune.errors import InputError
from prune.train import anchors, memory, run_log, sampling
from prune.train.distillation import expect_alike
from prune.train.gradual import GradualPruning, cost_before_pruning, expect_reachable
from prune.train.initial_weights import open_interrupted, open_source, open_teacher
from prune.train.resume import expect_images
from prune.train.run import freeze
from prune.train.settings import Settings, settings_of

if TYPE_CHECKING:
    import torch

    from prune.data.loader import Loader, TrainLoader
    from prune.data.spec import DataSpec
    from prune.models.darknet import Darknet
    from prune.train.config import TrainConfig
    from prune.train.distributed import Team
    from prune.train.initial_weights import Source, Teacher
    from prune.train.resume import Resumed


@dataclass(frozen=True)
class Setup:
    """A run whose input was read and checked; nothing is written yet.

    Attributes:
        source: the network to train, and where it comes from.
        teacher: the network to distill from, if any.
        spec: the data set.
        settings: the options, fitted to network and device.
        hyp: hyper-parameters.
        device: where to train.
        team: the processes that train together.
        batches: loader of the training images.
        validation: loader of the validation images.
        test: loader of the test images, if any have labels.
        state: training state of the run that goes on, if one does.
        pruning: when and how far to prune while training, if at all.
    """

    source: Source
    teacher: Teacher | None
    spec: DataSpec
    settings: Settings
    hyp: Mapping[str, float]
    device: torch.device
    team: Team
    batches: TrainLoader
    validation: Loader
    test: Loader | None
    state: Mapping[str, object] | None
    pruning: GradualPruning | None


def prepare(
    config: TrainConfig,
    *,
    device: torch.device,
    team: Team,
    report: Report,
    resume: Resumed | None = None,
) -> Setup:
    """Read and check everything that a run needs.

    Args:
        config: the run's options.
        device: where to train.
        team: the processes that train together.
        report: takes notes on what was read and chosen.
        resume: the interrupted run that goes on, if any.

    Raises:
        PruneError: some input cannot be used.
    """
    last = resume.last if resume is not None else None

    def from_options(option: str = "") -> AbstractContextManager[None]:
        """Name the opt.yaml of a run that goes on in errors about its options."""
        return nullcontext() if resume is None else resume.naming_options(option)

    if team.is_main:
        with from_options("log"):
            run_log.expect_service(config.log)
    spec = _read_data(config)
    source, state = _open_source(config, spec, last)
    _report_notes(source.notes, report)
    with from_options():
        settings = settings_of(config, source, device=device.type, report=report)
        _expect_two_values_per_channel(settings, source.net, images=len(spec.images("train")))
    hyp = read_hyperparameters(config, resumed=last is not None)
    if config.batch_size == "auto":
        if team.size > 1:
            raise InputError("--batch-size auto fits one process; several need a number")
        size = _largest_batch(config, settings, source, hyp=hyp, spec=spec, device=device)
        settings = replace(settings, batch_size=size)
        report(f"--batch-size auto: {size} images per batch")
    with from_options("workers"):
        batches = loader.train_loader(
            spec,
            imgsz=settings.imgsz,
            batch_size=settings.batch_size,
            stride=source.net.stride,
            hyp=hyp,
            workers=config.workers,
            seed=settings.seed,
            cache=config.cache,
            part=team.part,
        )
    if config.autoanchor is not None and last is None:  # a run that goes on has its anchors
        source = _with_anchors(config, source, batches, hyp=hyp, report=report)
    with from_options():
        _freeze(config.freeze or (), source.net, report)  # of the very network that trains
    teacher = _open_teacher(config, source, spec, resumed=last is not None)
    _report_notes(teacher.notes if teacher else (), report)
    with from_options():
        pruning = _pruning(config, source, settings, resumed=last is not None)
    if pruning is not None:
        settings = replace(settings, best_after=pruning.done)
    load = partial(
        loader.evaluation_loader,
        spec,
        imgsz=settings.imgsz,
        batch_size=settings.batch_size,
        stride=source.net.stride,
        workers=config.workers,
        part=team.part,
    )
    validation = load(split="val", cache=config.cache)
    test = load(split="test") if _has_test_labels(spec, report) else None
    for split, one in (("train", batches), ("val", validation), ("test", test)):
        if one is not None:
            report(f"{split}: {one.truth}")
    return Setup(
        source=source,
        teacher=teacher,
        spec=spec,
        settings=settings,
        hyp=hyp,
        device=device,
        team=team,
        batches=batches,
        validation=validation,
        test=test,
        state=state,
        pruning=pruning,
    )


def _report_notes(notes: Sequence[str], report: Report) -> None:
    for note in notes:
        report(f"note: {note}")


def read_hyperparameters(config: TrainConfig, *, resumed: bool) -> Mapping[str, float]:
    """Read `hyp`, or choose the recipe that suits the start.

    A run that goes on has a complete file of its own. What that lacks was added to this program
    later, and is off.

    Raises:
        InputError: a file that cannot be used.
    """
    fresh = config.weights is None or resumed
    base = hyperparameters.SCRATCH if fresh else hyperparameters.FINETUNE
    return base if config.hyp is None else hyperparameters.load(config.hyp, base=base)


def _read_data(config: TrainConfig) -> DataSpec:
    """Read the data set's description, and leave out what cannot be read of its images."""
    if config.data is None:
        raise InputError("no data set; give --data, a data.yaml as `prune data voc` writes it")
    found = specs.load(config.data, splits=("train", "val"), working=config.working_folder)
    found = sift(found, specs.SPLITS, strict=config.strict)
    return found.as_one_class() if config.single_cls else found


def _open_source(
    config: TrainConfig, spec: DataSpec, last: Path | None
) -> tuple[Source, Mapping[str, object] | None]:
    """Open what to train: an interrupted run's network, with its state, or a new start."""
    if last is None:
        return open_source(config, names=spec.names), None
    source, state = open_interrupted(last, names=spec.names)
    expect_images(state, spec.images("train"))
    return source, state


def _expect_two_values_per_channel(settings: Settings, net: Darknet, *, images: int) -> None:
    """Refuse batches of one image of one cell: a BatchNorm needs two values per channel.

    Args:
        settings: of the run.
        net: the network.
        images: of an epoch.

    Raises:
        InputError: the images are so small, and a batch of an epoch has one.
    """
    stride = net.stride
    possible = (
        sampling.possible_sizes(settings.imgsz, stride=stride) if settings.multi_scale else ()
    )
    is_cell = (stride, stride) in (settings.imgsz, *possible)
    is_alone = 1 in (settings.batch_size, images % settings.batch_size)
    if is_cell and is_alone and any(isinstance(m, nn.BatchNorm2d) for m in net.modules()):
        raise InputError(
            f"image size is {settings.imgsz}, of which a batch of one image is one cell of "
            f"{stride} pixels, too few to train on; give --img-size {2 * stride}"
        )


def _largest_batch(
    config: TrainConfig,
    settings: Settings,
    source: Source,
    *,
    hyp: Mapping[str, float],
    spec: DataSpec,
    device: torch.device,
) -> int:
    """Return the size of the largest batch that fits into memory."""
    teacher = None
    if config.teacher is not None:
        teacher = checkpoint.network(open_weights(config.teacher))
        expect_alike(teacher, source.net)
    return memory.largest_batch(
        source.net,
        settings,
        hyp=hyp,
        device=device,
        images=len(spec.images("train")),
        teacher=teacher,
    )


def _with_anchors(
    config: TrainConfig,
    source: Source,
    batches: TrainLoader,
    *,
    hyp: Mapping[str, float],
    report: Report,
) -> Source:
    """Fit the network's anchors to the boxes."""
    net, found = anchors.fit_anchors(
        source.net,
        anchors.box_sizes(batches.images),
        anchor_t=hyp["anchor_t"],
        seed=config.seed,
        change=config.weights is None,
        force=config.autoanchor == "force",
    )
    report(found)
    return replace(source, net=net)


def _freeze(texts: Sequence[str], net: Darknet, report: Report) -> None:
    """Exclude layers, e.g. ("0-20",), from training.

    Raises:
        PlanError: layers that do not exist.
        InputError: nothing would be left to train.
    """
    if not texts:
        return
    layers = layer_ranges.read_layers(texts, len(net.layers))
    constant = freeze(net, layers)
    total = sum(parameter.numel() for parameter in net.parameters())
    ranges = layer_ranges.as_ranges(layers)
    report(f"note: layers {ranges} are not trained: {constant} of {total} parameters")


def _open_teacher(
    config: TrainConfig, student: Source, spec: DataSpec, *, resumed: bool
) -> Teacher | None:
    if config.teacher is not None:
        return open_teacher(config.teacher, student, names=spec.names, resumed=resumed)
    if config.distill != "output":
        raise InputError("--distill needs a --teacher, e.g. the network before it was pruned")
    return None


def _pruning(
    config: TrainConfig, source: Source, settings: Settings, *, resumed: bool
) -> GradualPruning | None:
    """Read `prune_to`; a fraction is of what the network had before this run.

    Raises:
        InputError: there is nothing to prune, or no epoch for it.
    """
    if config.prune_to is None:
        return None
    kind, _, text = config.prune_to.partition(":")
    if kind not in ("macs", "params"):
        raise InputError(f"--prune-to is {config.prune_to!r}; write macs:0.5, macs:30G, params:13M")
    amount = read_amount(text, option="--prune-to")
    if config.prune_until >= settings.epochs:
        raise InputError(
            f"--prune-until is {config.prune_until} of {settings.epochs} epochs; "
            "the last cut needs epochs after it"
        )
    # A run that goes on counts from before its own cuts; a new one from what it is given.
    start = cost_before_pruning(
        source.net, source.history if resumed else (), kind=kind, imgsz=settings.imgsz
    )
    pruning = GradualPruning(
        kind=kind,
        start=start,
        goal=int(amount if amount > 1 else amount * start),
        every=config.prune_every,
        until=config.prune_until,
        criterion=config.prune_criterion,
    )
    expect_reachable(source.net, pruning, imgsz=settings.imgsz)
    return pruning


def _has_test_labels(spec: DataSpec, report: Report) -> bool:
    """Tell whether there are test images with labels; competitions keep theirs."""
    images = spec.splits.get("test", ())
    labelled = any(labels.label_path(image).is_file() for image in images)
    if images and not labelled:
        report("note: the test split has no label files; it is not evaluated")
    return labelled
