"""What images a file takes, read from the file; what it is then run on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prune.common.dimensions import SIDE, STRIDE
from prune.common.inputs import open_input, read_bytes, reading, shown
from prune.common.plain_json import BrokenTextError, read_json
from prune.common.size import Sides, Size
from prune.errors import InputError
from prune.runtimes import ncnn_param
from prune.runtimes.backends import Setting

Side = int | None
"""Of an input; None where the file leaves it open."""


@dataclass(frozen=True)
class Taken:
    """The images a file takes.

    Attributes:
        shape: N, C, H, W; None where any will do.
        imgsz: height and width that the file recommends; None: it does not say.
        stride: open sides must be multiples of it.
    """

    shape: tuple[Side, Side, Side, Side]
    imgsz: tuple[int, int] | None = None
    stride: int = 1


def settle(
    path: Path,
    *,
    threads: int,
    imgsz: Sides | None = None,
    batch: int | None = None,
    held: Path | None = None,
) -> Setting:
    """Decide what a file is run on: what is requested, or else what the file says.

    Args:
        path: .onnx, .pt, .pth, .weights or .param.
        threads: of a run.
        imgsz: side of a square image, or height and width, pixels.
        batch: images per run; None: what the file says, or 1.
        held: a checkpoint of ours with the content of `path`, where that is of another project.

    Raises:
        InputError: the file cannot be read, takes other images, or its size is not known.
    """
    if path.suffix.lower() not in READERS:
        known = ", ".join(READERS)
        raise InputError(f"{path} is none of the files that can be timed: {known}")
    with open_input(held or path, "onnx"):
        pass  # a regular file, so that no reader waits for a pipe
    taken = READERS[path.suffix.lower()](held or path)
    number, channels, height, width = taken.shape
    if batch is not None and number not in (None, batch):
        raise InputError(
            f"batch is {batch}, but {path} takes {number} per run only; leave --batch out, or "
            "export with --dynamic"
        )
    usual = taken.imgsz or (None, None)
    own = (height or usual[0], width or usual[1])  # what the file recommends is for open sides
    requested = own if imgsz is None else Size.of(imgsz)
    sides = _fitting(path, (height, width), requested, taken.stride)
    if excess := Size(*sides).excess(batch or number or 1, channels=channels or 3):
        raise InputError(f"{path} cannot be timed on so many values: {excess}")
    return Setting(threads, sides, batch or number or 1, channels or 3)


def size_of(path: Path) -> int:
    """Return the bytes of a file and of what belongs to it: ncnn's weights lie beside the text."""
    parts = [path, path.with_suffix(".bin")] if path.suffix == ".param" else [path]
    return sum(part.stat().st_size for part in parts if part.is_file())


def _fitting(
    path: Path, own: tuple[Side, Side], requested: tuple[Side, Side], stride: int
) -> tuple[int, int]:
    """Return height and width; see `settle`."""
    if any(mine not in (None, side) for mine, side in zip(own, requested, strict=True) if side):
        raise InputError(
            f"image size is {_by(requested)}, but {path} takes images of {_by(own)} only; leave "
            "--img-size out, or export with --dynamic"
        )
    height, width = (mine or side for mine, side in zip(own, requested, strict=True))
    if height is None or width is None:
        raise InputError(
            f"{path} leaves its image size open and does not say which is usual; "
            "give --img-size, e.g. 320"
        )
    size = Size(height, width)
    if any(mine is None and side % stride for side, mine in zip(size, own, strict=True)):
        raise InputError(
            f"image size is {size}; {path} takes multiples of {stride}, e.g. {size.raised(stride)}"
        )
    return height, width


def _by(sides: tuple[Side, Side]) -> str:
    if isinstance(sides, Size):
        return str(sides)
    return " x ".join("any" if side is None else str(side) for side in sides)


def _onnx(path: Path) -> Taken:
    import onnx

    with reading(path, called="the ONNX file"):
        model = onnx.load(path, load_external_data=False)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    if not inputs:
        raise InputError(f"{path} is no ONNX file with an input")
    dims = inputs[0].type.tensor_type.shape.dim
    if len(dims) != 4:
        raise InputError(f"{path} takes {len(dims)} sides, not images, [N, C, H, W]")
    number, channels, height, width = (dim.dim_value or None for dim in dims)
    if any(dim.dim_value < 0 for dim in dims):
        raise InputError(f"{path} takes images of sides below zero")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    for key, value in facts.items():
        if not isinstance(key, str) or not isinstance(value, str):  # as protobuf gives other bytes
            raise InputError(f"{path}: metadata not in UTF-8: {shown(key)}")
    stride = _numbers(facts.get("stride", ""), most=STRIDE)
    return Taken((number, channels, height, width), _size(facts), stride[0] if stride else 1)


def _size(facts: dict[str, str]) -> tuple[int, int] | None:
    sides = _numbers(facts.get("imgsz", ""), most=SIDE)  # "[320, 320]", "320"
    return (sides[0], sides[-1]) if sides else None


def _numbers(text: str, *, most: int) -> list[int]:
    """Find whole numbers from 1 to `most`; what is larger is a mistake in the file."""
    found = (int(word) for word in re.findall(r"\b\d{1,9}\b", text))
    return [number for number in found if 1 <= number <= most]


def _checkpoint(path: Path) -> Taken:
    from prune import checkpoint

    source = checkpoint.load(path)
    stride = checkpoint.network(source).stride
    return Taken((None, 3, None, None), source.imgsz, stride)


def _ncnn(path: Path) -> Taken:
    """Read the text, and the .json that `prune export` writes beside it, if it is there."""
    channels, height, width = ncnn_param.read(path).sides
    with open_input(path.with_suffix(".bin"), "weights", called="ncnn's"):
        pass  # as above
    shape = (1, channels or None, height or None, width or None)
    try:
        document = read_json(read_bytes(path.with_suffix(".json"), "json"))
        facts = (
            {key: str(value) for key, value in document.items()}
            if isinstance(document, dict)
            else {}
        )
    except (InputError, BrokenTextError):  # of another program
        facts = {}
    stride = _numbers(facts.get("stride", ""), most=STRIDE)
    return Taken(shape, _size(facts), stride[0] if stride else 1)


Reader = Callable[[Path], Taken]
"""Read what images the file takes; InputError where it is no such file."""

READERS: dict[str, Reader] = {
    ".onnx": _onnx,
    ".pt": _checkpoint,
    ".pth": _checkpoint,
    ".weights": _checkpoint,
    ".param": _ncnn,
}
