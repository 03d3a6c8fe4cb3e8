"""Residual blocks of a network: what each costs, what each is worth, and the network without some.

Which blocks go is decided here, frozen in a plan (`Plan.blocks`, the indices of their layers), and
carried out by renumbering: the weights of a layer that stays are taken over as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Generator, Tensor, nn

from prune.checkpoint import assemble
from prune.count import per_layer
from prune.errors import CfgError, PlanError
from prune.models import blocks as residual_blocks
from prune.models.blocks import Residual
from prune.models.darknet import Darknet
from prune.proof import Skip, skipped


@dataclass(frozen=True)
class Block:
    """A residual block that can be removed.

    Attributes:
        place: its layers.
        params: learned numbers that go with it.
        macs: likewise multiply-adds of one picture.
    """

    place: Residual
    params: int
    macs: int

    @property
    def layers(self) -> tuple[int, ...]:
        """Its branch and its shortcut, by index."""
        return tuple(self.place.layers)


@dataclass(frozen=True)
class Choice:
    """A block that goes, and the score that it was chosen by; the lowest go first."""

    block: Block
    score: float


def blocks(net: Darknet, *, imgsz: int) -> tuple[Block, ...]:
    """Find what can be removed, in cfg order; of a block inside another the inner one.

    Args:
        net: on any device.
        imgsz: side of the picture whose multiply-adds are counted, in pixels.

    Raises:
        PlanError: the network cannot take a picture of that size.
    """
    places = residual_blocks.residuals(net.sections)
    inner = [
        p for p in places if not any(q != p and set(q.layers) <= set(p.layers) for q in places)
    ]
    return priced(net, inner, imgsz=imgsz) if inner else ()


def priced(net: Darknet, places: Sequence[Residual], *, imgsz: int) -> tuple[Block, ...]:
    """Say what goes with each of these blocks.

    Args:
        net: on any device.
        places: blocks of it.
        imgsz: side of the picture whose multiply-adds are counted, in pixels.

    Raises:
        PlanError: the network cannot take a picture of that size.
    """
    costs = per_layer(net, (1, 3, imgsz, imgsz))
    found = []
    for place in places:
        inside = {f"module_list.{layer}" for layer in place.layers}
        own = [cost for name, cost in costs.items() if _split(name)[0] in inside]
        found.append(Block(place, sum(c.params for c in own), sum(c.macs for c in own)))
    return tuple(found)


@dataclass(frozen=True)
class Look:
    """What a criterion may look at besides the network.

    Attributes:
        pictures: RGB in 0..1, [N, 3, H, W].
        gone: blocks that are taken for removed.
        random: of the criteria that draw.
    """

    pictures: Tensor
    gone: tuple[Residual, ...]
    random: Generator


# A criterion says what some blocks are worth, one number each; the lowest go first. None for a
# block that it cannot judge.
Criterion = Callable[[Darknet, Sequence[Residual], Look], "list[float | None]"]


@torch.inference_mode()
def output_change(net: Darknet, places: Sequence[Residual], look: Look) -> list[float | None]:
    """Score a block by how far its removal moves the head maps.

    Returns:
        ||map without - map|| / ||map|| over all pictures, the mean over the heads; one a block.
    """
    moved = torch.zeros(len(places), len(net.map_layers), dtype=torch.float64)
    whole = torch.zeros(len(net.map_layers), dtype=torch.float64)
    with skipped(net, _passes(look.gone)):
        for start in range(0, len(look.pictures), PICTURES_AT_ONCE):
            pictures = look.pictures[start : start + PICTURES_AT_ONCE]
            maps, others = _maps_without(net, places, pictures)
            whole += _squares(maps)
            moved += torch.stack(
                [_squares([a - b for a, b in zip(other, maps, strict=True)]) for other in others]
            )
    return [float(score) for score in (moved / whole).sqrt().mean(dim=1)]


PICTURES_AT_ONCE = 4  # all that is still to be read stays in memory


def _maps_without(
    net: Darknet, places: Sequence[Residual], pictures: Tensor
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Compute the head maps of the network, and of the network without one block, for each block.

    What comes before a block is computed once for all.
    """
    outputs, end, others = {-1: pictures}, len(net.module_list), {}
    done = 0
    for place in sorted(places, key=lambda place: place.shortcut):
        net.run(outputs, range(done, place.shortcut))
        source = outputs[place.source]
        net.run(outputs, [place.shortcut])
        done = place.shortcut + 1
        instead = {**outputs, place.shortcut: source}
        net.run(instead, range(done, end))
        others[place] = [instead[layer] for layer in net.map_layers]
    net.run(outputs, range(done, end))
    return [outputs[layer] for layer in net.map_layers], [others[place] for place in places]


def _squares(tensors: Sequence[Tensor]) -> Tensor:
    """Sum the squares of each tensor, [len(tensors)]."""
    return torch.stack([tensor.double().square().sum() for tensor in tensors]).cpu()


def mean_weight(net: Darknet, places: Sequence[Residual], _: Look) -> list[float | None]:
    """Score a block by the mean |w| of its convolutions."""
    return [_mean(_weights(net, place, nn.Conv2d)) for place in places]


def last_scale(net: Darknet, places: Sequence[Residual], _: Look) -> list[float | None]:
    """Score a block by the mean |gamma| of its last normalisation, which scales what it adds.

    The idea of Liu et al. 2017 (arXiv:1708.06519) for a whole branch; None without normalisation.
    """
    return [_mean(_weights(net, place, nn.BatchNorm2d)[-1:]) for place in places]


def at_random(_: Darknet, places: Sequence[Residual], look: Look) -> list[float | None]:
    """Score blocks by chance: the control."""
    return [float(x) for x in torch.rand(len(places), generator=look.random)]


CRITERIA: dict[str, Criterion] = {
    "output": output_change,
    "l1": mean_weight,
    "bn": last_scale,
    "random": at_random,
}


def block_scores(
    net: Darknet,
    found: Sequence[Block],
    *,
    criterion: str = "output",
    pictures: Tensor | None = None,
    gone: Sequence[Block] = (),
    seed: int = 0,
) -> tuple[float, ...]:
    """Score blocks; the lowest are worth least.

    Args:
        net: in eval mode.
        found: blocks of it.
        criterion: a name in CRITERIA.
        pictures: RGB in 0..1, [N, 3, H, W], sides multiples of the network's stride; noise without.
        gone: blocks to take for removed.
        seed: of the noise and of what criteria draw.

    Raises:
        PlanError: no such criterion, or one that cannot judge a block.
    """
    if criterion not in CRITERIA:
        raise PlanError(f"criterion is {criterion!r}; for blocks there are {', '.join(CRITERIA)}")
    random = Generator().manual_seed(seed)
    seen = noise(net, seed=seed) if pictures is None else pictures
    look = Look(seen, tuple(block.place for block in gone), random)
    scores = CRITERIA[criterion](net, [block.place for block in found], look)
    for block, score in zip(found, scores, strict=True):
        if score is None or not isfinite(score):
            name = residual_blocks.as_text([block.place])
            raise PlanError(
                f"the criterion {criterion} gives the block {name} no score; take another"
            )
    return tuple(score for score in scores if score is not None)


def noise(net: Darknet, *, number: int = 2, imgsz: int = 256, seed: int = 0) -> Tensor:
    """Draw pictures of uniform noise, [number, 3, H, H]; H is `imgsz` rounded up to the stride."""
    side = -(-imgsz // net.stride) * net.stride
    weight = next(net.parameters())
    pictures = torch.rand((number, 3, side, side), generator=Generator().manual_seed(seed))
    return pictures.to(weight)


# Says of the blocks chosen so far whether they are enough.
Enough = Callable[[Sequence[Block]], bool]


def by_number(found: Sequence[Block], number: int) -> Enough:
    """Ask for so many blocks.

    Raises:
        PlanError: there are not so many, or none is asked for.
    """
    _expect_some(found)
    if not 1 <= number <= len(found):
        raise PlanError(f"blocks is {number}; the network has 1 to {len(found)} to remove")
    return lambda chosen: len(chosen) >= number


def by_macs(found: Sequence[Block], total: int, limit: float) -> Enough:
    """Ask for a network within a budget.

    Args:
        found: the blocks that can go.
        total: multiply-adds of the whole network.
        limit: multiply-adds that may be left.

    Raises:
        PlanError: the network is within the limit as it is, or cannot come within it.
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
    score: Callable[[Sequence[Block], Sequence[Block]], Sequence[float]],
    *,
    again: bool = False,
) -> tuple[Choice, ...]:
    """Take the least worthy blocks until they are enough; what turns out not to be needed stays.

    Args:
        found: what can go; all of it is enough.
        enough: see `by_number` and `by_macs`.
        score: (blocks, those already gone) -> one number each, see `block_scores`.
        again: score what is left again after each removal.

    Returns:
        The blocks in the order they were chosen.
    """
    gone: list[Choice] = []
    left, scores = list(found), list(score(found, ()))
    while not enough([choice.block for choice in gone]):
        if again and gone:
            scores = list(score(left, [choice.block for choice in gone]))
        least = min(range(len(left)), key=lambda i: scores[i])
        gone.append(Choice(left.pop(least), scores.pop(least)))
    for choice in sorted(gone, key=lambda choice: -choice.score):
        others = [other for other in gone if other is not choice]
        if enough([other.block for other in others]):
            gone = others
    return tuple(gone)


def places_of(net: Darknet, layers: Sequence[int]) -> tuple[Residual, ...]:
    """Find the blocks that a plan names by their layers.

    Raises:
        PlanError: a layer that is part of no whole block.
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
    """Say what the proof has to know about a network that lost these blocks."""
    moved = _prefixes(residual_blocks.renumbered(net.sections, places))
    names = {
        name: f"{moved[prefix]}.{rest}"
        for name, _ in net.named_modules()
        for prefix, rest in [_split(name)]
        if prefix in moved
    }
    return Skip(_passes(places), names)


SOURCE = 1  # of a shortcut's inputs: the first is the branch, the second what it adds to


def _passes(places: Sequence[Residual]) -> dict[str, int]:
    return {f"module_list.{place.shortcut}": SOURCE for place in places}


def _prefixes(moved: Mapping[int, int]) -> dict[str, str]:
    return {f"module_list.{old}": f"module_list.{new}" for old, new in moved.items()}


def _split(name: str) -> tuple[str, str]:
    """Split module_list.7.Conv2d.weight into module_list.7 and Conv2d.weight."""
    parts = name.split(".", 2)
    return ".".join(parts[:2]), parts[2] if len(parts) > 2 else ""


def _weights(net: Darknet, place: Residual, kind: type[nn.Module]) -> list[Tensor]:
    """Collect the weights of a branch's modules of one kind, in the order they run."""
    return [
        module.get_parameter("weight")
        for layer in place.branch
        for module in net.module_list[layer].modules()
        if isinstance(module, kind)
    ]


def _mean(tensors: Sequence[Tensor]) -> float | None:
    """Average |x| over all values."""
    values = [tensor.detach().abs().flatten() for tensor in tensors]
    return float(torch.cat(values).mean()) if values else None
