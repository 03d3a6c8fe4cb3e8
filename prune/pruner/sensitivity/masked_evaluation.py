"""Evaluate cuts by masking; cuts are evaluated in blocks that share one pass over the images.

For each batch the outputs that any cut of a block needs are computed once, then only the layers
that each cut changes. So the outputs of one batch are in memory, and a list of detections per cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch

from prune.checkpoint.convert import AS_IT_IS, Reading
from prune.common import device
from prune.common.eval_mode import evaluating
from prune.common.inputs import read_bytes
from prune.common.size import Size
from prune.data import labels
from prune.data import spec as data
from prune.data.loader import Loader, evaluation_loader
from prune.data.spec import DataSpec
from prune.errors import InputError
from prune.pruner.sensitivity import effect
from prune.pruner.sensitivity.metrics import METRICS, Tally
from prune.pruner.session import Session, open_session

DIGITS = 6  # of a value; further ones differ with the number of threads


@dataclass(frozen=True)
class Setup:
    """What is evaluated and how; every process opens it for itself.

    Attributes:
        weights: a checkpoint of ours or public weights.
        data: a data.yaml.
        split: of the data.
        images: number of images of the split, evenly spaced; None for all.
        imgsz: size that images are fitted into.
        batch_size: images per batch.
        metric: a key of METRICS.
        confidence: lowest confidence of a box, for mAP.
        iou: overlap above which NMS removes a box, for mAP.
        device: see `device.choose`.
        threads: per process; None for torch's own choice.
        reading: how `weights` is read.
    """

    weights: Path
    data: Path
    split: str = "val"
    images: int | None = None
    imgsz: Size = Size(640, 640)  # noqa: RUF009  # frozen
    batch_size: int = 4
    metric: str = "map"
    confidence: float = 0.001
    iou: float = 0.65
    device: str = ""
    threads: int | None = None
    reading: Reading = AS_IT_IS


@dataclass(frozen=True)
class MaskedEvaluation:
    """A setup, opened."""

    setup: Setup
    session: Session
    spec: DataSpec
    loader: Loader
    device: torch.device

    @property
    def paths(self) -> tuple[Path, ...]:
        """The images in use."""
        return self.spec.images(self.setup.split)

    def tally(self) -> Tally:
        """Start the metric of one cut."""
        setup = self.setup
        return METRICS[setup.metric].start(len(self.spec.names), setup.confidence, setup.iou)


@dataclass(frozen=True)
class Task:
    """One cut to evaluate: the number of the group in trace order, and the channels to mask."""

    group: int
    channels: tuple[int, ...]


WHOLE = Task(0, ())  # nothing cut: gives the baseline


@lru_cache(maxsize=1)
def open_setup(setup: Setup) -> MaskedEvaluation:
    """Open a setup, once in a process.

    Raises:
        InputError: the checkpoint, the data or a value cannot be used.
        DeviceError: the device is not there.
    """
    _check(setup)
    chosen = device.choose(setup.device)
    opened = open_session(setup.weights, setup.reading)
    if not setup.imgsz.fits(opened.net.stride):
        raise InputError(
            f"image size is {setup.imgsz}; it must be a multiple of {opened.net.stride}, "
            f"e.g. {setup.imgsz.raised(opened.net.stride)}"
        )
    spec = _some(data.load(setup.data, splits=[setup.split]), setup)
    spec.expect_classes(opened.checkpoint.names, of=setup.weights)
    opened.net.to(chosen)
    if setup.threads:
        torch.set_num_threads(setup.threads)
    return MaskedEvaluation(setup, opened, spec, _loader(spec, setup, opened.net.stride), chosen)


def _loader(spec: DataSpec, setup: Setup, stride: int) -> Loader:
    return evaluation_loader(
        spec,
        split=setup.split,
        imgsz=setup.imgsz,
        batch_size=setup.batch_size,
        stride=stride,
        workers=0,
    )


def _check(setup: Setup) -> None:
    if setup.metric not in METRICS:
        raise InputError(f"metric is {setup.metric!r}; it must be one of {', '.join(METRICS)}")
    if setup.images is not None and setup.images < 1:
        raise InputError(f"images is {setup.images}; it must be at least 1, e.g. 100")
    if not 0 <= setup.confidence < 1:
        raise InputError(f"confidence threshold is {setup.confidence}; it must lie in [0, 1)")
    if not 0 <= setup.iou <= 1:
        raise InputError(f"IoU threshold is {setup.iou}; it must lie in [0, 1]")


def _some(spec: DataSpec, setup: Setup) -> DataSpec:
    """Leave `setup.images` images in the split, evenly spaced."""
    paths = spec.images(setup.split)
    count = min(setup.images or len(paths), len(paths))
    chosen = tuple(paths[i * len(paths) // count] for i in range(count))
    return replace(spec, splits={**spec.splits, setup.split: chosen})


def evaluate_cuts(
    setup: Setup, tasks: Sequence[Task], tick: Callable[[float], None] | None = None
) -> tuple[float, ...]:
    """Evaluate some cuts, each alone.

    Args:
        setup: see Setup.
        tasks: the cuts; those near each other in the network share most of the computation.
        tick: called with the fraction of a task that was just done.

    Returns:
        The metric after each cut, to DIGITS digits.
    """
    bench = open_setup(setup)
    net, groups = bench.session.net, bench.session.groups
    masks = [effect.mask(net, groups[task.group], task.channels) for task in tasks]
    wanted = frozenset[int]().union(*(mask.needs for mask in masks))
    tallies = [bench.tally() for _ in tasks]
    with evaluating(net), torch.inference_mode():
        for batch in bench.loader:
            images = batch.images.to(bench.device).float() / 255  # [N, 3, H, W]
            kept = effect.outputs(net, images, wanted)
            for mask, tally in zip(masks, tallies, strict=True):
                tally.add(net, effect.maps(net, kept, mask), batch)
                if tick:
                    tick(1 / len(bench.loader))
    return tuple(round(tally.value(), DIGITS) for tally in tallies)


def digest(images: Sequence[Path]) -> str:
    """Hash the names and sizes of images, and their labels: SHA-256, hexadecimal."""
    found = hashlib.sha256()
    for path in images:
        label = labels.label_path(path)
        found.update(f"{path.name} {path.stat().st_size} ".encode())
        found.update(read_bytes(label, "labels") if label.is_file() else b"")
    return found.hexdigest()
