"""Open weights: our own checkpoints as they are, public ones as what they become here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from prune.checkpoint.file import Checkpoint, assemble, capture, digest, load, naming, network
from prune.checkpoint.foreign.archive import is_torch_file, read_pickle
from prune.checkpoint.foreign.decoding import decode_as_darknet, with_decoding_of
from prune.checkpoint.foreign.source import Source, from_darknet, from_document
from prune.checkpoint.foreign.structure import read_cfg
from prune.common.run_dir import versions
from prune.common.size import Sides, Size
from prune.core.cost.macs import count
from prune.errors import ForeignError, InputError
from prune.models.darknet import Darknet
from prune.models.image_size import image_size
from prune.models.sections import Section, expect_rgb, parse, with_classes, with_own_reorg, write
from prune.models.sections import remarks as cfg_remarks


@dataclass(frozen=True)
class Reading:
    """What the user knows of a file of weights; None leaves it to the file.

    Attributes:
        cfg: the network's cfg; else the file's own word, one of the same name, or ./cfg. One of
            our checkpoints has its own, which counts.
        names: class names; else the file's own, or "0", "1", ...
        decoding: "exp" or "sigmoid"; else see `foreign.decoding`.
    """

    cfg: Path | None = None
    names: tuple[str, ...] | None = None
    decoding: str | None = None


AS_IT_IS = Reading()


def open_weights(path: Path, reading: Reading = AS_IT_IS) -> Checkpoint:
    """Read a file of weights, ours or a public one; the one place where commands do.

    Args:
        path: a checkpoint of ours, a YOLOR, YOLOv4 or YOLOv3 .pt (state dict or pickled module),
            or Darknet .weights; none of its code is run.
        reading: what is known of it.

    Returns:
        The checkpoint; whether it is `foreign`, and `remarks` on how it was read.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the cfg or the names.
        CfgError: the cfg cannot be read.
    """
    try:
        own = load(path)
    except ForeignError:
        found = import_foreign(
            path, cfg=reading.cfg, names=reading.names, decoding=reading.decoding
        )
        entry = found.history[-1]
        remarks = [entry["read"], *entry["notes"]]  # type: ignore[misc]  # a list, see below
        return replace(found, foreign=True, remarks=tuple(map(str, remarks)), source=str(path))
    return _as_said(own, reading)


def _as_said(own: Checkpoint, reading: Reading) -> Checkpoint:
    """Give one of our checkpoints other names and another decoding, where the user chose them."""
    remarks = []
    if reading.decoding is not None:
        sections = with_decoding_of(parse(own.cfg, source=own.cfg_source), reading.decoding)
        own = replace(own, cfg=write(sections))
        remarks.append(f"boxes decode by {reading.decoding}, as --decoding says")
    if reading.names is not None:
        own = replace(own, names=list(reading.names))  # `network` compares them with the heads
    return replace(own, remarks=tuple(remarks))


def import_foreign(
    path: Path,
    *,
    cfg: Path | None = None,
    names: Sequence[str] | None = None,
    imgsz: Sides | None = None,
    decoding: str | None = None,
) -> Checkpoint:
    """Make a checkpoint of a public one: a .pt of YOLOR, YOLOv4 or YOLOv3, Darknet .weights.

    Its last history entry names what was read ("read") and what to know about it ("notes"). One of
    our own comes back with the new names, size and decoding.

    Args:
        path: the file; none of its code is run.
        cfg: the network's cfg; without it the file's own word is taken, one of the same name beside
            it or in ./cfg, or one there whose layers match.
        names: class names; without them the file's own, or "0", "1", ...
        imgsz: the side of a square, or height and width, in pixels; without it the cfg's.
        decoding: "exp" or "sigmoid"; without it what the cfg and the file say.

    Raises:
        CheckpointError: the file cannot be read, or does not fit the cfg or the names.
        CfgError: the cfg cannot be read.
        InputError: an image size that the network cannot take.
    """
    requested = None if imgsz is None else Size.of(imgsz)
    document = read_pickle(path) if is_torch_file(path) else None
    if isinstance(document, dict) and "format" in document:
        return _renewed(path, names=names, imgsz=requested, decoding=decoding)
    with naming(path):
        if document is None:
            source = from_darknet(path, cfg=cfg, decoding=decoding)
        else:
            source = from_document(document, path=path, cfg=cfg, decoding=decoding, imgsz=requested)
        net = assemble(source.sections, source.weights)
    size, notes = _size(net, requested)
    return capture(
        net,
        names=_own_names(source, net) if names is None else names,
        imgsz=size,
        history=[
            {**_entry(path, net, size), "read": source.read, "notes": [*source.notes, *notes]}
        ],
    )


def fresh(
    cfg: Path,
    *,
    names: Sequence[str] | None = None,
    imgsz: Sides | None = None,
    decoding: str | None = None,
    seed: int = 0,
) -> Checkpoint:
    """Make a checkpoint of a cfg's network with weights as a training starts from.

    Args:
        cfg: the network's cfg.
        names: class names, which the heads are made for; without them "0", "1", ... of the cfg.
        imgsz: the side of a square, or height and width, in pixels; without it the cfg's.
        decoding: "exp" or "sigmoid"; without it what the cfg says, else exp as in Darknet.
        seed: of the weights.

    Raises:
        CfgError: the cfg cannot be read, or describes no network of RGB images.
        InputError: an image size that the network cannot take.
    """
    sections = fresh_sections(cfg, classes=None if names is None else len(names))
    decoded = decode_as_darknet(sections, requested=decoding)
    torch.manual_seed(seed)
    net = Darknet(decoded.sections)
    size, changed = _size(net, None if imgsz is None else Size.of(imgsz))
    classes = [str(number) for number in range(net.heads[0].classes)]
    drawn = f"weights drawn with seed {seed}: untrained"
    notes = [f"structure from {cfg}", *cfg_remarks(sections), decoded.note, *changed, drawn]
    entry = {**_entry(cfg, net, size), "seed": seed, "read": "cfg", "notes": notes}
    return capture(net, names=classes if names is None else names, imgsz=size, history=[entry])


def fresh_sections(cfg: Path, *, classes: int | None = None) -> tuple[Section, ...]:
    """Read the cfg of a network that no weights come with.

    Args:
        cfg: the file.
        classes: what the heads are made for; None leaves them as they are.

    Raises:
        CfgError: the cfg cannot be read, or describes no network of RGB images.
    """
    sections = with_own_reorg(read_cfg(cfg))
    if classes is not None:
        sections = with_classes(sections, classes)
    expect_rgb(sections)
    return sections


def _renewed(
    path: Path, *, names: Sequence[str] | None, imgsz: Size | None, decoding: str | None
) -> Checkpoint:
    given = None if names is None else tuple(names)
    own = _as_said(load(path), Reading(names=given, decoding=decoding))
    net = network(own)
    size = _checked_size(own.imgsz if imgsz is None else imgsz, net)
    notes = ["it was a checkpoint of ours already; its own cfg counts", *own.remarks]
    entry = {**_entry(path, net, size), "read": "checkpoint", "notes": notes}
    return capture(net, names=own.names, imgsz=size, history=[*own.history, entry])


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


def _size(net: Darknet, requested: Size | None) -> tuple[Size, tuple[str, ...]]:
    """Return the requested size, or the cfg's, and notes on it."""
    return image_size(net) if requested is None else (_checked_size(requested, net), ())


def _checked_size(imgsz: Size, net: Darknet) -> Size:
    if not imgsz.fits(net.stride):
        raise InputError(
            f"image size is {imgsz}; it must be a multiple of the network's stride, {net.stride}, "
            f"e.g. {imgsz.raised(net.stride)}"
        )
    return imgsz
