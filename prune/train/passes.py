"""One pass over a batch: what the network, and its teacher, see in the pictures; and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from prune.models.darknet import Darknet
    from prune.train.sync_batchnorm import SharedStatistics


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
Look = Callable[[Tensor], Views]


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

    look: Look

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


def looking(
    net: Darknet,
    *,
    teacher: Darknet | None,
    features: bool,
    device: torch.device,
    precision: torch.dtype,
    compiled: bool = False,
    statistics: SharedStatistics | None = None,
) -> Look:
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
