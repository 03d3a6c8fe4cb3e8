"""The training loop, in plain torch, to be read from top to bottom: `train`, then `_epoch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prune.errors import TrainError
from prune.score.score import score
from prune.train import features, keep
from prune.train.imitation import imitation_loss
from prune.train.keep import Origin, Position, Row
from prune.train.log import Log, as_row
from prune.train.loss import detection_loss
from prune.train.optimiser import tell
from prune.train.run import Run
from prune.train.schedule import Setting
from prune.train.stop import Asked, never
from prune.train.team import Team

if TYPE_CHECKING:
    from prune.data.loader import Batch, TrainLoader
    from prune.train.passes import Views

# Batches between two looks at the loss on a GPU: each makes the host wait. A CPU waits anyway.
_LOOK_EVERY = 20

# Cuts a run's network before an epoch, and adds to the history of what it comes from.
Narrow = Callable[[Run, Origin, int], "tuple[Run, Origin]"]


class Stopped(KeyboardInterrupt):
    """Somebody asked the run to stop; it is saved and can go on."""


def train(
    run: Run,
    batches: TrainLoader,
    judge: Iterable[Batch],
    *,
    origin: Origin,
    log: Log,
    resume: Mapping[str, object] | None = None,
    asked: Asked = never,
    narrow: Narrow | None = None,
) -> list[Row]:
    """Train a network, score its running average as it goes, keep the last and the best.

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
        One row of figures an epoch, as in results.csv.

    Raises:
        DataError: pictures or labels that cannot be read.
        CheckpointError: a training state that is not this run's.
        TrainError: the loss is no longer finite.
        Stopped: it was asked to, and is saved.
    """
    torch.set_flush_denormal(True)  # arithmetic on vanishing numbers is many times slower
    asked = partial(_agreed, run.team, asked)
    rows, at = keep.restore(run, resume, batches=len(batches)) if resume else ([], Position())
    for epoch in range(len(rows), run.settings.epochs):
        began = time.perf_counter()
        if narrow is not None and not at.batch:
            run, origin = narrow(run, origin, epoch)
        save = partial(keep.save_within, run, rows, origin=origin, folder=log.weights)
        losses = _epoch(run, batches, epoch, at=at, log=log, asked=asked, save=save)
        at = Position()
        scores = None
        if run.settings.scored(epoch):
            scores = score(
                run.averaged,
                judge,
                origin.names,
                device=run.device,
                half=run.precision != torch.float32,
                loss=partial(_items, run),
                gather=run.team.gather,
            )
        rate = run.optimizer.param_groups[0]["lr"]
        seconds = time.perf_counter() - began
        rows.append(as_row(epoch, losses, scores, rate=rate, seconds=seconds))
        keep.save(run, rows, origin=origin, folder=log.weights)
        log.epoch(rows, run.settings.epochs, net=run.averaged)
        if asked() and len(rows) < run.settings.epochs:
            raise Stopped
    if run.team.leads:
        keep.finish(log.weights)
    return rows


def _epoch(
    run: Run,
    batches: TrainLoader,
    epoch: int,
    *,
    at: Position,
    log: Log,
    asked: Asked,
    save: Callable[[Position], None],
) -> list[float]:
    """Go through the pictures once; return the mean losses box, obj, cls, sum, and imitation.

    An epoch ends with an update, so that nothing but the weights' state crosses its border.
    """
    run.net.train()
    torch.backends.cudnn.benchmark = True  # all batches but the last have one shape
    look_every = 1 if run.device.type == "cpu" else _LOOK_EVERY
    total = torch.tensor(at.losses or [0.0] * (4 if run.teacher is None else 5))
    unseen: list[tuple[Tensor, Sequence[Path]]] = []  # losses not yet looked at, their pictures
    waiting, first = 0, epoch * len(batches)
    own = whole = 0  # pictures since the last update, of this process and of all
    batches.set_epoch(epoch, start=at.batch)
    log.begin(epoch, run.settings.epochs, len(batches), done=at.batch)
    for index, batch in enumerate(batches, start=at.batch):
        setting = run.schedule.at(first + index)
        log.batch(first + index, batch)
        images = batch.images.to(run.device, non_blocking=True).float().div_(255)  # [N, 3, H, W]
        targets = batch.targets.to(run.device, non_blocking=True)  # [M, 6]
        seen = run.passes.forward(images)
        pictures = batches.size(index)
        loss, items = _loss(run, seen, targets, pictures=pictures, adapt=index == 0)
        run.passes.backward(run.scaler.scale(loss))
        waiting, own, whole = waiting + 1, own + len(images), whole + pictures
        last = index + 1 == len(batches)
        updated = waiting >= setting.accumulate or last
        if updated:
            _meet(run, share=own / whole)
            _update(run, setting, done=(first + index) / run.schedule.total)
            waiting = own = whole = 0
        unseen.append((items, batch.paths))
        stop = updated and not last and asked()
        if len(unseen) == look_every or last or stop:
            total += _looked_at(unseen, run.team)
            unseen.clear()
        log.step(total / (index + 1 - len(unseen)), pictures)
        if stop:
            save(Position(batch=index + 1, losses=tuple(total.tolist())))
            raise Stopped
    log.end()
    torch.backends.cudnn.benchmark = False  # scored batches differ in shape; each would be tried
    return [float(value) for value in total / len(batches)]


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
    if run.imitates("output") and here:
        imitation = imitation + imitation_loss(seen.maps, seen.taught, run.net.heads, hyp=run.hyp)
    if run.imitates("feature"):
        pair = seen.features, seen.taught_features
        if adapt:
            run.adapters[:] = [
                features.solved(*level, whole=run.team.sum) for level in zip(*pair, strict=True)
            ]
        if here:
            gain = run.hyp["distill_feature"] * here
            imitation = imitation + gain * features.feature_loss(*pair, run.adapters)
    items = torch.cat((items, imitation.detach()[None] / pictures))
    return loss + imitation, items


def _meet(run: Run, *, share: float) -> None:
    """Bring together what the processes have gathered since the last update.

    Args:
        run: the run.
        share: of those pictures, what this process saw; so much its BatchNorm statistics count.
    """
    run.team.sum_gradients(run.net.parameters())
    if not run.settings.sync_bn:  # else they are the same everywhere
        run.team.average(_statistics(run.net), share=share)


def _statistics(net: nn.Module) -> list[Tensor]:
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    found = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
    return [buffer for buffer in found if buffer is not None]


def _agreed(team: Team, asked: Asked) -> bool:
    """Tell whether anybody was asked to stop; all processes ask this at the same step."""
    return team.any(asked())


def _update(run: Run, setting: Setting, *, done: float) -> None:
    """Step the weights by the gradients gathered so far, and the average after them.

    Args:
        run: the run.
        setting: what the optimiser is told.
        done: how much of the run is.
    """
    tell(run.optimizer, setting)
    if run.penalty is not None and run.settings.sparsity is not None:
        run.scaler.unscale_(run.optimizer)
        run.penalty(run.settings.sparsity.at(done))
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.passes.clear(run.net.parameters())
    run.ema.update_parameters(run.net)


def _looked_at(unseen: Sequence[tuple[Tensor, Sequence[Path]]], team: Team) -> Tensor:
    """Sum everybody's losses on the host, [4] or with a teacher [5].

    Raises:
        TrainError: one is not finite; names the pictures it came from.
    """
    losses = team.sum(torch.stack([items for items, _ in unseen]).cpu())  # [K, 4] or [K, 5]
    for row, (_, paths) in zip(losses, unseen, strict=True):
        if not row.isfinite().all():
            names = ", ".join(str(path) for part in team.gather(paths) for path in part)
            raise TrainError(
                f"the loss is {float(row[3:].sum())} on the batch {names}; nothing of this epoch "
                "is kept. A lower lr0 may help, or a look at those pictures' labels"
            )
    return losses.sum(dim=0)


def _items(run: Run, maps: Sequence[Tensor], targets: Tensor) -> Tensor:
    """Return the loss's parts on a scored batch, [4]."""
    return detection_loss(maps, run.averaged.heads, targets, hyp=run.hyp)[1]
