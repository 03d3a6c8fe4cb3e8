"""Where a run's time goes: seconds by phase, and by layer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from prune.data.loader import TrainLoader
    from prune.models.darknet import Darknet

T = TypeVar("T")

_SECONDS = 20.0  # a loader is watched for no longer than this
_LOOKS = 3  # at the layers; the median counts
_NOTHING = nullcontext()


class Watch(Protocol):
    """Measures, or ignores, how long the phases of a run take."""

    def __call__(self, phase: str) -> AbstractContextManager[None]:
        """Count the block as part of a phase."""

    def waits(self, batches: Iterable[T]) -> Iterable[T]:
        """Count the time that a loop waits for batches as the phase "data"."""


class Unwatched:
    """Measures nothing and costs nothing."""

    def __call__(self, phase: str) -> AbstractContextManager[None]:
        """Run the block."""
        return _NOTHING

    def waits(self, batches: Iterable[T]) -> Iterable[T]:
        """Pass the batches on."""
        return batches


@dataclass
class Stopwatch:
    """Adds up the seconds of each phase; waits for the GPU at its beginning and end."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the block as part of a phase."""
        began = _now(self.device)
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + _now(self.device) - began

    def waits(self, batches: Iterable[T]) -> Iterator[T]:
        """Count the time that a loop waits for batches as the phase "data"."""
        coming = iter(batches)
        while True:
            with self("data"):
                batch = next(coming, None)
            if batch is None:
                return
            yield batch


class LayerTime(NamedTuple):
    """One layer: number, kind, shape of its output for a batch, milliseconds per forward pass."""

    number: int
    kind: str
    shape: tuple[int, ...]
    ms: float


def loading_rate(batches: TrainLoader, epoch: int) -> float:
    """Return the images per second that a loader yields when nothing else is done.

    The first batch, for which workers may have to start, does not count where there are others.

    Args:
        batches: the loader; it is at `epoch` afterwards.
        epoch: which epoch to load, for 20 seconds at most.
    """
    batches.set_epoch(epoch)
    coming = iter(batches)
    began, images, first = time.perf_counter(), 0, len(next(coming).images)
    alone = time.perf_counter() - began
    began = time.perf_counter()
    for batch in coming:
        images += len(batch.images)
        if time.perf_counter() - began > _SECONDS:
            break
    seconds = time.perf_counter() - began
    return images / seconds if images else first / alone


@torch.no_grad()
def layer_times(net: Darknet, images: Tensor, *, precision: torch.dtype) -> list[LayerTime]:
    """Time the forward pass of every layer in training mode, slowest first.

    BatchNorm's averages move as in training; the weights stay.

    Args:
        net: on the images' device.
        images: [N, 3, H, W] in 0..1.
        precision: of its convolutions.
    """
    device = images.device
    taken: dict[int, list[float]] = {index: [] for index in range(len(net.module_list))}
    shapes: dict[int, tuple[int, ...]] = {}
    began = [0.0]

    def start(_: nn.Module, __: object) -> None:
        began[0] = _now(device)

    def stop(index: int, output: Tensor) -> None:
        taken[index].append(_now(device) - began[0])
        shapes[index] = tuple(output.shape)

    hooks = []
    for index, module in enumerate(net.module_list):
        hooks.append(module.register_forward_pre_hook(start))
        hooks.append(module.register_forward_hook(lambda _, __, out, i=index: stop(i, out)))
    before = net.training
    net.train()
    try:
        for _ in range(_LOOKS + 1):
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                net(images.contiguous(memory_format=torch.channels_last))
    finally:
        net.train(before)
        for hook in hooks:
            hook.remove()
    rows = [
        LayerTime(layer.index, layer.kind, shapes[layer.index], 1000 * _median(taken[layer.index]))
        for layer in net.layers
    ]
    return sorted(rows, key=lambda row: -row.ms)


def measure_and_report(
    watch: Stopwatch, net: Darknet, batches: TrainLoader, *, precision: torch.dtype
) -> list[str]:
    """Return lines on where a finished run's time went; loads another epoch, and times the layers.

    Args:
        watch: what measured its phases.
        net: its network as cuts have left it, on the device.
        batches: what it trained on.
        precision: of its convolutions.
    """
    seconds = dict(watch.seconds)
    batches.set_epoch(0)
    images = next(iter(batches)).images.to(watch.device).float().div_(255)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # it misses this one
    layers = layer_times(net, images, precision=precision)
    return report_lines(seconds, layers, loading=loading_rate(batches, 1))


def report_lines(
    seconds: dict[str, float], layers: Sequence[LayerTime], *, loading: float, most: int = 15
) -> list[str]:
    """Return the figures as lines: seconds per phase, the loader's rate, the slowest layers.

    Args:
        seconds: per phase, of the whole run.
        layers: as `layer_times` gives them.
        loading: images per second.
        most: how many layers to name.
    """
    whole = sum(seconds.values()) or 1.0
    lines = [f"{'phase':10}{'seconds':>10}{'fraction':>10}"]
    lines += [f"{name:10}{s:10.2f}{100 * s / whole:9.1f}%" for name, s in seconds.items()]
    lines += ["", f"loader alone: {loading:.1f} images/s", ""]
    total = sum(row.ms for row in layers) or 1.0
    lines.append(f"{'layer':>5}  {'kind':16}{'output':20}{'ms forward':>11}{'fraction':>10}")
    for row in layers[:most]:
        shape = " x ".join(map(str, row.shape))
        percent = 100 * row.ms / total
        lines.append(f"{row.number:5}  {row.kind:16}{shape:20}{row.ms:11.3f}{percent:9.1f}%")
    return lines


def _median(seconds: Sequence[float]) -> float:
    """Return the median of all but the first, which warms up."""
    return sorted(seconds[1:])[(len(seconds) - 1) // 2]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
