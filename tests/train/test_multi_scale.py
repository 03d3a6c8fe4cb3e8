"""Sizes of batches: drawn by seed and position alone, multiples of the stride, and they train."""

from __future__ import annotations

import pytest
import torch

from prune.common.size import Size
from prune.train import sampling


@pytest.mark.parametrize(
    ("side", "stride", "sides"),
    [
        (320, 32, [224, 256, 288, 320, 352, 384, 416]),
        (64, 16, [48, 64, 80]),
        (64, 64, [64]),
        (96, 32, [64, 96, 128]),
        (640, 32, range(448, 833, 32)),
    ],
)
def test_sides_are_multiples_of_the_stride_within_a_third(
    side: int, stride: int, sides: list[int]
) -> None:
    assert sampling.possible_sizes(Size.of(side), stride=stride) == tuple(map(Size.of, sides))


@pytest.mark.parametrize("turned", [False, True], ids=["wide", "tall"])
def test_the_shorter_side_follows_the_longer_one(turned: bool) -> None:
    def shaped(height: int, width: int) -> Size:
        return Size(width, height) if turned else Size(height, width)

    wide = sampling.possible_sizes(shaped(192, 320), stride=32)
    heights = {224: 128, 256: 160, 288: 160, 320: 192, 352: 224, 384: 224, 416: 256}
    assert wide == tuple(shaped(height, width) for width, height in heights.items())
    assert min(sampling.possible_sizes(shaped(32, 320), stride=32)[0]) == 32, (
        "never less than the stride"
    )


def test_a_size_is_a_function_of_seed_and_position() -> None:
    def drawn(seed: int) -> list[Size]:
        return [
            sampling.draw_size(Size.of(320), stride=32, seed=seed, position=at) for at in range(60)
        ]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert set(drawn(0)) == set(sampling.possible_sizes(Size.of(320), stride=32))
    assert [size.height for size in drawn(0)[:8]] == [288, 352, 416, 352, 224, 288, 384, 320], (
        "runs of earlier versions go on alike"
    )


def test_resized_images_keep_their_content() -> None:
    ramp = torch.linspace(0, 1, 64).expand(2, 3, 64, 64)
    found = sampling.resize(ramp, Size(48, 80))
    assert found.shape == (2, 3, 48, 80)
    assert float(found.mean()) == pytest.approx(0.5)
    assert sampling.resize(ramp, Size(64, 64)) is ramp
