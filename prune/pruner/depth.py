"""Residual blocks of a network: their cost and importance, and the network without some of them.

Which blocks to remove is chosen here and frozen in a plan (`Plan.blocks`, the indices of their
layers). The plan is carried out by renumbering: the weights of the other layers do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from prune.checkpoint import assemble
from prune.common.size import Sides, Size
from prune.core.cost.macs import per_layer
from prune.core.masking import Skip
from prune.errors import CfgError, PlanError
from prune.models import blocks as residual_blocks
from prune.models.blocks import Residual
from prune.models.darknet import Darknet
from prune.pruner import block_importance


@dataclass(frozen=True)
class Block:
    """A residual block that can be removed.

    Attributes:
        place: its layers.
        params: parameters of the block.
        macs: MACs of the block per image.
    """

    place: Residual
    params: int
    macs: int

    @property
    def layers(self) -> tuple[int, ...]:
        """Its branch and its shortcut, by index."""
        return tuple(self.place.layers)


@dataclass(frozen=True)
class Removal:
    """A block to remove, and the importance that it was chosen by; the lowest are removed first."""

    block: Block
    importance: float


def blocks(net: Darknet, *, imgsz: Sides) -> tuple[Block, ...]:
    """Find the blocks that can be removed, in cfg order; of a block in another the inner one.

    Args:
        net: on any device.
        imgsz: height and width of the image whose MACs are counted, in pixels; one number for a
            square.

    Raises:
        PlanError: the network cannot take an image of that size.
    """
    places = residual_blocks.residuals(net.sections)
    inner = [
        p for p in places if not any(q != p and set(q.layers) <= set(p.layers) for q in places)
    ]
    return priced(net, inner, imgsz=imgsz) if inner else ()


def priced(net: Darknet, places: Sequence[Residual], *, imgsz: Sides) -> tuple[Block, ...]:
    """Count the parameters and MACs of each of these blocks.

    Args:
        net: on any device.
        places: blocks of it.
        imgsz: height and width of the image whose MACs are counted, in pixels; one number for a
            square.

    Raises:
        PlanError: the network cannot take an image of that size.
    """
    costs = per_layer(net, Size.of(imgsz).batch())
    found = []
    for place in places:
        inside = {f"module_list.{layer}" for layer in place.layers}
        own = [cost for name, cost in costs.items() if _split(name)[0] in inside]
        found.append(Block(place, sum(c.params for c in own), sum(c.macs for c in own)))
    return tuple(found)


def importance_of(
    net: Darknet,
    found: Sequence[Block],
    *,
    criterion: str = "output",
    images: Tensor | None = None,
    gone: Sequence[Block] = (),
    seed: int = 0,
) -> tuple[float, ...]:
    """Compute the importance of blocks, with others removed; see `block_importance.importance`.

    Raises:
        PlanError: there is no such criterion, or it cannot compare a block.
    """
    return block_importance.importance(
        net,
        [block.place for block in found],
        criterion=criterion,
        images=images,
        gone=[block.place for block in gone],
        seed=seed,
    )


Enough = Callable[[Sequence[Block]], bool]
"""Tells whether the blocks chosen so far are enough."""

BlockImportance = Callable[[Sequence[Block], Sequence[Block]], Sequence[float]]
"""(blocks, others that are removed) -> importance of each block."""


def by_number(found: Sequence[Block], number: int) -> Enough:
    """Require so many blocks.

    Raises:
        PlanError: there are not so many, or none is requested.
    """
    _expect_some(found)
    if not 1 <= number <= len(found):
        raise PlanError(f"blocks is {number}; the network has 1 to {len(found)} to remove")
    return lambda chosen: len(chosen) >= number


def by_macs(found: Sequence[Block], total: int, limit: float) -> Enough:
    """Require a network within a budget of MACs.

    Args:
        found: the blocks that can be removed.
        total: MACs of the whole network.
        limit: MACs that may be left.

    Raises:
        PlanError: the network is within the limit already, or cannot be.
    """
    _expect_some(found)
    least = total - sum(block.macs for block in found)
    if limit >= total:
        raise PlanError(
            f"the network has {total:,} MACs, within the budget of {limit:,.0f} as it is"
        )
    if limit < least:
        raise PlanError(
            f"the budget of {limit:,.0f} MACs cannot be met: without all {len(found)} blocks "
            f"{least:,} are left ({least / total:.2f} of {total:,}); cut widths too"
        )
    return lambda chosen: total - sum(block.macs for block in chosen) <= limit


def _expect_some(found: Sequence[Block]) -> None:
    if not found:
        raise PlanError("the network has no residual block that could be removed")


def choose(
    found: Sequence[Block],
    enough: Enough,
    importance: BlockImportance,
    *,
    again: bool = False,
) -> tuple[Removal, ...]:
    """Choose the least important blocks until they are enough, and no block more than needed.

    Args:
        found: the blocks that can be removed; all of them are enough.
        enough: see `by_number` and `by_macs`.
        importance: see `importance_of`.
        again: compute the importance of the rest again after each removal.

    Returns:
        The blocks in the order they were chosen.
    """
    removed: list[Removal] = []
    left, values = list(found), list(importance(found, ()))
    while not enough([each.block for each in removed]):
        if again and removed:
            values = list(importance(left, [each.block for each in removed]))
        least = min(range(len(left)), key=lambda i: values[i])
        removed.append(Removal(left.pop(least), values.pop(least)))
    for each in sorted(removed, key=lambda each: -each.importance):
        others = [other for other in removed if other is not each]
        if enough([other.block for other in others]):
            removed = others
    return tuple(removed)


def places_of(net: Darknet, layers: Sequence[int]) -> tuple[Residual, ...]:
    """Find the blocks that a plan names by their layers.

    Raises:
        PlanError: a layer belongs to no complete block of the plan.
    """
    try:
        return residual_blocks.blocks_of(net.sections, layers)
    except CfgError as error:
        raise PlanError(f"the plan's blocks do not fit the network: {error}") from error


def without(net: Darknet, places: Sequence[Residual]) -> Darknet:
    """Build the network without some blocks, in eval mode; it shares its weights with `net`.

    Raises:
        CfgError: one of them is no block of this network.
    """
    sections = net.sections
    moved = _prefixes(residual_blocks.renumbered(sections, places))
    weights = {
        f"{moved[prefix]}.{rest}": tensor
        for name, tensor in net.state_dict().items()
        for prefix, rest in [_split(name)]
        if prefix in moved
    }
    return assemble(residual_blocks.without(sections, places), weights)


def skip(net: Darknet, places: Sequence[Residual]) -> Skip:
    """Describe for the verification a network that lost these blocks."""
    moved = _prefixes(residual_blocks.renumbered(net.sections, places))
    names = {
        name: f"{moved[prefix]}.{rest}"
        for name, _ in net.named_modules()
        for prefix, rest in [_split(name)]
        if prefix in moved
    }
    return Skip(block_importance.passes(places), names)


def _prefixes(moved: Mapping[int, int]) -> dict[str, str]:
    return {f"module_list.{old}": f"module_list.{new}" for old, new in moved.items()}


def _split(name: str) -> tuple[str, str]:
    """Split module_list.7.Conv2d.weight into module_list.7 and Conv2d.weight."""
    parts = name.split(".", 2)
    return ".".join(parts[:2]), parts[2] if len(parts) > 2 else ""
