"""Sizes of batches: drawn by seed and position alone, multiples of the stride, and they train."""

from __future__ import annotations

import pytest
import torch

from prune.train import scales


def test_sides_are_multiples_of_the_stride_within_a_third() -> None:
    assert list(scales.sides(320, stride=32)) == [224, 256, 288, 320, 352, 384, 416]
    assert list(scales.sides(64, stride=16)) == [48, 64, 80]
    assert list(scales.sides(64, stride=64)) == [64]
    assert list(scales.sides(96, stride=32)) == [64, 96, 128]
    assert list(scales.sides(640, stride=32)) == list(range(448, 833, 32))


def test_a_side_is_a_function_of_seed_and_position() -> None:
    def drawn(seed: int) -> list[int]:
        return [scales.side(320, stride=32, seed=seed, position=at) for at in range(60)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)
    assert set(drawn(0)) == set(scales.sides(320, stride=32))


def test_resized_pictures_keep_their_content() -> None:
    ramp = torch.linspace(0, 1, 64).expand(2, 3, 64, 64)
    found = scales.resized(ramp, 48)
    assert found.shape == (2, 3, 48, 48)
    assert float(found.mean()) == pytest.approx(0.5)
    assert scales.resized(ramp, 64) is ramp
