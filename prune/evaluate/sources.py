"""What `detect` looks at: images, videos, folders, globs, lists of them, cameras, streams, URLs."""

from __future__ import annotations

import base64
import glob
import itertools
import os
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, unquote, urlsplit

import cv2
import numpy as np
from loguru import logger

from prune.common.inputs import open_input, read_text
from prune.common.notes import note
from prune.common.run_dir import without_password
from prune.data.images import (
    SUFFIXES,
    Image,
    decode,
    expect_few_pixels,
    is_hidden,
    is_image,
    read_image,
)
from prune.errors import DataError

# FFmpeg prints its own lines on stderr unless this is set before a process opens its first video
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

VIDEO_SUFFIXES = frozenset(
    {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
)
WEB, STREAMS = ("http", "https"), ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "tcp", "srt")

_VIDEO4LINUX = 81  # the major number of its devices
_TIMEOUT_S = 10  # without an answer, or between two frames of a stream
_LARGEST = 256 << 20  # bytes of an image that a web server sends


@dataclass(frozen=True)
class Source:
    """One image, video, camera or stream.

    Attributes:
        where: a path, a URL, or a camera's number.
        kind: how it is opened, a key of OPENERS.
    """

    where: str
    kind: str

    @property
    def name(self) -> str:
        """What is printed of it: a URL without user and password."""
        return without_password(self.where)

    @property
    def file(self) -> Path:
        """A file name for what is written of it."""
        if self.kind in ("image", "video"):
            return Path(self.where)
        if self.kind == "camera":
            return Path("camera" + Path(self.where).name.removeprefix("video"))
        url = urlsplit(self.where)
        last = unquote(url.path).rstrip("/").rpartition("/")[2] or url.hostname or "stream"
        return Path(re.sub(r"[^\w.-]+", "_", last))


# Some formats only estimate how many frames they hold.
_WHOLE, _MOST_FRAMES = 0.9, 1e9


@dataclass(frozen=True)
class Reel:
    """An opened source: its images, uint8 [h, w, 3] BGR.

    `rate` is the frames per second of a video or stream, None of a single image.
    """

    images: Iterator[Image]
    rate: float | None = None


def find(source: str) -> list[Source]:
    """List what `source` names; files are sorted.

    Args:
        source: an image, a video, a folder (its sub-folders where it has no images of its own), a
            glob (** for sub-folders), a .txt list of any of these, a camera's number or device,
            or a URL.

    Raises:
        DataError: there is none, or what there is cannot be read.
    """
    if "://" in source:
        return [_of_url(source)]
    if not source.strip():
        raise DataError("the source is empty; name an image, a folder, a camera (0) or a URL")
    path = Path(source)
    try:
        if path.is_dir():
            return _in_folder(path)
        if (source.isdecimal() and not path.exists()) or _is_camera(path):
            return [Source(source, "camera")]
        if path.is_file():
            return _in_list(path) if path.suffix.lower() == ".txt" else [_of_file(path)]
        if path.exists():  # a pipe, a socket, another device: the error names it
            open_input(path, "image", error=DataError).close()
        found = _known(map(Path, _matches(source)))
    except OSError as error:
        raise DataError(f"cannot read {source}: {error.strerror}") from error
    if not found:
        raise DataError(
            f"no such file or match: {source}; a source is an image, a video, a folder, a quoted "
            "glob, a .txt list, a camera's number (0), or a URL (rtsp://, http://)"
        )
    return found


def _is_camera(path: Path) -> bool:
    """Return whether a path is a camera of Linux; /dev/zero is a device, too, and has no end."""
    return path.is_char_device() and os.major(path.stat().st_rdev) == _VIDEO4LINUX


def _of_url(url: str) -> Source:
    scheme = url.partition("://")[0].lower()
    if scheme not in WEB + STREAMS:
        raise DataError(
            f"cannot read {without_password(url)}: a URL begins with one of "
            + ", ".join(f"{known}://" for known in WEB + STREAMS)
        )
    return Source(url, "web" if scheme in WEB else "stream")


def _of_file(path: Path) -> Source:
    if is_image(path):
        return Source(str(path), "image")
    if is_video(path):
        return Source(str(path), "video")
    raise DataError(f"{path} is neither an image nor a video ({_suffixes()}) nor a .txt list")


def _in_folder(folder: Path) -> list[Source]:
    """List a folder's images and videos; those of its sub-folders where it has none itself."""
    own = _known(folder.iterdir())
    below = _known(path for path in folder.rglob("*") if path.parent != folder)
    inside = [s for s in below if not any(map(is_hidden, Path(s.where).relative_to(folder).parts))]
    if not own + inside:
        raise DataError(f"no images or videos in {folder} or its sub-folders ({_suffixes()})")
    if own and inside:
        pattern = folder / "**" / "*"
        logger.info(
            f"note: {len(inside)} more in the sub-folders of {folder} are left out; "
            f"--source '{pattern}' takes them, too"
        )
    if not own:
        logger.info(f"note: {folder} itself has no images; its sub-folders have {len(inside)}")
    return own or inside


def _in_list(listing: Path) -> list[Source]:
    """Read a list: a source per line; empty lines and those that begin with # are left out."""
    lines = read_text(listing, error=DataError).splitlines()
    entries = {n: line.strip() for n, line in enumerate(lines, start=1)}
    entries = {n: line for n, line in entries.items() if line and not line.startswith("#")}
    found = {n: _listed(line, beside=listing.parent) for n, line in entries.items()}
    missing = [n for n, sources in found.items() if not sources]
    if missing or not found:
        first = f"; the first is line {missing[0]}: {entries[missing[0]]}" if missing else ""
        raise DataError(
            f"{listing}: {len(missing)} of {len(entries)} lines name no image, video or stream, "
            f"neither from the working folder nor beside the list{first}"
        )
    return list(itertools.chain.from_iterable(found.values()))


def _listed(line: str, *, beside: Path) -> list[Source]:
    for entry in (line, str(beside / line)):
        if Path(entry).suffix.lower() == ".txt":
            continue  # a list in a list might never end
        try:
            return find(entry)
        except DataError:
            continue
    return []


def _known(paths: Iterable[Path]) -> list[Source]:
    """Keep images and videos, sorted; hidden names are other programs' own."""
    files = [path for path in paths if is_image(path) or is_video(path)]
    shown = (path for path in sorted(files) if not is_hidden(path.name))
    return [_of_file(path) for path in shown if not path.is_dir()]


def is_video(path: Path) -> bool:
    """Return whether the name ends like a video's."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def stems(paths: Sequence[Path]) -> list[str]:
    """Return a name for what is written for each path: its stem, unique among all of them.

    Two images a.jpg and a.png, or x/1.jpg and y/1.jpg, would else overwrite each other.
    """
    count = Counter(path.stem for path in paths)
    names: dict[str, None] = {}  # in order
    for path in paths:
        name = path.stem if count[path.stem] == 1 else f"{path.stem}_{path.suffix[1:]}"
        candidates = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
        names[next(free for free in candidates if free not in names)] = None
    return list(names)


def opened(source: Source) -> Reel:
    """Open a source.

    Raises:
        DataError: it cannot be opened or read.
    """
    return OPENERS[source.kind](source)


def _image(source: Source) -> Reel:
    return Reel(iter([read_image(Path(source.where))]))


def _video(source: Source) -> Reel:
    path = Path(source.where)
    with open_input(path, "video", error=DataError) as file:
        if not file.read(1):
            raise DataError(f"{path}: video file is empty")
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    failure = f"{path}: cannot read video: not a video, or a codec that is not there"
    reel = _reel(capture, failure)
    return replace(reel, images=_counted(reel.images, promised, path))


def _counted(images: Iterator[Image], promised: float, path: Path) -> Iterator[Image]:
    """Yield the frames of a video; note where they end long before the header says."""
    found = 0
    for image in images:
        yield image
        found += 1
    if found < _WHOLE * promised < _MOST_FRAMES:
        note(
            f"{path}: its header promises {promised:,.0f} frames, and {found:,} could be read; the "
            "file is damaged or cut short"
        )


def _camera(source: Source) -> Reel:
    # V4L2 takes a device's path as well
    where = int(source.where) if source.where.isdecimal() else source.where
    capture = cv2.VideoCapture(where)
    return _reel(capture, f"cannot open camera {source.where}: there is none, or it is in use")


def _stream(source: Source) -> Reel:
    limits = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
    settings = [value for limit in limits for value in (limit, 1000 * _TIMEOUT_S)]
    capture = cv2.VideoCapture(source.where, cv2.CAP_FFMPEG, settings)
    return _reel(capture, f"cannot open {source.name}: nothing there that FFmpeg could read")


def _web(source: Source) -> Reel:
    """Read an image that a web server sends; anything else may be a stream."""
    try:
        with urllib.request.urlopen(_request(source.where), timeout=_TIMEOUT_S) as reply:
            data = _image_in(reply, source)
    except HTTPException:  # servers of streams that speak something like HTTP
        return _stream(source)
    except (OSError, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()  # it is the answer as well
        why = error.reason if type(error) is URLError else error
        raise DataError(f"cannot open {source.name}: {why}") from error
    return _stream(source) if data is None else Reel(iter([decode(data, Path(source.name))]))


def _request(where: str) -> urllib.request.Request:
    """Ask for a URL; user and password in it, as cameras have them, go into the header."""
    url: SplitResult = urlsplit(where)
    request = urllib.request.Request(without_password(where), headers={"User-Agent": "prune"})
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
        request.add_header("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
    return request


def _image_in(reply: HTTPResponse, source: Source) -> bytes | None:
    """Return an image's bytes; None if the server sends something else."""
    kind = reply.headers.get_content_type()
    if kind == "text/html":
        raise DataError(f"{source.name} is a web page, neither an image nor a stream")
    if kind.startswith("image/") or (is_image(source.file) and not kind.startswith("multipart/")):
        return reply.read(_LARGEST)
    return None


Opener = Callable[[Source], Reel]

OPENERS: dict[str, Opener] = {
    "image": _image,
    "video": _video,
    "camera": _camera,
    "stream": _stream,
    "web": _web,
}


def _reel(capture: cv2.VideoCapture, failure: str) -> Reel:
    """Wrap a capture that was just opened.

    Raises:
        DataError: it could not be (the message is `failure`), or its frames are too large.
    """
    if not capture.isOpened():
        capture.release()
        raise DataError(failure)
    rate = capture.get(cv2.CAP_PROP_FPS)
    sides = (capture.get(side) for side in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
    try:
        expect_few_pixels(*sides, of=failure.partition(": ")[0])
        read, first = capture.read()
    except DataError:
        capture.release()
        raise
    if not read:
        capture.release()
        raise DataError(f"{failure} (no frame in it can be decoded)")
    return Reel(_frames(capture, first), rate if 0 < rate < 1000 else 30.0)


def _frames(capture: cv2.VideoCapture, image: object) -> Iterator[Image]:
    read = True
    try:
        while read:
            yield np.asarray(image, dtype=np.uint8)
            read, image = capture.read()
    finally:
        capture.release()


def _matches(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  # Path.glob takes no absolute ones


def _suffixes() -> str:
    return " ".join(sorted(SUFFIXES | VIDEO_SUFFIXES))
