"""How much memory a network's activations take while one picture goes through."""

from __future__ import annotations

import weakref

from torch import Tensor, nn

from prune.recover.readers import evaluating, watching


def peak_bytes(net: nn.Module, picture: Tensor) -> int:
    """Measure the most bytes that outputs of modules hold at one time.

    Args:
        net: stays as it is.
        picture: one input, [1, ...]; more pictures take as many times more.
    """
    alive = peak = 0

    def dies(size: int) -> None:
        nonlocal alive
        alive -= size

    def made(_: str, output: object) -> None:
        nonlocal alive, peak
        if isinstance(output, Tensor):
            size = output.numel() * output.element_size()
            alive += size
            peak = max(peak, alive)
            weakref.finalize(output, dies, size)

    kinds = tuple({type(m) for m in net.modules() if not any(m.children())})
    with evaluating(net), watching(net, kinds, after=made):
        net(picture)
    return peak + picture.numel() * picture.element_size()
