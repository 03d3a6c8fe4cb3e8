"""Measure the memory of the activations of a network for one image."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.core.recover.readers import watching


@dataclass
class Footprint:
    """Bytes that outputs of modules take per image.

    Attributes:
        peak: the most at any time.
        waiting: what is alive in front of each layer, in the order they run.
    """

    peak: int = 0
    waiting: dict[str, int] = field(default_factory=dict)


def footprint(net: nn.Module, image: Tensor, names: Collection[str]) -> Footprint:
    """Measure a network on one input, [1, ...], in front of some layers; it does not change."""
    found = Footprint()
    alive = 0

    def dies(size: int) -> None:
        nonlocal alive
        alive -= size

    def made(_: str, output: object) -> None:
        nonlocal alive
        if isinstance(output, Tensor):
            size = output.numel() * output.element_size()
            alive += size
            found.peak = max(found.peak, alive)
            weakref.finalize(output, dies, size)

    def stops(name: str, _: Tensor) -> None:
        found.waiting[name] = alive + own

    own = image.numel() * image.element_size()
    leaves = tuple({type(m) for m in net.modules() if not any(m.children())})
    before = watching(net, nn.Module, names=names, before=stops)
    with evaluating(net), before, watching(net, leaves, after=made):
        net(image)
    found.peak += own
    return found
