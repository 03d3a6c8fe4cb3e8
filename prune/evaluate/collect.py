"""A detector over a split: forward, NMS, back to the original images, metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from prune.common.eval_mode import evaluating
from prune.data.frames import Frame
from prune.data.labels import Boxes as LabelRows
from prune.evaluate.fuse_batchnorm import fused
from prune.evaluate.letterbox import to_original
from prune.evaluate.metrics import Boxes, Metrics, evaluate
from prune.evaluate.nms import MAX_DETECTIONS, detections
from prune.evaluate.parallel import sharing

if TYPE_CHECKING:
    from prune.data.loader import Batch
    from prune.models.darknet import Darknet

Detector = Callable[[Tensor], Tensor]
"""images [N, 3, H, W] float 0..1 -> decoded [N, boxes, 5 + classes], xywh in pixels."""

Loss = Callable[[tuple[Tensor, ...], Tensor], Tensor]
"""(head maps, targets [M, 6]) -> the loss's items, [k]."""


@dataclass
class Collected:
    """What a pass over a split gave, one array per image (see metrics.py), and what it took.

    Where cores share a batch, its seconds are those of the slowest.
    """

    truth: list[Boxes] = field(default_factory=list)
    found: list[Boxes] = field(default_factory=list)
    forward_s: float = 0.0
    nms_s: float = 0.0
    sizes: list[int] = field(default_factory=list)  # images per batch
    losses: Sequence[Tensor] = ()  # of each batch, summed over its images, [k]

    def add(self, boxes: Iterable[Tensor], batch: Batch) -> None:
        """Note a batch's detections, as NMS gives them, and its truth."""
        self.sizes.append(len(batch.paths))
        for found, rows, frame in zip(boxes, batch.truth, batch.frames, strict=True):
            self.found.append(to_original(found, frame).cpu().numpy())
            self.truth.append(_truth(rows, frame))

    def metrics(self, names: Sequence[str]) -> Metrics:
        """Evaluate what was collected; times are per image."""
        images = max(len(self.truth), 1)
        metrics = replace(
            evaluate(self.truth, self.found, names),
            forward_ms=1000 * self.forward_s / images,
            nms_ms=1000 * self.nms_s / images,
        )
        if not self.losses:
            return metrics
        losses = torch.stack(list(self.losses)).sum(dim=0) / metrics.images
        return replace(metrics, losses=tuple(losses.tolist()))


Gather = Callable[[Collected], Sequence[Collected]]
"""Gives all that several processes collected to each of them, in the order of the processes."""


def together(parts: Sequence[Collected]) -> Collected:
    """Join what n processes collected, each of every n-th batch: as if one had had them all."""
    whole = Collected(
        forward_s=sum(part.forward_s for part in parts), nms_s=sum(part.nms_s for part in parts)
    )
    losses: list[Tensor] = []
    waiting = [(iter(part.truth), iter(part.found), iter(part.losses)) for part in parts]
    for sizes in zip_longest(*(part.sizes for part in parts), fillvalue=0):
        for size, (truth, found, loss) in zip(sizes, waiting, strict=True):
            whole.truth += islice(truth, size)
            whole.found += islice(found, size)
            losses += islice(loss, min(size, 1))
        whole.sizes += [size for size in sizes if size]
    return replace(whole, losses=losses)


def evaluate_network(  # noqa: PLR0913  # what a caller chooses, all by keyword
    net: Darknet,
    loader: Iterable[Batch],
    names: Sequence[str],
    *,
    device: torch.device,
    confidence: float = 0.001,
    iou: float = 0.65,
    precision: torch.dtype = torch.float32,
    loss: Loss | None = None,
    gather: Gather | None = None,
) -> Metrics:
    """Evaluate a network; its mode (training or not) is restored.

    Args:
        net: on `device` already.
        loader: batches of the split.
        names: the classes.
        device: where images are put.
        confidence: lowest confidence that counts; low, since mAP is the area under the whole curve.
        iou: NMS threshold.
        precision: what convolutions compute in; the weights stay as they are.
        loss: also average this loss over the split, into `Metrics.losses`.
        gather: where several processes evaluate, each its own batches of `loader`.

    Raises:
        DataError: an image or a label of the split cannot be read.
    """
    with evaluating(net), torch.inference_mode():
        see = partial(_maps_and_boxes, fused(net), precision=precision)
        look = _Look(see, confidence, iou, device)
        collected = _collect(look, loader, len(names), loss=loss)
    return (together(gather(collected)) if gather else collected).metrics(names)


def _maps_and_boxes(
    net: Darknet, images: Tensor, *, precision: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor]:
    mixed = precision != torch.float32
    with torch.autocast(images.device.type, precision, enabled=mixed):
        laid = images.contiguous(memory_format=torch.channels_last) if mixed else images
        maps = net(laid)
    maps = tuple(head.float() for head in maps)
    return maps, net.decode(maps)


def collect(
    detector: Detector,
    loader: Iterable[Batch],
    classes: int,
    *,
    device: torch.device,
    confidence: float = 0.001,
    iou: float = 0.65,
    gather: Gather | None = None,
    shares: bool = False,
) -> Collected:
    """Run any detector over a split, a network or an exported file; see `evaluate_network`.

    `shares` says whether the detector may run in several threads at once.
    """
    look = _Look(lambda images: ((), detector(images)), confidence, iou, device)
    collected = _collect(look, loader, classes, shares=shares)
    return together(gather(collected)) if gather else collected


class _Seen(NamedTuple):
    """What was found on some images, and the seconds it took."""

    maps: tuple[Tensor, ...]
    found: list[Tensor]
    forward_s: float
    nms_s: float


@dataclass(frozen=True)
class _Look:
    """Looks at images; safe in several threads if `see` is.

    Attributes:
        see: images [N, 3, H, W] float 0..1 -> maps, if they are needed, and decoded boxes
            [N, boxes, 5 + classes].
        confidence, iou: NMS's thresholds.
        device: where the images are put.
    """

    see: Callable[[Tensor], tuple[tuple[Tensor, ...], Tensor]]
    confidence: float
    iou: float
    device: torch.device

    def __call__(self, images: Tensor, *, limit: int = MAX_DETECTIONS) -> _Seen:
        """Detect on images, uint8 [N, 3, H, W], keeping at most `limit` boxes of each."""
        with torch.inference_mode():
            scaled = images.to(self.device, non_blocking=True).float() / 255
            started = _now(self.device)
            maps, decoded = self.see(scaled)
            between = _now(self.device)
            found = detections(
                decoded, confidence=self.confidence, iou=self.iou, max_detections=limit
            )
            return _Seen(maps, found, between - started, _now(self.device) - between)


def _collect(
    look: _Look,
    loader: Iterable[Batch],
    classes: int,
    *,
    loss: Loss | None = None,
    shares: bool = True,
) -> Collected:
    collected, losses = Collected(), []
    with sharing(look.device, shares=shares) as share:
        for batch in loader:
            limit = max(MAX_DETECTIONS, batch.fullest)
            parts: list[_Seen] = share(partial(look, limit=limit), batch.images)
            collected.forward_s += max(part.forward_s for part in parts)
            collected.nms_s += max(part.nms_s for part in parts)
            collected.add(chain.from_iterable(part.found for part in parts), batch)
            if loss is not None:
                maps = tuple(map(torch.cat, zip(*(part.maps for part in parts), strict=True)))
                losses.append(loss(maps, batch.targets.to(look.device)) * len(batch.images))
    if losses:
        collected.losses = list(torch.stack(losses).cpu())
    return collected


def _truth(rows: LabelRows, frame: Frame) -> Boxes:
    """Turn label rows [n, 5] into class + xyxy in pixels of the original, [n, 5].

    Rows as the label file has them, not the batch's targets: what the loader did to those is not
    taken on trust.
    """
    rows = rows.astype(np.float64)
    size = np.array((frame.width, frame.height))
    centre, half = rows[:, 1:3] * size, rows[:, 3:5] * size / 2
    return np.concatenate((rows[:, :1], centre - half, centre + half), axis=1)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
