"""One training sample: which images go in, what happens to them, from one random generator."""

from collections.abc import Mapping

from numpy.random import Generator

from prune.data import augment
from prune.data.images import Image
from prune.data.labels import Boxes
from prune.data.mosaic import mosaic
from prune.data.store import Images, load_next

WARPS = ("degrees", "translate", "scale", "shear", "perspective")
GAINS = ("hsv_h", "hsv_s", "hsv_v")
CHANCES = ("flipud", "fliplr", "mosaic", "mixup")
HYP_KEYS = (*WARPS, *GAINS, *CHANCES)  # what augmentation reads of the hyper-parameters


def training_sample(
    images: Images, index: int, *, hyp: Mapping[str, float], rng: Generator
) -> tuple[Image, Boxes]:
    """Make the sample that starts from image `index`.

    Args:
        images: the split's images; a mosaic and mixup draw the others from them.
        index: the image that must be in it.
        hyp: the augmentation's chances and ranges, `HYP_KEYS`.
        rng: the one source of randomness, so that its seed fixes the sample.

    Returns:
        The image, uint8 [H, W, 3] BGR, and its boxes, [n, 5] class + xyxy in pixels.
    """
    sample = _composed(images, index, hyp=hyp, rng=rng)
    if rng.random() < hyp["mixup"]:
        other = _composed(images, int(rng.integers(len(images.paths))), hyp=hyp, rng=rng)
        sample = augment.mixup(sample, other, float(rng.beta(8, 8)))
    image, boxes = sample
    hue, saturation, value = (1 + float(rng.uniform(-1, 1)) * hyp[key] for key in GAINS)
    image = augment.hsv(image, (hue, saturation, value))
    if rng.random() < hyp["flipud"]:
        image, boxes = augment.flip_up_down(image, boxes)
    if rng.random() < hyp["fliplr"]:
        image, boxes = augment.flip_left_right(image, boxes)
    return image, boxes


def _composed(
    images: Images, index: int, *, hyp: Mapping[str, float], rng: Generator
) -> tuple[Image, Boxes]:
    """A mosaic or one letterboxed image, warped to [H, W, 3]."""
    size = images.imgsz
    if rng.random() < hyp["mosaic"]:
        others = rng.integers(len(images.paths), size=3)
        x, y = (int(rng.integers(side // 2, side * 3 // 2, endpoint=True)) for side in size[::-1])
        tiles = [load_next(images, int(i))[:2] for i in (index, *others)]
        image, boxes = mosaic(tiles, (x, y), size)
    else:
        image, boxes, _ = load_next(images, index)
        image, boxes = augment.letterbox(image, boxes, size)
    source = (image.shape[0], image.shape[1])
    ranges = {key: hyp[key] for key in WARPS}
    matrix = augment.random_matrix(rng, source, size, **ranges)
    return augment.warp(image, boxes, matrix, shape=size)
