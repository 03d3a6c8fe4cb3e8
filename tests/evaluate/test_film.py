"""Videos that are written are whole, or it is an error."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from prune.evaluate.predict import _has_index


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(5):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    return path


def test_a_video_that_a_full_disk_cut_short_is_told_from_a_whole_one(film: Path) -> None:
    whole = film.read_bytes()
    assert _has_index(film)
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        film.write_bytes(whole[:size])
        assert not _has_index(film)
