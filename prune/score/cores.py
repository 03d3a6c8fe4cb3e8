"""A batch among a processor's cores: each takes some of the pictures and works on them alone.

Detectors' pictures are small: all cores on one convolution share little out, and on NMS nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Share(Protocol):
    """Has work done on a batch's parts."""

    def __call__(self, work: Callable[[Tensor], T], images: Tensor) -> list[T]:
        """Return what the work gave for each part of the pictures, [N, ...], in their order."""


@contextmanager
def sharing(device: torch.device, *, shares: bool = True) -> Iterator[Share]:
    """Yield what gives each core a part of a batch; the whole to a GPU, or to one core alone.

    As many threads work as torch has of its own, each with one of torch's. What they call must
    change nothing that the others read, and enter inference mode itself: a mode is a thread's own.

    Args:
        device: where the pictures are.
        shares: whether what is called may run in several threads at once.
    """
    count = torch.get_num_threads()
    if device.type != "cpu" or count == 1 or not shares:
        yield lambda work, images: [work(images)]
        return
    with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield lambda work, images: list(pool.map(work, images.chunk(count)))
        finally:
            torch.set_num_threads(count)  # the threads' wish holds for MKL as a whole
