"""Residual blocks of a cfg: where they are, and the cfg without some of them.

A block is a run of layers that ends in a shortcut which adds the run's result to the run's input.
Without the run the input passes on alone, and nothing else in the network has to change.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prune.errors import CfgError

from . import splice
from .layout import layout
from .sections import Section, references


@dataclass(frozen=True)
class Residual:
    """One residual block.

    Attributes:
        source: the layer whose output it adds to; 10 for layers 11, 12 and the shortcut 13.
        shortcut: the layer that adds, its last one.
    """

    source: int
    shortcut: int

    @property
    def branch(self) -> range:
        """The layers whose result is added."""
        return range(self.source + 1, self.shortcut)

    @property
    def layers(self) -> range:
        """All that goes with the block: the branch and its shortcut."""
        return range(self.source + 1, self.shortcut + 1)


def residuals(sections: Sequence[Section]) -> tuple[Residual, ...]:
    """Find the blocks that can be taken out whole, in cfg order; one may lie inside another.

    Their shortcut adds two layers of one width with no weights and no activation, and what is
    computed between reads the block's input alone and is read inside the block alone.

    Raises:
        CfgError: the sections describe no network.
    """
    widths = [layer.out_channels for layer in layout(sections)]
    inputs = [references(sections, index) for index in range(len(sections) - 1)]
    readers: dict[int, set[int]] = defaultdict(set)
    for index, read in enumerate(inputs):
        for layer in read:
            readers[layer].add(index)
    candidates = (
        Residual(read[1], index)
        for index, read in enumerate(inputs)
        if len(read) == 2
        and _adds_plainly(sections[index + 1])
        and widths[read[0]] == widths[read[1]]
    )
    return tuple(block for block in candidates if _is_closed(block, inputs, readers))


def _adds_plainly(section: Section) -> bool:
    options = section.options
    return (
        section.kind == "shortcut"
        and options.get("activation", "linear") == "linear"
        and options.get("weights_type", "none") == "none"
    )


def _is_closed(
    block: Residual, inputs: Sequence[Sequence[int]], readers: Mapping[int, set[int]]
) -> bool:
    """Return whether nothing but the block's input gets in and nothing but its sum gets out.

    A branch layer that nothing reads is a head, or belongs to nobody: it is no part of a block.
    """
    inside = set(block.layers)
    return len(block.branch) > 0 and all(
        set(inputs[layer]) <= inside | {block.source}
        and readers.get(layer, set()) <= inside
        and layer in readers
        for layer in block.branch
    )


def blocks_of(sections: Sequence[Section], layers: Sequence[int]) -> tuple[Residual, ...]:
    """Find the blocks that these layers are.

    Args:
        sections: a cfg.
        layers: all layers of some blocks, in any order.

    Raises:
        CfgError: a layer that is part of no block whose other layers are all there.
    """
    wanted = set(layers)
    found = tuple(block for block in residuals(sections) if wanted.issuperset(block.layers))
    if strays := sorted(wanted.difference(*(block.layers for block in found), ())):
        raise CfgError(
            f"layer {strays[0]} is not part of a whole residual block that could be removed; "
            f"the blocks are {as_text(residuals(sections))}"
        )
    return found


def as_text(blocks: Sequence[Residual]) -> str:
    """Write blocks by their layers, e.g. "11-13, 14-16"; "none" for no block."""
    return ", ".join(f"{b.layers[0]}-{b.layers[-1]}" for b in blocks) or "none"


def renumbered(sections: Sequence[Section], blocks: Sequence[Residual]) -> dict[int, int]:
    """Map each layer that stays to its index without the blocks."""
    gone = {layer for block in blocks for layer in block.layers}
    return splice.renumbered(len(sections) - 1, gone)


def without(sections: Sequence[Section], blocks: Sequence[Residual]) -> tuple[Section, ...]:
    """Copy a cfg without some blocks; whoever read one now reads what the block read.

    References stay as they were written, relative or absolute. Remarks above a removed section move
    to the next one that stays.

    Args:
        sections: a cfg.
        blocks: of it, see `residuals`.

    Raises:
        CfgError: one of the blocks is none of this cfg.
    """
    for block in set(blocks).difference(residuals(sections)):
        raise CfgError(f"layers {as_text([block])} are no residual block of this cfg")
    inside: dict[int, int | None] = {layer: None for block in blocks for layer in block.branch}
    return splice.spliced(sections, inside | {block.shortcut: block.source for block in blocks})
