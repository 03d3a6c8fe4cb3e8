"""What a residual block is worth: criteria that score blocks, the lowest to go first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Generator, Tensor, nn

from prune.common.progress import tracked
from prune.core.masking import skipped
from prune.errors import PlanError
from prune.models.blocks import Residual, as_text
from prune.models.darknet import Darknet


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
    with skipped(net, passes(look.gone)):
        starts = range(0, len(look.pictures), PICTURES_AT_ONCE)
        for start in tracked(starts, "scoring blocks", len(starts)):
            pictures = look.pictures[start : start + PICTURES_AT_ONCE]
            maps, others = _maps_without(net, places, pictures)
            whole += _squares(maps)
            for number, other in enumerate(others):
                moved[number] += _squares([a - b for a, b in zip(other, maps, strict=True)])
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


def scores(
    net: Darknet,
    places: Sequence[Residual],
    *,
    criterion: str = "output",
    pictures: Tensor | None = None,
    gone: Sequence[Residual] = (),
    seed: int = 0,
) -> tuple[float, ...]:
    """Score blocks; the lowest are worth least.

    Args:
        net: in eval mode.
        places: blocks of it.
        criterion: a name in CRITERIA.
        pictures: RGB in 0..1, [N, 3, H, W], sides multiples of the network's stride; noise without.
        gone: blocks to take for removed.
        seed: of the noise and of what criteria draw.

    Raises:
        PlanError: no such criterion, or one that cannot judge a block.
    """
    if criterion not in CRITERIA:
        raise PlanError(f"criterion is {criterion!r}; for blocks there are {', '.join(CRITERIA)}")
    seen = noise(net, seed=seed) if pictures is None else pictures
    look = Look(seen, tuple(gone), Generator().manual_seed(seed))
    return tuple(
        _finite(score, place, criterion)
        for place, score in zip(places, CRITERIA[criterion](net, places, look), strict=True)
    )


def _finite(score: float | None, place: Residual, criterion: str) -> float:
    if score is None or not isfinite(score):
        name = as_text([place])
        raise PlanError(f"the criterion {criterion} gives the block {name} no score; take another")
    return score


def noise(net: Darknet, *, number: int = 2, imgsz: int = 256, seed: int = 0) -> Tensor:
    """Draw pictures of uniform noise, [number, 3, H, H]; H is `imgsz` rounded up to the stride."""
    side = -(-imgsz // net.stride) * net.stride
    weight = next(net.parameters())
    pictures = torch.rand((number, 3, side, side), generator=Generator().manual_seed(seed))
    return pictures.to(weight)


SOURCE = 1  # of a shortcut's inputs: the first is the branch, the second what it adds to


def passes(places: Sequence[Residual]) -> dict[str, int]:
    """Name the shortcuts that hand on what their block read, for `proof.skipped`."""
    return {f"module_list.{place.shortcut}": SOURCE for place in places}


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
