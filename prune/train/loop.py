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
from prune.evaluate.collect import score
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

# Batches between two looks at the loss: each makes the host wait for a GPU. A CPU waits anyway.
_LOOK_EVERY = {"cpu": 1, "cuda": 20}

# Cuts a run's network before an epoch, and adds to the history of what it comes from.
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
    judge: Iterable[Batch],
    *,
    origin: Origin,
    log: Log,
    resume: Mapping[str, object] | None = None,
    asked: StopRequested = never,
    narrow: PruneHook | None = None,
) -> list[Row]:
    """Train a network, score its running average as it goes, keep the last and the best.

    What is kept holds the training state to the end: `keep.finish` takes it out, once the caller
    is through with the run, which until then can be taken up.

    Args:
        run: the network, started for these batches.
        batches: training batches; any epoch's can be had again.
        judge: the batches that scores are made on.
        origin: what the kept files say of where the network comes from.
        log: where figures go; weights are kept beside them.
        resume: the training state of the checkpoint that the network comes from, to go on from.
        asked: tells whether to stop; looked at after every update.
        narrow: cuts the network before an epoch, where a run prunes as it goes.

    Returns:
        One row of figures an epoch, as in results.csv; fewer where patience ran out.

    Raises:
        DataError: pictures or labels that cannot be read.
        CheckpointError: a training state that is not this run's.
        TrainError: the loss is no longer finite, or the run cannot be saved.
        Stopped: it was asked to, and is saved.
    """
    if run.team.leads:
        prepare_folder(log.folder)
    asked = partial(any_requested, run.team, asked)
    with naming(log.weights / "last.pt"):
        rows, at = restore(run, resume, batches=len(batches)) if resume else ([], Position())
    if rows:
        with _saving(run, log, len(rows)):  # a kill may have come between the weights and these
            log.table(rows)
    for epoch in range(len(rows), run.settings.epochs):
        candidates = rows[run.settings.best_after :]
        if why := stopping.out_of_patience(candidates, run.settings.patience):
            log.say(why)
            break
        run = _slowed(run, candidates)
        began = time.perf_counter()
        if narrow is not None and not at.batch:
            run, origin = narrow(run, origin, epoch)
        weights = _weights(run, rows, batches, origin)
        mosaics = not run.closes("close_mosaic", epoch)
        batches.set_epoch(epoch, start=at.batch, weights=weights, mosaics=mosaics)
        save = partial(checkpointing.save_within, run, rows, origin=origin, folder=log.weights)
        losses = _epoch(run, batches, epoch, at=at, log=log, asked=asked, save=save)
        if losses is None:
            raise Stopped(rows)
        at = Position()
        scores = _evaluate(run, judge, origin) if run.settings.evaluates(epoch) else None
        rate = run.schedule.at((epoch + 1) * len(batches) - 1).rate
        seconds = time.perf_counter() - began
        rows.append(as_row(epoch, losses, scores, rate=rate, seconds=seconds))
        if run.settings.image_weights and scores is not None:
            rows[-1] |= sampling.class_precisions(scores)
        _save(run, rows, origin=origin, log=log)
        if asked() and len(rows) < run.settings.epochs:
            raise Stopped(rows)
    return rows


def _slowed(run: Run, rows: Sequence[Row]) -> Run:
    """Return the run with what its scores leave of the learning rate; a plateau's alone changes."""
    if run.settings.schedule != "plateau":
        return run
    factor = plateau_factor(stopping.fitnesses(rows), run.settings.plateau)
    return replace(run, schedule=replace(run.schedule, lowered=factor))


def _saving(run: Run, log: Log, epoch: int) -> AbstractContextManager[None]:
    """Watch over what the first process writes of an epoch, counted from 1; the others do not."""
    return explain_save_errors(log.folder, epoch) if run.team.leads else nullcontext()


def _weights(
    run: Run, rows: Sequence[Row], batches: TrainLoader, origin: Origin
) -> NDArray[np.float64] | None:
    """Weigh the pictures by the latest score, [pictures], where that is wished."""
    if not run.settings.image_weights:
        return None
    latest = sampling.latest_precisions(rows, len(origin.names))
    return sampling.weigh_images(batches.pictures.labels, latest)


def _evaluate(run: Run, judge: Iterable[Batch], origin: Origin) -> Metrics:
    """Score the running average, together with the other processes."""
    with run.watch("score"):
        return score(
            run.averaged,
            judge,
            origin.names,
            device=run.device,
            precision=run.precision,
            loss=partial(_items, run),
            gather=run.team.gather,
        )


def _save(run: Run, rows: Sequence[Row], *, origin: Origin, log: Log) -> None:
    """Write the weights after an epoch, then its figures."""
    with run.watch("save"), _saving(run, log, len(rows)):
        checkpointing.save(run, rows, origin=origin, folder=log.weights)
        log.epoch(rows, run.settings.epochs)
        log.board_epoch(rows[-1], run)


def _epoch(
    run: Run,
    batches: TrainLoader,
    epoch: int,
    *,
    at: Position,
    log: Log,
    asked: StopRequested,
    save: Callable[[Position], None],
) -> list[float] | None:
    """Go through the images once; return the mean losses box, obj, cls, sum, and distillation.

    None is returned where the run was asked to stop, and is saved. An epoch ends with an update, so
    that nothing but the weights' state crosses its border.
    """
    training_mode(run.net, norms=not run.closes("close_norms", epoch))
    # All batches but the last have one shape. What is fastest is found by timing, which differs
    # from run to run.
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    look_every = _LOOK_EVERY[run.device.type]
    total = torch.tensor(at.losses or [0.0] * (4 if run.teacher is None else 5))
    unseen: list[tuple[Tensor, Sequence[Path]]] = []  # losses not yet looked at, their pictures
    waiting, first = 0, epoch * len(batches)
    own = whole = 0  # pictures since the last update, of this process and of all
    log.begin(epoch, run.settings.epochs, len(batches), done=at.batch)
    for index, batch in enumerate(run.watch.waits(batches), start=at.batch):
        with _saving(run, log, epoch + 1):
            log.batch(first + index, batch)
        pictures = batches.size(index)
        items = descend(run, batch, position=first + index, pictures=pictures, adapt=index == 0)
        waiting, own, whole = waiting + 1, own + len(batch.images), whole + pictures
        last = index + 1 == len(batches)
        setting = run.schedule.at(first + index)
        updated = run.schedule.due(first + index, waiting=waiting)
        if updated:
            all_reduce(run, share=own / whole)
            update(run, setting, share=(first + index) / run.schedule.total)
            waiting = own = whole = 0
        unseen.append((items, batch.paths))
        stop = updated and not last and asked()
        if len(unseen) == look_every or last or stop:
            total += sum_losses(unseen, run.team)
            unseen.clear()
        log.step(total / max(index + 1 - len(unseen), 1), pictures, setting.rate)
        if stop:
            with _saving(run, log, epoch + 1):
                save(Position(batch=index + 1, losses=tuple(total.tolist())))
            return None
    log.end()
    torch.backends.cudnn.benchmark = False  # scored batches differ in shape; each would be tried
    return [float(value) for value in total / len(batches)]


def descend(
    run: Run, batch: Batch, *, position: int, pictures: int | None = None, adapt: bool = False
) -> Tensor:
    """Add a batch's gradients to those gathered so far; return its losses, as `_loss` does.

    Args:
        run: the run.
        batch: pictures and boxes.
        position: the batch's, counted from the run's start.
        pictures: of the whole batch, where `batch` is this process's share of it.
        adapt: work out anew what takes the network's features to a teacher's.
    """
    with run.watch("data"):
        images = batch.images.to(run.device, non_blocking=True).float().div_(255)  # [N, 3, H, W]
        if run.settings.multi_scale:
            images = sampling.resize(images, run.size(position))
    with run.watch("forward"):
        seen = run.passes.forward(images)
    with run.watch("loss"):
        pictures = len(images) if pictures is None else pictures
        loss, items = _loss(run, seen, batch.targets, pictures=pictures, adapt=adapt)
    with run.watch("backward"):
        run.passes.backward(run.scaler.scale(loss))
    return items


def _loss(
    run: Run, seen: Views, targets: Tensor, *, pictures: int, adapt: bool
) -> tuple[Tensor, Tensor]:
    """Return the loss to descend, and its parts: box, obj, cls, sum, [4], or with a teacher [5].

    Of a batch of so many pictures in all, seen here or by other processes; everybody's losses and
    parts sum to the batch's. Imitation is weighed within each one's share.
    """
    loss, items = detection_loss(
        seen.maps, run.net.heads, targets, hyp=run.hyp, whole=run.team.counts
    )
    if run.teacher is None:
        return loss, items
    imitation = torch.zeros((), device=loss.device)
    here = len(seen.maps[0])
    if run.distills("output") and here:
        imitation = imitation + output_loss(seen.maps, seen.taught, run.net.heads, hyp=run.hyp)
    if run.distills("feature"):
        pair = seen.features, seen.taught_features
        if adapt:
            run.adapters[:] = [
                distillation.fit_adapter(*level, whole=run.team.sum)
                for level in zip(*pair, strict=True)
            ]
        if here:
            gain = run.hyp["distill_feature"] * here
            imitation = imitation + gain * distillation.feature_loss(*pair, run.adapters)
    items = torch.cat((items, imitation.detach()[None] / pictures))
    return loss + imitation, items


def update(run: Run, setting: Setting, *, share: float) -> None:
    """Step the weights by the gradients gathered so far, and the average after them.

    Args:
        run: the run.
        setting: what the optimiser is told.
        share: of the run that is done.
    """
    with run.watch("step"):
        apply_setting(run.optimizer, setting)
        penalty = _penalty(run, share)  # none at most updates
        optim.prepare_gradients(run.optimizer, run.scaler, clip=run.hyp["clip"], penalty=penalty)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.passes.clear(run.net.parameters())
        run.ema.update()


def _penalty(run: Run, share: float) -> Callable[[], None] | None:
    """Return what makes channels fade, if it is due when this share of the run is done.

    The average counts the updates: its count is kept with a run, outlives cuts, and is the same in
    every process.
    """
    if run.penalty is None or run.settings.sparsity is None:
        return None
    strength = run.settings.sparsity.owed(share, updates=run.ema.updates)
    return partial(run.penalty, strength) if strength else None


def _items(run: Run, maps: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Return the loss's parts on a scored batch, [4]."""
    return detection_loss(maps, run.averaged.heads, targets, hyp=run.hyp)[1]
