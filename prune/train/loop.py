"""The training loop, in plain torch, to be read from top to bottom: `train`, then `_epoch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune.checkpoint import naming
from prune.evaluate.collect import evaluate_network
from prune.models.loss import detection_loss
from prune.train import checkpointing, distillation, optim, sampling, stopping
from prune.train.checkpointing import Origin, Position, Row, explain_save_errors, prepare_folder
from prune.train.distillation import output_loss
from prune.train.distributed import all_reduce, any_requested, sum_losses
from prune.train.optim import Setting, apply_setting, plateau_factor
from prune.train.resume import restore
from prune.train.run import Run, training_mode
from prune.train.run_log import Log, as_row
from prune.train.stopping import StopRequested, never

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from prune.data.loader import Batch, TrainLoader
    from prune.evaluate.metrics import Metrics
    from prune.train.passes import Views

# Batches after which the host reads their losses, for which it waits for a GPU. A CPU waits anyway.
_READ_EVERY = {"cpu": 1, "cuda": 20}

# Prunes a run's network before an epoch, counted from 0, and adds to the history of its origin.
PruneHook = Callable[[Run, Origin, int], "tuple[Run, Origin]"]


class Stopped(KeyboardInterrupt):
    """A signal asked the run to stop; it is saved and can be resumed.

    Attributes:
        rows: the figures of the epochs that are complete.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        super().__init__()
        self.rows = tuple(rows)


def train(
    run: Run,
    batches: TrainLoader,
    validation: Iterable[Batch],
    *,
    origin: Origin,
    log: Log,
    resume: Mapping[str, object] | None = None,
    stop_requested: StopRequested = never,
    prune: PruneHook | None = None,
) -> list[Row]:
    """Train a network, evaluate its running average after epochs, and save the last and the best.

    The last checkpoint contains the training state to the end: `checkpointing.finish` removes it
    once the caller has finished with the run, which can be resumed until then.

    Args:
        run: the network, started for these batches.
        batches: training batches of any epoch.
        validation: the batches that metrics are measured on.
        origin: what checkpoints say of where the network comes from.
        log: where figures go; weights are saved beside them.
        resume: the training state to go on from, of the checkpoint that the network comes from.
        stop_requested: tells whether to stop; called after every update.
        prune: prunes the network before an epoch, where a run prunes while training.

    Returns:
        One row of figures per epoch, as in results.csv; fewer where patience ran out.

    Raises:
        DataError: images or labels that cannot be read.
        CheckpointError: a training state that is not this run's.
        TrainError: the loss is no longer finite, or the run cannot be saved.
        Stopped: it was requested, and the run is saved.
    """
    if run.team.is_main:
        prepare_folder(log.folder)
    stop_requested = partial(any_requested, run.team, stop_requested)
    with naming(log.weights / "last.pt"):
        rows, at = restore(run, resume, batches=len(batches)) if resume else ([], Position())
    if rows:
        with _saving(run, log, len(rows)):  # a kill may have come between the weights and these
            log.table(rows)
    for epoch in range(len(rows), run.settings.epochs):
        candidates = rows[run.settings.best_after :]
        if reason := stopping.out_of_patience(candidates, run.settings.patience):
            log.report(reason)
            break
        if run.settings.schedule == "plateau":
            factor = plateau_factor(stopping.fitnesses(candidates), run.settings.plateau)
            run = replace(run, schedule=replace(run.schedule, lowered=factor))
        began = time.perf_counter()
        if prune is not None and not at.batch:
            run, origin = prune(run, origin, epoch)
        weights = _image_weights(run, rows, batches, origin)
        mosaics = not run.closes("close_mosaic", epoch)
        batches.set_epoch(epoch, start=at.batch, weights=weights, mosaics=mosaics)
        save = partial(checkpointing.save_within, run, rows, origin=origin, folder=log.weights)
        losses = _epoch(
            run, batches, epoch, at=at, log=log, stop_requested=stop_requested, save=save
        )
        if losses is None:
            raise Stopped(rows)
        at = Position()
        metrics = _evaluate(run, validation, origin) if run.settings.evaluates(epoch) else None
        rate = run.schedule.at((epoch + 1) * len(batches) - 1).rate
        seconds = time.perf_counter() - began
        rows.append(as_row(epoch, losses, metrics, rate=rate, seconds=seconds))
        if run.settings.image_weights and metrics is not None:
            rows[-1] |= sampling.class_precisions(metrics)
        with run.watch("save"), _saving(run, log, len(rows)):
            checkpointing.save(run, rows, origin=origin, folder=log.weights)
            log.epoch(rows, run.settings.epochs)
            log.board_epoch(rows[-1], run)
        if stop_requested() and len(rows) < run.settings.epochs:
            raise Stopped(rows)
    return rows


def _image_weights(
    run: Run, rows: Sequence[Row], batches: TrainLoader, origin: Origin
) -> NDArray[np.float64] | None:
    """Weight the images by the latest metrics, [images], where that is requested."""
    if not run.settings.image_weights:
        return None
    precisions = sampling.latest_precisions(rows, len(origin.names))
    return sampling.weigh_images(batches.images.labels, precisions)


def _saving(run: Run, log: Log, epoch: int) -> AbstractContextManager[None]:
    """Explain errors of what the main process writes of an epoch, counted from 1."""
    return explain_save_errors(log.folder, epoch) if run.team.is_main else nullcontext()


def _evaluate(run: Run, validation: Iterable[Batch], origin: Origin) -> Metrics:
    """Measure the metrics of the running average, together with the other processes."""

    def loss(maps: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the parts of the loss, [4]."""
        return detection_loss(maps, run.averaged.heads, targets, hyp=run.hyp)[1]

    with run.watch("score"):
        return evaluate_network(
            run.averaged,
            validation,
            origin.names,
            device=run.device,
            precision=run.precision,
            loss=loss,
            gather=run.team.gather,
        )


def _epoch(
    run: Run,
    batches: TrainLoader,
    epoch: int,
    *,
    at: Position,
    log: Log,
    stop_requested: StopRequested,
    save: Callable[[Position], None],
) -> list[float] | None:
    """Train on all images once; return the mean losses box, obj, cls, sum, and distillation.

    None is returned where a stop was requested, and the run is saved. An epoch ends with an update,
    so that no gradients are carried into the next one.
    """
    training_mode(run.net, norms=not run.closes("close_norms", epoch))
    # All batches but the last have one shape. What is fastest is found by timing, which differs
    # from run to run.
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    read_every = _READ_EVERY[run.device.type]
    total = torch.tensor(at.losses or [0.0] * (4 if run.teacher is None else 5))
    unread: list[tuple[Tensor, Sequence[Path]]] = []  # losses not yet read, and their images
    waiting, first = 0, epoch * len(batches)
    own = whole = 0  # images since the last update, of this process and of all
    log.begin(epoch, run.settings.epochs, len(batches), done=at.batch)
    for index, batch in enumerate(run.watch.waits(batches), start=at.batch):
        with _saving(run, log, epoch + 1):
            log.batch(first + index, batch)
        size = batches.size(index)
        losses = descend(run, batch, position=first + index, whole=size, adapt=index == 0)
        waiting, own, whole = waiting + 1, own + len(batch.images), whole + size
        last = index + 1 == len(batches)
        setting = run.schedule.at(first + index)
        due = run.schedule.update_due(first + index, waiting=waiting)
        if due:
            all_reduce(run, fraction=own / whole)
            update(run, setting, done=(first + index) / run.schedule.total)
            waiting = own = whole = 0
        unread.append((losses, batch.paths))
        stop = due and not last and stop_requested()
        if len(unread) == read_every or last or stop:
            total += sum_losses(unread, run.team)
            unread.clear()
        log.step(total / max(index + 1 - len(unread), 1), size, setting.rate)
        if stop:
            with _saving(run, log, epoch + 1):
                save(Position(batch=index + 1, losses=tuple(total.tolist())))
            return None
    log.end()
    # Batches of the evaluation differ in shape, and each shape would be timed.
    torch.backends.cudnn.benchmark = False
    return [float(value) for value in total / len(batches)]


def descend(
    run: Run, batch: Batch, *, position: int, whole: int | None = None, adapt: bool = False
) -> Tensor:
    """Add a batch's gradients to those accumulated so far; return its losses, as `_loss` does.

    Args:
        run: the run.
        batch: images and boxes.
        position: the batch's, counted from the run's start.
        whole: images of the whole batch, where `batch` is only this process's part of it.
        adapt: whether to fit the adapters of the network's features to the teacher's anew.
    """
    with run.watch("data"):
        images = batch.images.to(run.device, non_blocking=True).float().div_(255)  # [N, 3, H, W]
        if run.settings.multi_scale:
            images = sampling.resize(images, run.size(position))
    with run.watch("forward"):
        views = run.passes.forward(images)
    with run.watch("loss"):
        whole = len(images) if whole is None else whole
        loss, items = _loss(run, views, batch.targets, whole=whole, adapt=adapt)
    with run.watch("backward"):
        run.passes.backward(run.scaler.scale(loss))
    return items


def _loss(
    run: Run, views: Views, targets: Tensor, *, whole: int, adapt: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss to descend, and its parts: box, obj, cls, sum, [4], or with a teacher [5].

    Each process computes the loss of its part of a batch of `whole` images. The losses and parts of
    all processes sum to those of the batch.
    """
    loss, items = detection_loss(
        views.maps, run.net.heads, targets, hyp=run.hyp, whole=run.team.counts
    )
    if run.teacher is None:
        return loss, items
    distilled = torch.zeros((), device=loss.device)
    images = len(views.maps[0])
    if run.distills("output") and images:
        distilled = distilled + output_loss(
            views.maps, views.teacher_maps, run.net.heads, hyp=run.hyp
        )
    if run.distills("feature"):
        pair = views.features, views.teacher_features
        if adapt:
            run.adapters[:] = [
                distillation.fit_adapter(*level, whole=run.team.sum)
                for level in zip(*pair, strict=True)
            ]
        if images:
            gain = run.hyp["distill_feature"] * images
            distilled = distilled + gain * distillation.feature_loss(*pair, run.adapters)
    items = torch.cat((items, distilled.detach()[None] / whole))
    return loss + distilled, items


def update(run: Run, setting: Setting, *, done: float) -> None:
    """Step the weights by the gradients accumulated so far, and update the running average.

    Args:
        run: the run.
        setting: learning rates and momentum of this update.
        done: the fraction of the run that is done.
    """
    with run.watch("step"):
        apply_setting(run.optimizer, setting)
        penalty = None
        if run.penalty is not None and run.settings.sparsity is not None:
            # The average counts the updates: its count is saved with a run, survives cuts, and is
            # the same in every process. At most updates no penalty is due.
            strength = run.settings.sparsity.strength_due(done, updates=run.ema.updates)
            penalty = partial(run.penalty, strength) if strength else None
        optim.prepare_gradients(run.optimizer, run.scaler, clip=run.hyp["clip"], penalty=penalty)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.passes.clear(run.net.parameters())
        run.ema.update()
