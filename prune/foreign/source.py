"""A public checkpoint as one thing: sections that fit, weights by our names, what was read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prune.errors import CheckpointError
from prune.foreign.contents import contents
from prune.foreign.structure import from_definitions, match, read_cfg, with_widths
from prune.foreign.weights import read_weights
from prune.models.sections import Section, remarks, with_decoding
from prune.size import Size

CFG_FOLDER = Path("cfg")  # where cfgs are looked for when none is named


@dataclass(frozen=True)
class Source:
    """What was found in a public checkpoint.

    Attributes:
        sections: the cfg with the weights' widths and its decoding spelled out.
        weights: by state-dict name.
        read: what was read, for people.
        notes: what the reader should know: where the cfg is from, which widths it did not have.
        names: class names, where the file has them.
    """

    sections: tuple[Section, ...]
    weights: dict[str, Tensor]
    read: str
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


def from_document(document: object, *, cfg: Path | None, imgsz: Size | None) -> Source:
    """Make sense of what `read_pickle` gave; its cfg decodes as the public PyTorch code does.

    Args:
        document: containers, tensors and stand-ins.
        cfg: the network's cfg, if one was named.
        imgsz: for a pickled module, which keeps all of its cfg but [net].

    Raises:
        CheckpointError: no weights in it, or no cfg for them.
        CfgError: the cfg cannot be read.
    """
    found = contents(document)
    if cfg is not None:
        sections, origin = read_cfg(cfg), str(cfg)
    elif found.definitions:
        sections = from_definitions(found.definitions, imgsz=imgsz or Size.of(640))
        origin = "the pickle's own module_defs"
    else:
        matching = match(found.weights, CFG_FOLDER)
        sections, origin = read_cfg(matching), f"{matching}, whose layers match"
    fitted = with_decoding(with_widths(sections, found.weights), "torch")
    notes = [f"structure from {origin}", *remarks(sections)]
    if changed := _different_widths(sections, fitted):
        notes.append(f"widths from the weights: {changed} layers differ from the cfg")
    return Source(fitted, found.weights, found.found, tuple(notes), found.names)


def from_darknet(path: Path, *, cfg: Path | None) -> Source:
    """Read a Darknet .weights file; its cfg decodes as Darknet does.

    Raises:
        CheckpointError: no cfg came with it, or the file does not fit it.
        CfgError: the cfg cannot be read.
    """
    if path.suffix not in (".weights", ".backup"):
        raise CheckpointError(
            "no checkpoint: not of torch.save, and not a Darknet file (*.weights)"
        )
    if cfg is None:
        raise CheckpointError(
            "a Darknet file holds numbers only; name the network's cfg with --cfg"
        )
    sections = with_decoding(read_cfg(cfg), "darknet")
    notes = (f"structure from {cfg}", *remarks(sections))
    return Source(sections, read_weights(path, sections), "Darknet weights", notes)


def _different_widths(before: Sequence[Section], after: Sequence[Section]) -> int:
    return sum(
        old.options.get("filters") != new.options.get("filters")
        for old, new in zip(before, after, strict=True)
    )
