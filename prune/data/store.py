"""A split's images and labels: read, scaled to the loading size, kept in memory on request."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from prune.common.device import cores
from prune.common.inputs import open_input
from prune.common.notes import note
from prune.common.size import Sides, Size
from prune.data.frames import Shape, loading_size, resize
from prune.data.images import Image, read_image
from prune.data.labels import Boxes
from prune.data.orientation import EXIF_ORIENTATION, UPRIGHT
from prune.errors import DataError

_TRIES = 10  # images in a row that may be broken


@dataclass(frozen=True)
class Cache:
    """Decoded images one after another in memory of all worker processes."""

    pixels: Tensor  # uint8 [bytes], in shared memory
    starts: tuple[int, ...]  # first byte of each image
    originals: tuple[Shape, ...]  # height, width before scaling


@dataclass(frozen=True)
class Images:
    """One split, ready to load: paths, labels, and the size that images are scaled to fit into.

    `fullest` is the number of boxes in the fullest image.
    """

    paths: tuple[Path, ...]
    labels: tuple[Boxes, ...]  # each [n, 5]: class, cx, cy, w, h as fractions of the image
    imgsz: Size
    cache: Cache | None = None
    fullest: int = 0


def gather(
    paths: Sequence[Path], boxes: Sequence[Boxes], *, imgsz: Sides, cache: str | None
) -> Images:
    """Join images and their labels, and with cache="ram" read all images, up front.

    Raises:
        DataError: a broken image, no images at all, or no room for the cache.
    """
    if not paths:
        raise DataError("no images in this split; `prune data check` shows what data.yaml finds")
    if cache not in (None, "ram"):
        raise DataError(f"cache is {cache!r}; it can be 'ram' or left out")
    size = Size.of(imgsz)
    kept = fill_cache(paths, size) if cache else None
    return Images(tuple(paths), tuple(boxes), size, kept, max(map(len, boxes)))


def load_next(images: Images, index: int) -> tuple[Image, Boxes, Shape]:
    """Load an image, or where it is broken the next one that is not; see `load`.

    Images that are broken from the start were left out; this one broke since, and must not end a
    training of days. What takes its place depends on the files alone, never on who loads it.

    Raises:
        DataError: none of the next ten can be read: then it is not the file but the disk.
    """
    first: DataError | None = None
    for step in range(min(_TRIES, len(images.paths))):
        try:
            return load(images, (index + step) % len(images.paths))
        except DataError as error:
            first = first or error
            note(f"{error}; another image takes its place")
    assert first is not None
    raise first


def load(images: Images, index: int) -> tuple[Image, Boxes, Shape]:
    """One image, as large as fits into `imgsz`.

    Returns:
        The image, uint8 [h, w, 3] BGR (not to be written to: it may be the cache itself); its
        boxes, [n, 5] class + xyxy in pixels; its original height and width.
    """
    if images.cache is not None:
        image, original = _cached(images.cache, index, images.imgsz)
    else:
        whole = read_image(images.paths[index])
        original = (whole.shape[0], whole.shape[1])
        image = resize(whole, loading_size(original, images.imgsz))
    return image, to_pixels(images.labels[index], (image.shape[0], image.shape[1])), original


def to_pixels(boxes: Boxes, shape: Shape) -> Boxes:
    """Turn fractions (class, cx, cy, w, h) into pixels (class, x1, y1, x2, y2), [n, 5]."""
    size = np.array(shape[::-1], dtype=np.float32)
    centre, half = boxes[:, 1:3] * size, boxes[:, 3:5] * size / 2
    return np.concatenate((boxes[:, :1], centre - half, centre + half), axis=1)


def to_shares(boxes: Boxes, shape: Shape) -> Boxes:
    """Turn pixels (class, x1, y1, x2, y2) into fractions (class, cx, cy, w, h), [n, 5]."""
    size = np.array(shape[::-1], dtype=np.float32)
    low, high = boxes[:, 1:3] / size, boxes[:, 3:5] / size
    return np.concatenate((boxes[:, :1], (low + high) / 2, high - low), axis=1)


def original_sizes(images: Images) -> tuple[Shape, ...]:
    """The height and width of each image before scaling.

    Raises:
        DataError: a file cannot be read as an image.
    """
    if images.cache is not None:
        return images.cache.originals
    return image_sizes(images.paths)


def image_sizes(paths: Sequence[Path]) -> tuple[Shape, ...]:
    """Read the height and width of images as decoded, from the header where that is enough.

    Raises:
        DataError: a file cannot be read as an image.
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        # Nothing is decompressed for a header, however large the image.
        warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
        return tuple(pool.map(_image_size, paths))


def _image_size(path: Path) -> Shape:
    try:
        with open_input(path, "image", error=DataError) as file, PIL.Image.open(file) as header:
            width, height = header.size
            upright = header.getexif().get(EXIF_ORIENTATION, UPRIGHT) == UPRIGHT
    except DataError:
        raise
    except Exception:  # Pillow raises any kind for a damaged header, and gives no size then
        upright = False
    if upright:
        return height, width
    whole = read_image(path)  # the decoder in use has the last word
    return whole.shape[0], whole.shape[1]


def fill_cache(paths: Sequence[Path], imgsz: Size) -> Cache:
    """Decode and scale every image into shared memory.

    Raises:
        DataError: a broken image, or not enough shared memory.
    """
    originals = image_sizes(paths)
    sizes = [loading_size(original, imgsz) for original in originals]
    ends = np.cumsum([height * width * 3 for height, width in sizes]).tolist()
    starts = (0, *ends[:-1])
    cache = Cache(_shared(ends[-1]), starts, originals)

    def fill(index: int) -> None:
        whole = read_image(paths[index])
        if whole.shape[:2] != originals[index]:
            raise DataError(f"{paths[index]}: decodes to another size than its header gives")
        _cached(cache, index, imgsz)[0][:] = resize(whole, sizes[index])

    with ThreadPoolExecutor(cores()) as pool:  # decoding and resizing let go of the interpreter
        list(pool.map(fill, range(len(paths))))
    return cache


def _cached(cache: Cache, index: int, imgsz: Size) -> tuple[Image, Shape]:
    """A view of one cached image, and its original size."""
    original = cache.originals[index]
    height, width = loading_size(original, imgsz)
    start = cache.starts[index]
    pixels = cache.pixels[start : start + height * width * 3].numpy()
    return pixels.reshape(height, width, 3), original


def _shared(size: int) -> Tensor:
    """Memory for `size` bytes that every process sees, uint8 [size]."""
    try:
        pixels = torch.empty(size, dtype=torch.uint8)
        pixels.share_memory_()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    except RuntimeError as error:
        raise DataError(
            f"cache needs {size / 1e6:.0f} MB of shared memory ({error}); train without --cache"
        ) from error
    return pixels
