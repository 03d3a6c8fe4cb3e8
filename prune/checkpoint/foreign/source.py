"""A public checkpoint as one thing: sections that fit, weights by our names, what was read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from prune.checkpoint.foreign.contents import Contents, contents
from prune.checkpoint.foreign.decoding import EXP, Decoded, decode_as_darknet, decode_as_trained
from prune.checkpoint.foreign.epsilon import EPS, TORCH_EPS, doubt
from prune.checkpoint.foreign.structure import from_definitions, match, read_cfg, with_widths
from prune.checkpoint.foreign.weights import read_weights
from prune.common.inputs import is_file, open_input
from prune.common.size import Size
from prune.errors import CheckpointError
from prune.models.sections import Section, remarks

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


def from_document(
    document: object,
    *,
    path: Path,
    cfg: Path | None = None,
    decoding: str | None = None,
    imgsz: Size | None = None,
) -> Source:
    """Make sense of what `read_pickle` gave; its heads decode as they were trained.

    Args:
        document: containers, tensors and stand-ins.
        path: the file, beside which a cfg may lie.
        cfg: the network's cfg, if one was named.
        decoding: one of `decoding.DECODINGS`, if one was named.
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
        matching = match(found.weights, namesakes(path), CFG_FOLDER)
        sections, origin = read_cfg(matching), f"{matching}, whose layers match"
    widened = with_widths(sections, found.weights)
    decoded = decode_as_trained(widened, found, requested=decoding)
    notes = [f"structure from {origin}", *remarks(sections)]
    if changed := _different_widths(sections, widened):
        notes.append(f"widths from the weights: {changed} layers differ from the cfg")
    notes += [*found.notes, *_doubt_of_epsilon(found, decoded), decoded.note]
    return Source(decoded.sections, found.weights, found.found, tuple(notes), found.names)


def _doubt_of_epsilon(found: Contents, decoded: Decoded) -> list[str]:
    """Say what a state dict leaves open: YOLOv3's code has two epsilons under the same names."""
    if decoded.decoding != EXP or found.kind or found.renamed:
        return []
    if (change := doubt(found.weights, TORCH_EPS)) < _NOTICEABLE:
        return []
    return [
        f"BatchNorm's epsilon is not in a state dict, and {EPS:g} is taken, as in YOLOv3 from v8 "
        f"on; with {TORCH_EPS:g}, as before, outputs of channels would differ by up to {change:.0%}"
    ]


_NOTICEABLE = 0.01  # relative change of a channel that is noted


def from_darknet(path: Path, *, cfg: Path | None = None, decoding: str | None = None) -> Source:
    """Read a Darknet .weights file; its heads decode as Darknet's do.

    Raises:
        CheckpointError: there is no cfg for it, or the file does not fit it.
        CfgError: the cfg cannot be read.
    """
    expect_darknet(path)
    beside = cfg or next(filter(is_file, namesakes(path)), None)
    if beside is None:
        raise CheckpointError(
            f"a Darknet file holds numbers only; name its cfg, e.g. --cfg {path.stem}.cfg "
            f"(none is in {path.parent} or in ./{CFG_FOLDER})"
        )
    sections = read_cfg(beside)
    decoded = decode_as_darknet(sections, requested=decoding)
    notes = (f"structure from {beside}", *remarks(sections), decoded.note)
    return Source(decoded.sections, read_weights(path, decoded.sections), "Darknet weights", notes)


def expect_darknet(path: Path) -> None:
    """Check that a file may be one of Darknet.

    Raises:
        CheckpointError: it is none, by its name or by its first bytes.
    """
    if is_safetensors(path):
        raise CheckpointError(
            "a safetensors file, which is not read; load it with the safetensors package and "
            "write it with torch.save({'model': tensors}, 'name.pt')"
        )
    if re.search(r"\.conv\.\d+$", path.name):
        raise CheckpointError(
            "the first layers of a network, as Darknet's trainings start from; give it to prune "
            "train, with the network's --cfg"
        )
    if path.suffix.lower() not in (".weights", ".backup"):
        raise CheckpointError(
            "no checkpoint: not of torch.save, and not a Darknet file (*.weights)"
        )


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do: with the length of JSON, then the JSON."""
    with open_input(path, "weights", error=CheckpointError) as handle:
        start = handle.read(9)
    return len(start) == 9 and start[8:] == b"{" and start[5:8] == bytes(3)


def namesakes(path: Path) -> list[Path]:
    """List the cfgs that a weights file may be called after, best first.

    Darknet calls what it writes after the cfg: net_best.weights, net_final.weights,
    net_4000.weights.
    """
    stems = dict.fromkeys([path.stem, _SAVED.sub("", path.stem)])
    return [folder / f"{stem}.cfg" for stem in stems for folder in (path.parent, CFG_FOLDER)]


_SAVED = re.compile(r"_(best|final|last|\d+)$")


def _different_widths(before: Sequence[Section], after: Sequence[Section]) -> int:
    return sum(
        old.options.get("filters") != new.options.get("filters")
        for old, new in zip(before, after, strict=True)
    )
