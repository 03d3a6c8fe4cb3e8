"""A public checkpoint becomes one of ours."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prune.checkpoint import Checkpoint, assemble, capture, digest, load, network
from prune.count import count
from prune.errors import CheckpointError, InputError
from prune.foreign.archive import is_torch_file, read_pickle
from prune.foreign.source import Source, from_darknet, from_document
from prune.models.darknet import Darknet
from prune.models.image_size import image_size
from prune.runs import versions
from prune.size import Sides, Size


def import_foreign(
    path: Path,
    *,
    cfg: Path | None = None,
    names: Sequence[str] | None = None,
    imgsz: Sides | None = None,
) -> Checkpoint:
    """Make a checkpoint of a public one: a YOLOR or YOLOv4 .pt, a pickled module, Darknet .weights.

    Its last history entry tells what was read ("read") and what to know about it ("notes"). One of
    our own comes back with the new names and size.

    Args:
        path: the file; none of its code is run.
        cfg: the network's cfg; without it the file's own word is taken, or ./cfg searched.
        names: class names; without them the file's own, or "0", "1", ...
        imgsz: the side of a square, or height and width, in pixels; without it the cfg's.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the cfg or the names.
        CfgError: the cfg cannot be read.
        InputError: a picture size that the network cannot take.
    """
    wanted = None if imgsz is None else Size.of(imgsz)
    document = read_pickle(path) if is_torch_file(path) else None
    if isinstance(document, dict) and "format" in document:
        return _renewed(path, names=names, imgsz=wanted)
    with _naming(path):
        if document is None:
            source = from_darknet(path, cfg=cfg)
        else:
            source = from_document(document, cfg=cfg, imgsz=wanted)
        net = assemble(source.sections, source.weights)
    size, notes = image_size(net) if wanted is None else (_checked_size(wanted, net), ())
    return capture(
        net,
        names=_own_names(source, net) if names is None else names,
        imgsz=size,
        history=[
            {**_entry(path, net, size), "read": source.read, "notes": [*source.notes, *notes]}
        ],
    )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with its content."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _renewed(path: Path, *, names: Sequence[str] | None, imgsz: Size | None) -> Checkpoint:
    own = load(path)
    net = network(own)
    size = _checked_size(own.imgsz if imgsz is None else imgsz, net)
    notes = ["it was a checkpoint of ours already; its own cfg was kept"]
    entry = {**_entry(path, net, size), "read": "checkpoint", "notes": notes}
    return capture(
        net,
        names=own.names if names is None else names,
        imgsz=size,
        history=[*own.history, entry],
    )


def _own_names(source: Source, net: Darknet) -> Sequence[str]:
    classes = net.heads[0].classes
    return source.names if len(source.names) == classes else [str(i) for i in range(classes)]


def _entry(path: Path, net: Darknet, imgsz: Size) -> dict[str, object]:
    cost = count(net, imgsz.batch())
    return {
        "command": "whole",
        "plan": None,
        "criterion": None,
        "params": cost.params,
        "macs": cost.macs,
        "seed": None,
        "versions": versions(),
        "parent": digest(path),
    }


def _checked_size(imgsz: Size, net: Darknet) -> Size:
    if not imgsz.fits(net.stride):
        raise InputError(
            f"image size is {imgsz}; it must be a multiple of the network's stride, {net.stride}, "
            f"e.g. {imgsz.raised(net.stride)}"
        )
    return imgsz
