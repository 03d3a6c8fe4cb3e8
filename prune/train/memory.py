"""Memory: how large a batch can be, and one clear line where it was too large."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune.common.hyperparameters import choice_name
from prune.errors import TrainError
from prune.models.loss import detection_loss
from prune.train import sampling
from prune.train.optim import COPIES
from prune.train.passes import build_forward
from prune.train.run import training_mode

if TYPE_CHECKING:
    from prune.models.darknet import Darknet
    from prune.train.passes import Forward
    from prune.train.settings import Settings

_FRACTION = 0.9  # of the free memory; evaluation and the next images need the rest
_GRAPHED_FRACTION = 0.45  # a recording keeps its memory; a batch of another size needs its own
_CPU_MOST = 64  # a larger batch is no faster on a CPU
_COPIES = 4  # of the weights: themselves, gradients, average, and those that a save collects
_BACKWARD = 1.5  # memory of a backward pass, as a multiple of what the forward pass saved for it
_MESSAGES = ("out of memory", "can't allocate memory", "ALLOC_FAILED")


@contextmanager
def explain_shortage(settings: Settings, device: torch.device) -> Iterator[None]:
    """Raise an error of one line where memory runs out within the block.

    Raises:
        TrainError: there was too little memory; names the options to lower.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainError(
            f"out of memory at batch {settings.batch_size}, {settings.imgsz} px on {device}; "
            "lower --batch-size (try auto) or --img-size"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, on a GPU, on the CPU or in a library."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error) for part in _MESSAGES)


def largest_batch(
    net: Darknet,
    settings: Settings,
    *,
    hyp: Mapping[str, float],
    device: torch.device,
    images: int,
    teacher: Darknet | None = None,
) -> int:
    """Return the largest power of two that trains within the free memory.

    On a GPU batches are tried, doubling; a CPU would swap before it fails, so that the memory of a
    pass is estimated. No batch is larger than the nominal batch, than the data set, or on a CPU
    than 64.

    Args:
        net: the network to train; it stays as it is.
        settings: the run's options; their batch size is not used.
        hyp: hyper-parameters.
        device: where to train.
        images: number of training images.
        teacher: a network to distill from.

    Raises:
        TrainError: not even one image fits.
    """
    most = min(settings.nominal_batch, images)
    if device.type != "cuda":
        return _estimate_on_cpu(net, settings, hyp=hyp, teacher=teacher, most=min(most, _CPU_MOST))
    return _try_on_gpu(net, settings, hyp=hyp, teacher=teacher, device=device, most=most)


def _estimate_on_cpu(
    net: Darknet,
    settings: Settings,
    *,
    hyp: Mapping[str, float],
    teacher: Darknet | None,
    most: int,
) -> int:
    """Estimate from the memory that passes of one and of two images save."""
    forward, own = _copy_for_trial(net, settings, teacher=teacher, device=torch.device("cpu"))
    one, two = (
        _saved_bytes(forward, own, _grey_images(count, settings, own.stride), hyp=hyp)
        for count in (1, 2)
    )
    weights = sum(value.nbytes for value in net.state_dict().values())
    kept = (_COPIES + COPIES[choice_name("optimizer", hyp)]) * weights
    free = _FRACTION * available() - kept - (2 * one - two)
    return _power_of_two(
        free / (_BACKWARD * (two - one)), most=most, settings=settings, device="cpu"
    )


def _try_on_gpu(
    net: Darknet,
    settings: Settings,
    *,
    hyp: Mapping[str, float],
    teacher: Darknet | None,
    device: torch.device,
    most: int,
) -> int:
    """Double the batch until the passes do not fit, or need more than their fraction of memory."""
    forward, own = _copy_for_trial(net, settings, teacher=teacher, device=device)
    fraction = _GRAPHED_FRACTION if settings.graphed(device) else _FRACTION
    weights = sum(value.nbytes for value in net.state_dict().values())
    averages = (1 + COPIES[choice_name("optimizer", hyp)]) * weights
    size = 1
    fits = 0
    while size <= most and _reserved_bytes(forward, own, size, settings, hyp=hyp) <= (
        fraction * _free(device) - averages
    ):
        fits, size = size, 2 * size
    return _power_of_two(fits, most=most, settings=settings, device=str(device))


def _copy_for_trial(
    net: Darknet, settings: Settings, *, teacher: Darknet | None, device: torch.device
) -> tuple[Forward, Darknet]:
    """Copy a network to the device, to train the copy; return its forward pass and the copy."""
    own = copy.deepcopy(net)
    training_mode(own)
    own.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # it misses this one
    if teacher is not None:
        teacher = copy.deepcopy(teacher).eval().requires_grad_(False).to(device)
    forward = build_forward(
        own,
        teacher=teacher,
        features=teacher is not None and settings.distills("feature"),
        device=device,
        precision=settings.dtype,
    )
    return forward, own


def _grey_images(count: int, settings: Settings, stride: int) -> Tensor:
    """Make grey images as large as those of the run can be, [count, 3, H, W]."""
    sizes = sampling.possible_sizes(settings.imgsz, stride=stride) if settings.multi_scale else ()
    largest = max((*sizes, settings.imgsz), key=lambda size: size.height * size.width)
    return torch.full(largest.batch(count), 0.5)


def _saved_bytes(
    forward: Forward, net: Darknet, images: Tensor, *, hyp: Mapping[str, float]
) -> int:
    """Count the bytes that a forward pass saves for the backward pass, without weights."""
    saved: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return value.detach()  # the tensor itself would refer to its own history

    with torch.autograd.graph.saved_tensors_hooks(note, Tensor.detach):
        views = forward(images)
        _loss = detection_loss(views.maps, net.heads, _boxes(len(images)), hyp=hyp)[0]
    return sum(saved.values())


def _reserved_bytes(
    forward: Forward, net: Darknet, size: int, settings: Settings, *, hyp: Mapping[str, float]
) -> float:
    """Return the bytes that a GPU reserves for the passes of a batch; inf if it lacks them."""
    device = next(net.parameters()).device
    _release(net)
    torch.cuda.reset_peak_memory_stats(device)
    try:
        images = _grey_images(size, settings, net.stride).to(device)
        loss, _ = detection_loss(forward(images).maps, net.heads, _boxes(size).to(device), hyp=hyp)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return float(torch.cuda.max_memory_reserved(device))
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return float("inf")
    finally:
        _release(net)


def _release(net: Darknet) -> None:
    net.zero_grad()
    gc.collect()
    torch.cuda.empty_cache()


def _boxes(images: int) -> Tensor:
    """Put an object of the first class into the middle of each image, [images, 6]."""
    boxes = torch.tensor((0.0, 0.0, 0.5, 0.5, 0.2, 0.2)).repeat(images, 1)
    boxes[:, 0] = torch.arange(images)
    return boxes


def _free(device: torch.device) -> float:
    """Return the bytes of a GPU that are free or reserved by this process."""
    return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))


def available() -> float:
    """Return the bytes that this process can still allocate; inf where the system does not tell."""
    return min(_system(), _limit())


def _system() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        return float(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def _limit() -> float:
    """Return the bytes that a container's limit leaves; inf where there is no limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        most = (folder / "memory.max").read_text().strip()
        used = int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return float("inf")
    return float("inf") if most == "max" else float(int(most) - used)


def _power_of_two(wanted: float, *, most: int, settings: Settings, device: str) -> int:
    """Round down to a power of two.

    Raises:
        TrainError: that leaves nothing.
    """
    allowed = int(min(wanted, most))
    if allowed < 1:
        raise TrainError(
            f"out of memory at batch 1, {settings.imgsz} px on {device}; lower --img-size"
        )
    return int(2 ** (allowed.bit_length() - 1))
