"""A batch among a processor's cores: each takes some of the images and works on them alone.

Images are small: all cores on one convolution divide little work, and NMS none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Share(Protocol):
    """Has work done on a batch's parts."""

    def __call__(self, work: Callable[[Tensor], T], images: Tensor) -> list[T]:
        """Return what the work gave for each part of the images, [N, ...], in their order."""


@contextmanager
def sharing(device: torch.device, *, shares: bool = True) -> Iterator[Share]:
    """Yield what gives each core a part of a batch; the whole to a GPU, or to one core alone.

    As many threads of torch's own as there were compute: one in each part, or more where the batch
    has fewer images than there are cores. What is called must change nothing that the others
    read, and enter inference mode itself: a mode is a thread's own.

    Args:
        device: where the images are.
        shares: whether what is called may run in several threads at once.
    """
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1 or not shares:
        yield _whole
        return
    try:
        with ThreadPoolExecutor(cores) as pool:
            yield partial(_parts, pool, cores)
    finally:
        torch.set_num_threads(cores)  # threads born from now on get what was set last


def _whole(work: Callable[[Tensor], T], images: Tensor) -> list[T]:
    return [work(images)]


def _parts(
    pool: ThreadPoolExecutor, cores: int, work: Callable[[Tensor], T], images: Tensor
) -> list[T]:
    count = min(cores, len(images))
    if count <= 1:
        return _whole(work, images)

    def one(part: Tensor) -> T:
        torch.set_num_threads(cores // count)  # of this thread
        return work(part)

    return list(pool.map(one, images.tensor_split(count)))
