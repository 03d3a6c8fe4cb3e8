"""One batch from its key: the functions that run in worker processes and keep no state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.random import PCG64, Generator, SeedSequence
from torch import Tensor

from prune.data.augment import letterbox
from prune.data.frames import Frame, batch_shape, place
from prune.data.images import Image
from prune.data.labels import Boxes
from prune.data.samples import training_sample
from prune.data.store import Images, load, to_shares


class Batch(NamedTuple):
    """What one step of training or evaluation needs.

    Attributes:
        images: uint8 [N, 3, H, W], RGB, contiguous.
        targets: float32 [M, 6]: image's number in the batch, class, cx, cy, w, h as fractions of
            the batch's image.
        paths: one per image; of a mosaic, the first image's.
        frames: one per image when evaluating, to map boxes back; empty when training.
        truth: one per image when evaluating, its label rows as its file has them, float32 [n, 5]:
            class, cx, cy, w, h as fractions of the image; empty when training.
        fullest: boxes in the fullest image of the split when evaluating; NMS must keep as many.
    """

    images: Tensor
    targets: Tensor
    paths: list[Path]
    frames: list[Frame]
    truth: Sequence[Boxes] = ()
    fullest: int = 0


class TrainKey(NamedTuple):
    """Names one process's part of a training batch: epoch, place of its first sample, images.

    `mosaics` says whether any may be a mosaic.
    """

    epoch: int
    first: int
    indices: tuple[int, ...]
    mosaics: bool = True


def generator(seed: int, epoch: int, position: int) -> Generator:
    """The random numbers of one sample; position -1 is the epoch's own, for its order."""
    unsigned = seed % 2**64  # numpy takes no negative seeds, torch does
    return Generator(PCG64(SeedSequence((unsigned, epoch, position + 1))))


def share(count: int, part: tuple[int, int]) -> range:
    """Return which of a batch's samples are one process's: neighbours, the first get the odd ones.

    Args:
        count: samples in the batch.
        part: the process's number, and how many there are.
    """
    number, size = part
    return range(-(-count * number // size), -(-count * (number + 1) // size))


def training_batch(key: TrainKey, *, images: Images, hyp: Mapping[str, float], seed: int) -> Batch:
    """Augment the images of one batch, [N, 3, H, W]; N may be zero."""
    if not key.indices:
        nothing = torch.zeros(images.imgsz.batch(0), dtype=torch.uint8)
        return Batch(nothing, torch.zeros((0, 6)), [], [])
    hyp = hyp if key.mosaics else {**hyp, "mosaic": 0.0}
    samples = [
        training_sample(images, index, hyp=hyp, rng=generator(seed, key.epoch, position))
        for position, index in enumerate(key.indices, start=key.first)
    ]
    return assemble(samples, paths=[images.paths[index] for index in key.indices])


def evaluation_batch(
    indices: tuple[int, ...], *, images: Images, stride: int, rectangular: bool
) -> Batch:
    """Letterbox images into the least shape that holds them, or the least that holds `imgsz`."""
    loaded = [load(images, index) for index in indices]
    sizes = [(image.shape[0], image.shape[1]) for image, _, _ in loaded]
    shape = batch_shape(sizes if rectangular else [images.imgsz], stride)
    batch = assemble(
        [letterbox(image, boxes, shape) for image, boxes, _ in loaded],
        paths=[images.paths[index] for index in indices],
        frames=[
            place(original, size, shape)
            for (_, _, original), size in zip(loaded, sizes, strict=True)
        ],
    )
    truth = [images.labels[index] for index in indices]
    return batch._replace(truth=truth, fullest=images.fullest)


def assemble(
    samples: Sequence[tuple[Image, Boxes]], *, paths: list[Path], frames: Sequence[Frame] = ()
) -> Batch:
    """Join samples of one size: BGR [H, W, 3] to RGB [N, 3, H, W], pixels to fractions."""
    height, width = shape = (samples[0][0].shape[0], samples[0][0].shape[1])
    images = np.empty((len(samples), 3, height, width), dtype=np.uint8)
    targets = [np.zeros((0, 6), dtype=np.float32)]
    for i, (image, boxes) in enumerate(samples):
        cv2.split(image, [*images[i, ::-1]])  # BGR planes written in place, last one first
        numbers = np.full((len(boxes), 1), i, dtype=np.float32)
        targets.append(np.concatenate((numbers, to_shares(boxes, shape)), axis=1))
    joined = torch.from_numpy(np.concatenate(targets))
    return Batch(torch.from_numpy(images), joined, paths, list(frames))
