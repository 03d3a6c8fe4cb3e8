"""Images in the shape that a detector takes."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from prune.common.size import Size
from prune.data.batch import Batch, assemble
from prune.data.frames import Frame, Shape, batch_shape, fit, loading_size
from prune.data.images import Image, read_image
from prune.data.labels import Boxes
from prune.data.loader import check_sizes, evaluation_loader, split_truth
from prune.data.spec import DataSpec
from prune.evaluate.runner import Runner


def letterboxed(image: Image, runner: Runner, imgsz: Size) -> tuple[Tensor, Frame]:
    """Prepare one image: the least rectangle within `imgsz`, or the fixed shape.

    Args:
        image: uint8 [h, w, 3] BGR.
        runner: what will look at it.
        imgsz: what the image is scaled to fit into.

    Returns:
        The image, float [1, 3, H, W] RGB 0..1 on the runner's device, and its place in it.
    """
    height, width = image.shape[:2]
    shape = runner.shape or batch_shape([loading_size((height, width), imgsz)], runner.stride)
    padded, frame = fit(image, shape)
    batch = assemble([(padded, _NO_BOXES)], paths=[])
    return batch.images.to(runner.device).float() / 255, frame


def split_batches(
    runner: Runner,
    spec: DataSpec,
    split: str,
    *,
    imgsz: Size,
    batch_size: int,
    workers: int,
) -> tuple[Iterable[Batch], int]:
    """Load a split for a detector; return the batches and their number.

    Raises:
        DataError: no such split, no images, a size below 1; while iterating, an image that
            cannot be read.
    """
    check_sizes(imgsz, batch_size, workers)
    if runner.shape:
        paths, found = split_truth(spec, split)
        batches = fitted(paths, runner.shape, batch_size, truth=found.boxes)
        return batches, -(-len(paths) // batch_size)
    loader = evaluation_loader(
        spec,
        split=split,
        imgsz=imgsz,
        batch_size=batch_size,
        stride=runner.stride,
        workers=workers,
    )
    return loader, len(loader)


_NO_BOXES = np.zeros((0, 5), dtype=np.float32)


def fitted(
    paths: Sequence[Path], shape: Shape, batch_size: int, *, truth: Sequence[Boxes] = ()
) -> Iterator[Batch]:
    """Load batches of one height and width, which need not be a square; without targets.

    `truth` holds the label rows of the images, for evaluation, as in `Batch`.
    """
    fullest = max(map(len, truth), default=0)
    for start in range(0, len(paths), batch_size):
        own = list(paths[start : start + batch_size])
        fitted = [fit(read_image(path), shape) for path in own]
        images = [(image, _NO_BOXES) for image, _ in fitted]
        batch = assemble(images, paths=own, frames=[frame for _, frame in fitted])
        yield batch._replace(truth=truth[start : start + batch_size], fullest=fullest)
