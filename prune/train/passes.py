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
    """What is seen in a batch, one tensor a head in each.

    Attributes:
        maps: the network's logits, [N, A * (5 + classes), ny, nx].
        features: what the network's heads read, [N, C, ny, nx]; none where nobody asks for them.
        taught: the teacher's logits; none where there is no teacher.
        taught_features: what the teacher's heads read.
    """

    maps: tuple[Tensor, ...]
    features: tuple[Tensor, ...] = ()
    taught: tuple[Tensor, ...] = ()
    taught_features: tuple[Tensor, ...] = ()


# Pictures [N, 3, H, W] -> what is seen in them.
Forward = Callable[[Tensor], Views]


class Passes(Protocol):
    """Goes through a network and back; gradients are added to those that are there."""

    def forward(self, images: Tensor) -> Views:
        """Look at pictures, [N, 3, H, W]."""

    def backward(self, loss: Tensor) -> None:
        """Descend from a loss of the views that `forward` gave last."""

    def clear(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Forget all gradients."""


@dataclass(frozen=True)
class Eager:
    """Passes as torch runs them, an operation at a time."""

    look: Forward

    def forward(self, images: Tensor) -> Views:
        """Look at pictures."""
        return self.look(images)

    def backward(self, loss: Tensor) -> None:
        """Descend from a loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clear(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Forget all gradients and their memory."""
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
    """Say how a network, and its teacher, look at pictures.

    Args:
        net: on the device.
        teacher: likewise, in eval mode, if there is one.
        features: whether to look at what the heads read, too.
        device: where they compute.
        precision: in what their convolutions compute.
        compiled: let torch.compile make both faster first.
        statistics: what BatchNorms share with other processes, if anything.
    """
    own = net.feature_layers if features else ()
    theirs = teacher.feature_layers if features and teacher is not None else ()
    see = torch.compile(net) if compiled else net
    know = torch.compile(teacher) if compiled and teacher is not None else teacher

    def look(images: Tensor) -> Views:
        mixed = torch.autocast(device.type, precision, enabled=precision != torch.float32)
        with mixed, statistics or nullcontext():
            images = images.contiguous(memory_format=torch.channels_last)
            seen = see(images, own)
            known: tuple[Tensor, ...] = ()
            if know is not None:
                with torch.no_grad():
                    known = know(images, theirs)
        heads = len(net.map_layers)
        return Views(seen[:heads], seen[heads:], known[:heads], known[heads:])

    return look


_WARM_UP = 3  # passes before the recording: cuDNN chooses its algorithms, memory is taken


@dataclass(frozen=True)
class _Recording:
    """The graphs of one shape, and the memory they read and write."""

    images: Tensor
    seen: Views
    trained: tuple[bool, ...]  # which of the network's own outputs have gradients
    wished: tuple[Tensor, ...]  # those gradients
    ahead: torch.cuda.CUDAGraph
    back: torch.cuda.CUDAGraph


class Graphed:
    """Passes that replay a recording where pictures have its shape.

    A recording holds which modules were in training mode; where others are, it is made anew.

    Gradients live in memory of their own for as long as this does: the recording adds to them.
    """

    def __init__(self, net: nn.Module, look: Forward, shape: Sequence[int]) -> None:
        self.net, self.look, self.shape = net, look, tuple(shape)
        self._recording: _Recording | None = None
        self._modules = tuple(net.modules())
        self._modes: tuple[bool, ...] = ()  # which of them were in training mode in the recording
        self._leaves: tuple[Tensor, ...] = ()  # of the pass that waits for its way back

    def forward(self, images: Tensor) -> Views:
        """Look at pictures; what is seen is overwritten by the next look."""
        if tuple(images.shape) != self.shape or not self.net.training:
            self._leaves = ()
            return self.look(images)
        modes = tuple(module.training for module in self._modules)
        if self._recording is None or modes != self._modes:
            self._recording, self._modes = None, modes  # its memory goes before the next takes some
            self._recording = _record(self.net, self.look, images)
        self._recording.images.copy_(images)
        self._recording.ahead.replay()
        seen = self._recording.seen
        # The loss is computed as it comes, from leaves; its gradients there go into the recording.
        trained = iter(self._recording.trained)
        outputs = [t.detach().requires_grad_(next(trained)) for t in _own(seen)]
        self._leaves = tuple(t for t in outputs if t.requires_grad)
        maps = len(seen.maps)
        return seen._replace(maps=tuple(outputs[:maps]), features=tuple(outputs[maps:]))

    def backward(self, loss: Tensor) -> None:
        """Descend from a loss of what was seen last."""
        loss.backward()  # type: ignore[no-untyped-call]
        if not self._leaves:
            return
        assert self._recording is not None, "leaves come from a recording"
        for wished, leaf in zip(self._recording.wished, self._leaves, strict=True):
            wished.zero_() if leaf.grad is None else wished.copy_(leaf.grad)
        self._recording.back.replay()
        self._leaves = ()

    def clear(self, parameters: Iterable[nn.Parameter]) -> None:
        """Set all gradients to zero where they are."""
        found = [p.grad for p in parameters if p.grad is not None]
        torch._foreach_zero_(found)


def _record(net: nn.Module, look: Forward, images: Tensor) -> _Recording:
    """Record both ways for pictures of this shape; weights and buffers stay as they are."""
    images = images.clone()
    before = [buffer.clone() for buffer in net.buffers()]
    gradients = [p.grad.clone() if p.grad is not None else None for p in net.parameters()]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            own = _trained(look(images))
            torch.autograd.backward(own, [torch.zeros_like(t) for t in own])
    torch.cuda.current_stream().wait_stream(stream)
    del own
    ahead, back = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(ahead):
        seen = look(images)
    wished = tuple(torch.zeros_like(t) for t in _trained(seen))
    with torch.cuda.graph(back, pool=ahead.pool()):
        torch.autograd.backward(_trained(seen), wished)
    for buffer, value in zip(net.buffers(), before, strict=True):
        buffer.copy_(value)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        if parameter.grad is not None:
            parameter.grad.zero_() if gradient is None else parameter.grad.copy_(gradient)
    detached = Views(*(tuple(t.detach() for t in part) for part in seen))
    trained = tuple(t.requires_grad for t in _own(seen))
    return _Recording(images, detached, trained, wished, ahead, back)


def _own(seen: Views) -> tuple[Tensor, ...]:
    """Return what the network itself made."""
    return tuple(chain(seen.maps, seen.features))


def _trained(seen: Views) -> tuple[Tensor, ...]:
    """Return what gradients flow back from: what frozen layers alone make has none."""
    return tuple(t for t in _own(seen) if t.requires_grad)
