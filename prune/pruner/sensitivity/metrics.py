"""The metrics that a cut can be evaluated by, accumulated batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from prune.common.hyperparameters import SCRATCH
from prune.data.batch import Batch
from prune.errors import RunError
from prune.evaluate.collect import Collected
from prune.evaluate.metrics import coco_precision, mean_precision
from prune.evaluate.nms import MAX_DETECTIONS, detections
from prune.models.darknet import Darknet
from prune.models.loss import detection_loss


class Tally(Protocol):
    """A metric while it is accumulated over batches."""

    def add(self, net: Darknet, maps: tuple[Tensor, ...], batch: Batch) -> None:
        """Add the head maps of a batch, [N, A * (5 + classes), ny, nx] each."""

    def value(self) -> float:
        """Return the metric of all that was added."""


@dataclass
class MapTally:
    """COCO's mAP@.5:.95 in 0..1."""

    classes: int
    confidence: float
    iou: float
    collected: Collected = field(default_factory=Collected)

    def add(self, net: Darknet, maps: tuple[Tensor, ...], batch: Batch) -> None:
        """See Tally."""
        boxes = detections(
            net.decode(maps),
            confidence=self.confidence,
            iou=self.iou,
            max_detections=max(MAX_DETECTIONS, batch.fullest),
        )
        self.collected.add(boxes, batch)

    def value(self) -> float:
        """See Tally."""
        truth, found = self.collected.truth, self.collected.found
        return mean_precision(coco_precision(truth, found, self.classes))


@dataclass
class LossTally:
    """The detection loss with the published gains, averaged over images."""

    total: float = 0.0
    images: int = 0

    def add(self, net: Darknet, maps: tuple[Tensor, ...], batch: Batch) -> None:
        """See Tally."""
        targets = batch.targets.to(maps[0].device)
        loss = float(detection_loss(maps, net.heads, targets, hyp=SCRATCH)[1][3])
        if not abs(loss) < float("inf"):
            raise RunError(f"the loss is {loss} with a group masked; use --metric map")
        self.total += loss * len(batch.images)
        self.images += len(batch.images)

    def value(self) -> float:
        """See Tally."""
        return self.total / self.images


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        start: (classes, lowest confidence, IoU of NMS) -> an empty tally.
        worse: +1 where a larger value is worse, -1 where a smaller one is.
    """

    start: Callable[[int, float, float], Tally]
    worse: int


METRICS: dict[str, Metric] = {
    "map": Metric(MapTally, -1),
    "loss": Metric(lambda *_: LossTally(), 1),
}
