"""Augmentation: boxes follow pixels, whatever happens to the image."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from prune.data import augment
from prune.data.frames import GREY, batch_shape, fit, pad, place, resize
from prune.data.images import Image
from prune.data.labels import Boxes
from prune.data.mosaic import mosaic

STILL = {"degrees": 0.0, "translate": 0.0, "scale": 0.0, "shear": 0.0, "perspective": 0.0}


def boxes_of(*rows: tuple[float, ...]) -> Boxes:
    return np.array(rows, dtype=np.float32).reshape(-1, 5)


def spot(height: int, width: int, box: tuple[int, int, int, int]) -> tuple[Image, Boxes]:
    """A black image with one white box (x1, y1, x2, y2), and that box with class 3."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    return image, boxes_of((3, *box))


def found(image: Image) -> Boxes:
    """The box around what is brighter than half, [4]; padding is darker than that."""
    rows, columns = np.nonzero(image[..., 0] > 127)
    low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
    return np.array((*low, *high), dtype=np.float32)


def noise(height: int, width: int, seed: int = 0) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(96, 128), (64, 64), (65, 101)])
def test_letterbox_moves_box_with_pixels(shape: tuple[int, int]) -> None:
    image, boxes = augment.letterbox(*spot(40, 60, (7, 5, 31, 22)), shape)
    assert image.shape == (*shape, 3)
    assert np.array_equal(boxes[0, 1:], found(image))
    assert image[0, 0].tolist() == [GREY] * 3


@pytest.mark.parametrize("flip", [augment.flip_left_right, augment.flip_up_down])
def test_flip_moves_box_with_pixels_and_twice_is_nothing(flip: augment.Flip) -> None:
    image, boxes = spot(40, 61, (7, 5, 31, 22))
    flipped, moved = flip(image, boxes)
    assert np.array_equal(moved[0, 1:], found(flipped))
    again, back = flip(flipped, moved)
    assert np.array_equal(again, image)
    assert np.array_equal(back, boxes)


@pytest.mark.parametrize("tile", range(4))
@pytest.mark.parametrize("size", [(40, 40), (35, 60)], ids=["square", "wide"])
@pytest.mark.parametrize("centre", [(40, 40), (20, 50), (60, 33)], ids=str)
def test_mosaic_moves_box_with_pixels(
    tile: int, centre: tuple[int, int], size: tuple[int, int]
) -> None:
    tiles = [spot(30, 40, (0, 0, 0, 0)) for _ in range(4)]
    tiles[tile] = spot(30, 40, (12, 11, 26, 19))
    canvas, boxes = mosaic(tiles, centre, size)
    assert canvas.shape == (2 * size[0], 2 * size[1], 3)
    assert len(boxes) == 1
    assert np.array_equal(boxes[0, 1:], found(canvas))


def test_mosaic_cuts_what_leaves_the_canvas() -> None:
    tiles = [spot(40, 40, (0, 0, 30, 30)), *(spot(40, 40, (0, 0, 0, 0)) for _ in range(3))]
    canvas, boxes = mosaic(tiles, (20, 20), (40, 40))  # the first tile starts at -20, -20
    assert boxes.tolist() == [[3, 0, 0, 10, 10]]
    assert np.array_equal(boxes[0, 1:], found(canvas))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    degrees=st.sampled_from((0.0, 30.0)),
    shear=st.sampled_from((0.0, 10.0)),
    perspective=st.sampled_from((0.0, 0.001)),
    side=st.sampled_from((128, 256)),
)
def test_warp_moves_box_with_pixels(
    seed: int, degrees: float, shear: float, perspective: float, side: int
) -> None:
    rng = np.random.default_rng(seed)
    image, boxes = spot(256, 256, (90, 100, 150, 140))
    ranges = {"degrees": degrees, "shear": shear, "perspective": perspective}
    matrix = augment.random_matrix(
        rng, (256, 256), (side, side), translate=0.1, scale=0.5, **ranges
    )
    warped, moved = augment.warp(image, boxes, matrix, shape=(side, side))
    assert warped.shape == (side, side, 3)
    assume(len(moved))
    inside = (moved[0, 1:] > 0).all() and (moved[0, 1:] < side).all()
    assume(inside)  # a turned box that is cut is smaller than the cut box around it
    assert np.abs(moved[0, 1:] - found(warped)).max() <= 1.5


def test_warp_scales_to_a_fraction_of_a_pixel() -> None:
    image, boxes = noise(64, 64), boxes_of((3, 16, 24, 48, 40))
    matrix = np.diag((0.5, 0.5, 1.0))
    warped, moved = augment.warp(image, boxes, matrix, shape=(32, 32))
    assert moved[0, 1:].tolist() == [8, 12, 24, 20]
    assert np.abs(warped.astype(int) - cv2.resize(image, (32, 32))).max() <= 1


def test_affine_warp_equals_projective_warp() -> None:
    image = np.asarray(cv2.GaussianBlur(noise(60, 80), (0, 0), 3), dtype=np.uint8)
    matrix = augment.random_matrix(
        np.random.default_rng(1), (60, 80), (64, 64), **{**STILL, "degrees": 20, "scale": 0.3}
    )
    nearly = matrix.copy()
    nearly[2, 0] = 1e-12  # too little to move anything, enough to take the other way
    one, _ = augment.warp(image, boxes_of(), matrix, shape=(64, 64))
    other, _ = augment.warp(image, boxes_of(), nearly, shape=(64, 64))
    assert np.abs(one.astype(int) - other).max() <= 2


def test_warp_without_ranges_changes_nothing() -> None:
    image, boxes = noise(64, 64), boxes_of((0, 5, 6, 30, 40))
    matrix = augment.random_matrix(np.random.default_rng(0), (64, 64), (64, 64), **STILL)
    warped, moved = augment.warp(image, boxes, matrix, shape=(64, 64))
    assert np.array_equal(warped, image)
    assert np.array_equal(moved, boxes)


def test_warp_crops_the_middle_of_a_larger_canvas() -> None:
    image = noise(128, 128)
    matrix = augment.random_matrix(np.random.default_rng(0), (128, 128), (64, 64), **STILL)
    warped, moved = augment.warp(image, boxes_of((1, 40, 40, 60, 60)), matrix, shape=(64, 64))
    assert np.array_equal(warped, image[32:96, 32:96])
    assert moved.tolist() == [[1, 8, 8, 28, 28]]


def test_box_beyond_the_horizon_is_dropped() -> None:
    matrix = np.eye(3)
    matrix[2, 0] = -0.02  # the horizon lies at x = 50
    boxes = boxes_of((0, 5, 5, 20, 20), (1, 40, 5, 60, 20), (2, 70, 5, 90, 20))
    assert augment.warp_boxes(boxes, matrix)[:, 0].tolist() == [0]


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        pytest.param((10, 10, 30, 30), (10, 10, 30, 30), id="inside"),
        pytest.param((-10, 10, 30, 30), (0, 10, 30, 30), id="cut"),
        pytest.param((-91, 10, 9, 60), None, id="a tenth left"),
        pytest.param((-89, 10, 11, 60), (0, 10, 11, 60), id="more than a tenth left"),
        pytest.param((10, 10, 12, 30), None, id="two pixels wide"),
        pytest.param((10, 10, 12.5, 30), (10, 10, 12.5, 30), id="wider than two pixels"),
        pytest.param((0, 10, 400, 13), None, id="too long for its width"),
        pytest.param((500, 10, 600, 30), None, id="outside"),
        pytest.param((10, 10, 10, 10), None, id="no area"),
    ],
)
def test_boxes_are_kept_that_still_show_something(
    box: tuple[float, ...], kept: tuple[float, ...] | None
) -> None:
    left = augment.visible(boxes_of((2, *box)), (100, 450))
    assert left.tolist() == ([] if kept is None else [[2, *kept]])


def test_mixup_keeps_both_images_and_all_boxes() -> None:
    first, second = spot(32, 32, (2, 2, 12, 12)), spot(32, 32, (20, 20, 30, 30))
    image, boxes = augment.mixup(first, second, 0.25)
    assert boxes.tolist() == [[3, 2, 2, 12, 12], [3, 20, 20, 30, 30]]
    assert image[5, 5].tolist() == [64] * 3
    assert image[25, 25].tolist() == [191] * 3
    assert np.array_equal(augment.mixup(first, second, 1.0)[0], first[0])


def test_hsv_gains_of_one_change_nothing() -> None:
    image = noise(20, 30)
    assert np.array_equal(augment.hsv(image, (1.0, 1.0, 1.0)), image)


def test_hsv_equals_slow_arithmetic() -> None:
    image, gains = noise(20, 30), (1.01, 0.6, 1.4)
    before = image.copy()
    colours = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).astype(float)
    hue = colours[..., 0] * gains[0] % 180
    rest = (colours[..., 1:] * gains[1:]).clip(0, 255)
    slow = cv2.cvtColor(np.dstack((hue, rest)).astype(np.uint8), cv2.COLOR_HSV2BGR)
    changed = augment.hsv(image, gains)
    assert changed.dtype == np.uint8
    assert np.array_equal(changed, slow)
    assert np.array_equal(image, before)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    shape=st.tuples(st.integers(64, 200), st.integers(64, 200)),
)
def test_letterboxed_box_maps_back(size: tuple[int, int], shape: tuple[int, int]) -> None:
    height, width = size
    letterboxed, frame = fit(np.full((height, width, 3), 255, dtype=np.uint8), shape)
    assert letterboxed.shape == (*shape, 3)
    box = found(letterboxed)  # the whole image
    back = (box - (frame.pad_x, frame.pad_y) * 2) / ((frame.scale_x, frame.scale_y) * 2)
    assert (frame.height, frame.width) == size
    assert np.abs(back - (0, 0, width, height)).max() <= 1e-3


def test_fit_fills_one_side() -> None:
    for size in ((50, 70), (70, 50), (333, 500), (1, 999)):
        letterboxed, frame = fit(np.full((*size, 3), 255, dtype=np.uint8), (96, 128))
        box = found(letterboxed)
        longer = frame.scale_y if size[0] > size[1] else frame.scale_x
        assert math.isclose(longer, min(96 / size[0], 128 / size[1]), rel_tol=0.01)
        assert box[2] - box[0] == 128 or box[3] - box[1] == 96


@pytest.mark.parametrize("times", [2, 3])
def test_resizing_to_half_or_less_reads_every_pixel(times: int) -> None:
    image = noise(32 * times, 48 * times)
    mean = image.reshape(32, times, 48, times, 3).mean(axis=(1, 3))
    assert np.abs(resize(image, (32, 48)) - mean).max() <= 0.5


def test_pad_and_place_agree() -> None:
    image = np.full((31, 40, 3), 255, dtype=np.uint8)
    box = found(pad(image, (64, 64)))
    frame = place((62, 80), (31, 40), (64, 64))
    assert (frame.pad_x, frame.pad_y) == tuple(box[:2])
    assert (frame.scale_y, frame.scale_x) == (0.5, 0.5)


def test_batch_shape_is_the_least_multiple() -> None:
    assert batch_shape([(240, 320), (200, 320)], 32) == (256, 320)
    assert batch_shape([(1, 1)], 64) == (64, 64)
    assert batch_shape([(64, 65)], 64) == (64, 128)
