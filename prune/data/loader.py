"""Batches of images: shuffled and augmented for training, in order and untouched for evaluation.

What a batch holds depends on the seed, the epoch, the batch's number and, if images are drawn by
weight, the weights; never on how many worker processes made it: every sample has its own random
generator, and a worker keeps no state. Where several processes train together, each loads its share
of every batch; together they have what one would.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from prune.common.device import cores
from prune.common.size import Sides, Size
from prune.data.batch import Batch, TrainKey, evaluation_batch, generator, share, training_batch
from prune.data.failures import pass_on, watched
from prune.data.frames import Frame
from prune.data.samples import HYP_KEYS
from prune.data.sift import sift
from prune.data.spec import DataSpec
from prune.data.store import Images, gather, original_sizes
from prune.data.truth import Truth, expect_truth, read_truth
from prune.data.workers import Context, start
from prune.errors import DataError, PruneError

__all__ = [
    "Batch",
    "Frame",
    "Loader",
    "TrainLoader",
    "check_sizes",
    "evaluation_loader",
    "train_loader",
]

Key = TypeVar("Key")


class Loader:
    """Batches made by worker processes, in a fixed order.

    The workers live as long as the loader. Breaking off an iteration is fine; the next one starts
    at the beginning.

    Attributes:
        truth: the labels of the split.

    Raises:
        DataError: while iterating, an image that cannot be read; it is raised here, not in a
            worker, and names the file.
        LoaderError: while iterating, a worker was killed, or cannot pass on what it has loaded.
    """

    def __init__(
        self,
        make: Callable[[Key], Batch],
        keys: Iterable[Key],
        *,
        count: int,
        workers: int,
        truth: Truth,
    ) -> None:
        self.count, self.truth = count, truth
        self.workers = min(workers, cores(), count)  # more only take each other's processor
        self._open = partial(_open, make, keys, workers=self.workers)
        # Now, so that the workers' server starts while the caller builds its network.
        self._batches: DataLoader[Batch | PruneError] | None = self._open()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Batch]:
        if self._batches is None:
            self._batches = self._open()
        context = self._batches.multiprocessing_context
        try:
            with watched(context) if isinstance(context, Context) else nullcontext():
                for made in self._batches:
                    if isinstance(made, PruneError):
                        raise made
                    yield made
        except PruneError:
            # Lets the workers go now. The error's traceback would keep them until a garbage
            # collection, which closes their queues first and then waits 5 s for each to end.
            self._batches = None
            raise


class TrainLoader(Loader):
    """Training batches of one epoch at a time; the last one may be smaller.

    Attributes:
        images: what they are made of.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        hyp: Mapping[str, float],
        workers: int,
        seed: int,
        truth: Truth,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.images = images
        self._order = _Order(len(images.paths), batch_size, seed, part)
        make = partial(training_batch, images=images, hyp=dict(hyp), seed=seed)
        super().__init__(make, self._order, count=len(self._order), workers=workers, truth=truth)

    def set_epoch(
        self,
        epoch: int,
        *,
        start: int = 0,
        weights: NDArray[np.float64] | None = None,
        mosaics: bool = True,
    ) -> None:
        """Choose the epoch that the next iteration gives, and the number of its first batch.

        A run that stopped after k batches goes on with start=k as if it had never stopped;
        `len()` stays the whole epoch's.

        Args:
            epoch: counted from 0.
            start: its first batch.
            weights: draw as many images as there are in proportion to these, [images], each as
                often as it comes; without them every image comes once.
            mosaics: whether any image may be one.
        """
        self._order.epoch, self._order.start, self._order.weights = epoch, start, weights
        self._order.mosaics = mosaics

    def size(self, batch: int) -> int:
        """Return how many images a batch has, those of all processes together."""
        return self._order.size(batch)


def train_loader(  # noqa: PLR0913  # what a caller chooses, all by keyword
    spec: DataSpec,
    *,
    split: str = "train",
    imgsz: Sides,
    batch_size: int,
    stride: int = 32,
    hyp: Mapping[str, float],
    workers: int = 2,
    seed: int = 0,
    cache: str | None = None,
    part: tuple[int, int] = (0, 1),
    labelled: bool = True,
) -> TrainLoader:
    """Load a split shuffled and augmented.

    Args:
        spec: the data set.
        split: which of its splits.
        imgsz: the batch's height and width, pixels; one number for a square.
        batch_size: images per batch.
        stride: the network's largest stride, which must divide both.
        hyp: the augmentation's chances and ranges (`HYP_KEYS`); other keys are not looked at.
        workers: processes that load; 0 loads in this one. At most one per processor is started.
        seed: fixes order and augmentation, for any number of workers.
        cache: "ram" keeps the decoded images in memory at the loading size.
        part: this process's number, and how many processes divide every batch.
        labelled: whether boxes are needed; without, only the images are looked at.

    Raises:
        DataError: no images, no boxes, a broken label, a size that does not suit the network, no
            room for the cache, fewer images per batch than processes.
    """
    size = check_sizes(imgsz, batch_size, workers)
    if batch_size < part[1]:
        raise DataError(
            f"batch size is {batch_size}; {part[1]} processes divide a batch, so that it must be "
            f"{part[1]} or more"
        )
    if not size.fits(stride):
        below = Size(*(max(side // stride, 1) * stride for side in size))
        above = Size(*(side + stride for side in below))
        raise DataError(
            f"image size is {size}; training needs a multiple of the network's stride {stride}, "
            f"e.g. {below} or {above}"
        )
    if missing := [key for key in HYP_KEYS if key not in hyp]:
        raise DataError(f"hyper-parameters lack {', '.join(missing)}")
    paths = spec.images(split)
    found = read_truth(paths, spec.form)
    if paths and labelled:
        expect_truth(found, paths, where=spec.path, split=split)
        if not found.count:
            raise DataError(f"{spec.path}: {split} holds no box to learn from ({found})")
    images = gather(paths, found.boxes, imgsz=size, cache=cache)
    return TrainLoader(
        images,
        batch_size=batch_size,
        hyp=hyp,
        workers=workers,
        seed=seed,
        part=part,
        truth=found,
    )


def evaluation_loader(  # noqa: PLR0913  # as above
    spec: DataSpec,
    *,
    split: str,
    imgsz: Sides,
    batch_size: int,
    stride: int = 32,
    workers: int = 2,
    rectangular: bool = True,
    cache: str | None = None,
    part: tuple[int, int] = (0, 1),
) -> Loader:
    """Load every image of a split once, letterboxed, nothing else done to it.

    Args:
        spec: the data set.
        split: which of its splits.
        imgsz: height and width that images are scaled to fit into, pixels; one number for a
            square.
        batch_size: images per batch.
        stride: the batch's height and width are multiples of it.
        workers: processes that load; 0 loads in this one. At most one per processor is started.
        rectangular: batches of images alike in shape, as small as they allow; otherwise all of
            `imgsz`, in the split's order.
        cache: "ram" keeps the decoded images in memory at the loading size.
        part: (r, n) gives every n-th batch from the r-th on.

    Raises:
        DataError: no images, a broken label or image header, no room for the cache.
    """
    size = check_sizes(imgsz, batch_size, workers)
    paths, found = split_truth(spec, split)
    images = gather(paths, found.boxes, imgsz=size, cache=cache)
    order = by_aspect(images) if rectangular else range(len(images.paths))
    keys = [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    keys = keys[part[0] :: part[1]]
    make = partial(evaluation_batch, images=images, stride=stride, rectangular=rectangular)
    return Loader(make, keys, count=len(keys), workers=workers, truth=found)


def split_truth(spec: DataSpec, split: str) -> tuple[tuple[Path, ...], Truth]:
    """Return the sound images of a split and their labels, if there is something to evaluate.

    Raises:
        DataError: there is no such split, nothing in it, or a label file that cannot be used.
    """
    images = sift(spec, [split]).images(split)
    found = read_truth(images, spec.form)
    if images:
        expect_truth(found, images, where=spec.path, split=split)
    return images, found


def check_sizes(imgsz: Sides, batch_size: int, workers: int) -> Size:
    """Return the size of the images; refuse sizes that make no batch.

    Raises:
        DataError: a size below 1, or fewer than 0 workers.
    """
    size = Size.of(imgsz)
    if min(size) < 1:
        raise DataError(f"image size is {size}; it must be at least 1 pixel, e.g. 640")
    if batch_size < 1:
        raise DataError(f"batch size is {batch_size}; it must be at least 1, e.g. 16")
    if workers < 0:
        raise DataError(f"workers is {workers}; it must be at least 0, e.g. 2")
    return size


def by_aspect(images: Images) -> list[int]:
    """The images' numbers from widest to tallest, equal ones in their own order."""
    sizes = original_sizes(images)
    return sorted(range(len(sizes)), key=lambda index: sizes[index][0] / sizes[index][1])


class _Order:
    """The keys of one epoch, shuffled or drawn by seed, epoch and weights; of each one share."""

    def __init__(self, images: int, batch_size: int, seed: int, part: tuple[int, int]) -> None:
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.part = part
        self.epoch = self.start = 0
        self.weights: NDArray[np.float64] | None = None
        self.mosaics = True

    def __len__(self) -> int:
        return -(-self.images // self.batch_size)

    def __iter__(self) -> Iterator[TrainKey]:
        random = generator(self.seed, self.epoch, -1)
        if self.weights is None:
            order = random.permutation(self.images).tolist()
        else:
            shares = self.weights / self.weights.sum()
            order = random.choice(self.images, self.images, p=shares).tolist()
        for batch in range(self.start, len(self)):
            begin = batch * self.batch_size
            own = share(self.size(batch), self.part)
            indices = tuple(order[begin + own.start : begin + own.stop])
            yield TrainKey(self.epoch, begin + own.start, indices, self.mosaics)

    def size(self, batch: int) -> int:
        return min(self.batch_size, self.images - batch * self.batch_size)


class _Made(Dataset["Batch | PruneError"], Generic[Key]):
    """What torch's loader asks for a batch; our errors come back as values.

    Raised in a worker, they would reach the caller wrapped in the worker's traceback.
    """

    def __init__(self, make: Callable[[Key], Batch]) -> None:
        self.make = make

    def __getitem__(self, key: Key) -> Batch | PruneError:
        try:
            made = self.make(key)
            if get_worker_info() is not None:
                pass_on(made.images, made.targets)
            return made
        except PruneError as error:
            return error


def _open(
    make: Callable[[Key], Batch], keys: Iterable[Key], *, workers: int
) -> DataLoader[Batch | PruneError]:
    """Wrap torch's loader around `make`; the processes start with the first iteration."""
    return DataLoader(
        _Made(make),
        batch_size=None,  # a key is a whole batch
        sampler=keys,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start,
        multiprocessing_context=Context([__name__]) if workers else None,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # its own, so that loading leaves torch's numbers alone
    )


def _as_it_is(made: object) -> object:
    """Take the place of torch's collation, which would turn paths and frames into tensors."""
    return made
