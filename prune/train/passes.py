"""One pass over a batch, forward and backward, of the network and its teacher.

On a GPU both directions are CUDA graphs, each of which launches hundreds of kernels as one: a small
batch on a large GPU waits for Python, as the operations of one step take longer to launch than to
compute. Batches of the run's full shape are therefore recorded once and replayed; others, such as
the last of an epoch, are computed operation by operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from prune.models.darknet import Darknet
    from prune.train.distributed import SharedStatistics


class Views(NamedTuple):
    """What the network, and its teacher, compute of a batch: one tensor per head in each field.

    Attributes:
        maps: the network's logits, [N, A * (5 + classes), ny, nx].
        features: inputs of the network's heads, [N, C, ny, nx]; empty unless they are distilled.
        teacher_maps: the teacher's logits; empty where there is no teacher.
        teacher_features: inputs of the teacher's heads.
    """

    maps: tuple[Tensor, ...]
    features: tuple[Tensor, ...] = ()
    teacher_maps: tuple[Tensor, ...] = ()
    teacher_features: tuple[Tensor, ...] = ()


# Images [N, 3, H, W] -> what the networks compute of them.
Forward = Callable[[Tensor], Views]


class Passes(Protocol):
    """Forward and backward passes; gradients are added to those that are present."""

    def forward(self, images: Tensor) -> Views:
        """Compute the views of images, [N, 3, H, W]."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss of the views that `forward` returned last."""

    def clear(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Clear all gradients."""


@dataclass(frozen=True)
class Eager:
    """Passes as torch runs them, one operation at a time."""

    compute: Forward

    def forward(self, images: Tensor) -> Views:
        """Compute the views of images."""
        return self.compute(images)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clear(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Clear all gradients and free their memory."""
        for parameter in parameters:
            parameter.grad = None


def build_forward(
    net: Darknet,
    *,
    teacher: Darknet | None,
    features: bool,
    device: torch.device,
    precision: torch.dtype,
    compiled: bool = False,
    statistics: SharedStatistics | None = None,
) -> Forward:
    """Build the forward pass of a network and its teacher.

    Args:
        net: on the device.
        teacher: likewise, in eval mode, if there is one.
        features: whether to return the inputs of the heads, too.
        device: where both networks are.
        precision: of their convolutions.
        compiled: whether torch.compile optimizes both first.
        statistics: shares those of BatchNorms with other processes, if given.
    """
    own = net.feature_layers if features else ()
    theirs = teacher.feature_layers if features and teacher is not None else ()
    student = torch.compile(net) if compiled else net
    guide = torch.compile(teacher) if compiled and teacher is not None else teacher

    def forward(images: Tensor) -> Views:
        mixed = torch.autocast(device.type, precision, enabled=precision != torch.float32)
        with mixed, statistics or nullcontext():
            images = images.contiguous(memory_format=torch.channels_last)
            outputs = student(images, own)
            targets: tuple[Tensor, ...] = ()
            if guide is not None:
                with torch.no_grad():
                    targets = guide(images, theirs)
        heads = len(net.map_layers)
        return Views(outputs[:heads], outputs[heads:], targets[:heads], targets[heads:])

    return forward


_WARM_UP = 3  # passes before the recording: cuDNN chooses its algorithms, memory is allocated


@dataclass(frozen=True)
class _Recording:
    """The graphs of one shape, and the memory they read and write."""

    images: Tensor
    views: Views
    trained: tuple[bool, ...]  # which of the network's own outputs have gradients
    gradients: tuple[Tensor, ...]  # those gradients
    forward: torch.cuda.CUDAGraph
    backward: torch.cuda.CUDAGraph


class Graphed:
    """Passes that replay a recording where images have its shape.

    A recording contains which modules were in training mode; where others are, it is made anew.
    Gradients have memory of their own, to which the recording adds.
    """

    def __init__(self, net: nn.Module, compute: Forward, shape: Sequence[int]) -> None:
        self.net, self.compute, self.shape = net, compute, tuple(shape)
        self._recording: _Recording | None = None
        self._modules = tuple(net.modules())
        self._modes: tuple[bool, ...] = ()  # which of them were in training mode in the recording
        self._leaves: tuple[Tensor, ...] = ()  # of the pass that waits for its backward pass

    def forward(self, images: Tensor) -> Views:
        """Compute the views of images; the next call overwrites them."""
        if tuple(images.shape) != self.shape or not self.net.training:
            self._leaves = ()
            return self.compute(images)
        modes = tuple(module.training for module in self._modules)
        if self._recording is None or modes != self._modes:
            self._recording, self._modes = (
                None,
                modes,
            )  # frees its memory first
            self._recording = _record(self.net, self.compute, images)
        self._recording.images.copy_(images)
        self._recording.forward.replay()
        views = self._recording.views
        # The loss is computed from leaves, outside the recording, which gets their gradients.
        trained = iter(self._recording.trained)
        outputs = [t.detach().requires_grad_(next(trained)) for t in _outputs(views)]
        self._leaves = tuple(t for t in outputs if t.requires_grad)
        maps = len(views.maps)
        return views._replace(maps=tuple(outputs[:maps]), features=tuple(outputs[maps:]))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss of the last views."""
        loss.backward()  # type: ignore[no-untyped-call]
        if not self._leaves:
            return
        assert self._recording is not None, "leaves come from a recording"
        for gradient, leaf in zip(self._recording.gradients, self._leaves, strict=True):
            gradient.zero_() if leaf.grad is None else gradient.copy_(leaf.grad)
        self._recording.backward.replay()
        self._leaves = ()

    def clear(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set all gradients to zero in place."""
        found = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_zero_(found)


def _record(net: nn.Module, compute: Forward, images: Tensor) -> _Recording:
    """Record both passes for images of this shape; weights and buffers stay as they are."""
    images = images.clone()
    before = [buffer.clone() for buffer in net.buffers()]
    before_gradients = [p.grad.clone() if p.grad is not None else None for p in net.parameters()]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            own = _trained_outputs(compute(images))
            torch.autograd.backward(own, [torch.zeros_like(t) for t in own])
    torch.cuda.current_stream().wait_stream(stream)
    del own
    forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(forward):
        views = compute(images)
    gradients = tuple(torch.zeros_like(t) for t in _trained_outputs(views))
    with torch.cuda.graph(backward, pool=forward.pool()):
        torch.autograd.backward(_trained_outputs(views), gradients)
    for buffer, value in zip(net.buffers(), before, strict=True):
        buffer.copy_(value)
    for parameter, gradient in zip(net.parameters(), before_gradients, strict=True):
        if parameter.grad is not None:
            parameter.grad.zero_() if gradient is None else parameter.grad.copy_(gradient)
    detached = Views(*(tuple(t.detach() for t in part) for part in views))
    trained = tuple(t.requires_grad for t in _outputs(views))
    return _Recording(images, detached, trained, gradients, forward, backward)


def _outputs(views: Views) -> tuple[Tensor, ...]:
    """Return the outputs of the network itself."""
    return tuple(chain(views.maps, views.features))


def _trained_outputs(views: Views) -> tuple[Tensor, ...]:
    """Return the outputs that have gradients; those of frozen layers alone have none."""
    return tuple(t for t in _outputs(views) if t.requires_grad)
