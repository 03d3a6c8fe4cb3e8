"""What `detect` looks at: a file, a folder or a glob of pictures and videos."""

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from prune.data.pictures import SUFFIXES, Image, is_picture, read_image
from prune.errors import DataError

# FFmpeg prints its own lines on stderr unless told not to before a process opens its first video
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
)


def is_video(path: Path) -> bool:
    """Say whether the name ends like a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find(source: str) -> list[Path]:
    """List the pictures and videos that `source` names, sorted.

    Args:
        source: a file, a folder (not its subfolders), or a glob (** for subfolders).

    Raises:
        DataError: there is none, a file that is neither, or a folder that cannot be read.
    """
    path = Path(source)
    try:
        if path.is_file():
            if not (is_picture(path) or is_video(path)):
                raise DataError(f"{path} is neither a picture nor a video ({_suffixes()})")
            return [path]
        inside = path.iterdir() if path.is_dir() else map(Path, _matches(source))
        found = sorted(file for file in inside if is_picture(file) or is_video(file))
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from error
    if not found:
        missing = "no pictures or videos in" if path.is_dir() else "no such file or match:"
        raise DataError(f"{missing} {source} ({_suffixes()})")
    return found


def stems(paths: Sequence[Path]) -> list[str]:
    """Name what is written for each path: its stem, made unique where several files share it.

    Two pictures a.jpg and a.png, or x/1.jpg and y/1.jpg, would else overwrite each other.
    """
    count = Counter(path.stem for path in paths)
    names: dict[str, None] = {}  # in order
    for path in paths:
        name = path.stem if count[path.stem] == 1 else f"{path.stem}_{path.suffix[1:]}"
        wished = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
        names[next(free for free in wished if free not in names)] = None
    return list(names)


def frames(path: Path) -> Iterator[Image]:
    """Yield the pictures of a file: one, or a video's; uint8 [h, w, 3] BGR.

    Raises:
        DataError: the file cannot be read.
    """
    if is_picture(path):
        yield read_image(path)
        return
    capture = _open_video(path)
    try:
        read, image = capture.read()
        if not read:
            raise DataError(f"{path}: cannot read video: no frame in it can be decoded")
        while read:
            yield np.asarray(image, dtype=np.uint8)
            read, image = capture.read()
    finally:
        capture.release()


def frames_a_second(path: Path) -> float:
    """Read a video's speed; 30 where the file does not say."""
    capture = _open_video(path)
    speed = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    return speed if 0 < speed < 1000 else 30.0


def _open_video(path: Path) -> cv2.VideoCapture:
    if not path.is_file() or not path.stat().st_size:
        raise DataError(f"{path}: " + ("video file is empty" if path.is_file() else "no such file"))
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        raise DataError(f"{path}: cannot read video: not a video, or a codec that is not there")
    return capture


def _matches(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute ones


def _suffixes() -> str:
    return " ".join(sorted(SUFFIXES | VIDEO_SUFFIXES))
