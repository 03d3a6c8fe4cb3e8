"""The training loop, in plain torch, to be read from top to bottom: `train`, then `_epoch`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune.errors import TrainError
from prune.score.score import score
from prune.train import gradients, keep, progress
from prune.train.frozen import training_mode
from prune.train.imitation import imitation_loss
from prune.train.keep import Origin, Row
from prune.train.log import Log, as_row
from prune.train.loss import detection_loss
from prune.train.optimiser import tell
from prune.train.run import Run
from prune.train.schedule import Setting

if TYPE_CHECKING:
    from prune.data.loader import Batch, TrainLoader

# Batches between two looks at the loss on a GPU: each makes the host wait. A CPU waits anyway.
_LOOK_EVERY = 20


def train(
    run: Run,
    batches: TrainLoader,
    judge: Iterable[Batch],
    *,
    origin: Origin,
    log: Log,
    resume: Mapping[str, object] | None = None,
) -> list[Row]:
    """Train a network, score its running average as it goes, keep the last and the best.

    Args:
        run: the network, started for these batches.
        batches: training batches; any epoch's can be had again.
        judge: the batches that scores are made on.
        origin: what the kept files say of where the network comes from.
        log: where figures go; weights are kept beside them.
        resume: the training state of the checkpoint that the network comes from, to go on from.

    Returns:
        One row of figures an epoch, as in results.csv; fewer where patience ran out.

    Raises:
        DataError: pictures or labels that cannot be read.
        CheckpointError: a training state that is not this run's.
        TrainError: the loss is no longer finite.
    """
    torch.set_flush_denormal(True)  # arithmetic on vanishing numbers is many times slower
    # All batches have one shape; what is fastest is found by timing, which differs from run to run.
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    rows = keep.restore(run, resume, batches=len(batches)) if resume else []
    for epoch in range(len(rows), run.settings.epochs):
        if why := progress.enough(rows, run.settings.patience):
            log.say(why)
            break
        run = progress.slowed(run, rows)
        began = time.perf_counter()
        batches.set_epoch(epoch)
        losses = _epoch(run, batches, first=epoch * len(batches), log=log)
        scores = None
        if run.settings.scored(epoch):
            scores = score(
                run.averaged,
                judge,
                origin.names,
                device=run.device,
                half=run.precision != torch.float32,
                loss=partial(_items, run),
            )
        rate = run.schedule.at((epoch + 1) * len(batches) - 1).rate
        seconds = time.perf_counter() - began
        rows.append(as_row(epoch, losses, scores, rate=rate, seconds=seconds))
        keep.save(run, rows, origin=origin, folder=log.weights)
        log.epoch(rows, run.settings.epochs)
    keep.finish(log.weights)
    return rows


def _epoch(run: Run, batches: TrainLoader, *, first: int, log: Log) -> list[float]:
    """Go through the pictures once; return the mean losses box, obj, cls, sum, and imitation.

    An epoch ends with an update, so that nothing but the weights' state crosses its border.
    """
    training_mode(run.net)
    look_every = 1 if run.device.type == "cpu" else _LOOK_EVERY
    total = torch.zeros(4 if run.teacher is None else 5)
    unseen: list[tuple[Tensor, Sequence[Path]]] = []  # losses not yet looked at, their pictures
    waiting = 0
    log.begin(first // len(batches), run.settings.epochs, len(batches))
    for index, batch in enumerate(batches):
        setting = run.schedule.at(first + index)
        log.batch(first + index, batch)
        images = batch.images.to(run.device, non_blocking=True).float().div_(255)  # [N, 3, H, W]
        with torch.autocast(run.device.type, run.precision, enabled=run.precision != torch.float32):
            images = images.contiguous(memory_format=torch.channels_last)
            maps = run.net(images)
            taught = _taught(run, images)
        targets = batch.targets.to(run.device, non_blocking=True)  # [M, 6]
        loss, items = detection_loss(maps, run.net.heads, targets, hyp=run.hyp)
        if taught:
            imitation = imitation_loss(maps, taught, run.net.heads, hyp=run.hyp)
            loss = loss + imitation
            items = torch.cat((items, imitation.detach()[None] / len(images)))  # [5]
        run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        waiting += 1
        last = index + 1 == len(batches)
        if waiting >= setting.accumulate or last:
            _update(run, setting)
            waiting = 0
        unseen.append((items, batch.paths))
        if len(unseen) == look_every or last:
            total += _looked_at(unseen)
            unseen.clear()
        log.step(total / (index + 1 - len(unseen)), len(images))
    log.end()
    return [float(value) for value in total / len(batches)]


@torch.no_grad()
def _taught(run: Run, images: Tensor) -> tuple[Tensor, ...]:
    """Return the teacher's maps; none where there is no teacher."""
    return () if run.teacher is None else run.teacher(images)


def _update(run: Run, setting: Setting) -> None:
    """Step the weights by the gradients gathered so far, and the average after them."""
    tell(run.optimizer, setting)
    gradients.prepare(run.optimizer, run.scaler, clip=run.hyp["clip"])
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.ema.update_parameters(run.net)


def _looked_at(unseen: Sequence[tuple[Tensor, Sequence[Path]]]) -> Tensor:
    """Sum losses on the host, [4] or with a teacher [5].

    Raises:
        TrainError: one is not finite; names the pictures it came from.
    """
    losses = torch.stack([items for items, _ in unseen]).cpu()  # [K, 4] or [K, 5]
    for row, (_, paths) in zip(losses, unseen, strict=True):
        if not row.isfinite().all():
            names = ", ".join(str(path) for path in paths)
            raise TrainError(
                f"the loss is {float(row[3:].sum())} on the batch {names}; nothing of this epoch "
                "is kept. A lower lr0 may help, or a look at those pictures' labels"
            )
    return losses.sum(dim=0)


def _items(run: Run, maps: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Return the loss's parts on a scored batch, [4]."""
    return detection_loss(maps, run.averaged.heads, targets, hyp=run.hyp)[1]
