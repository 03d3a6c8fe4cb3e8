"""Importance of residual blocks, by a criterion; the lowest are removed first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Generator, Tensor, nn

from prune.common import device
from prune.common.progress import tracked
from prune.common.size import Size
from prune.core.masking import skipped
from prune.errors import PlanError
from prune.models.blocks import Residual, as_text
from prune.models.darknet import Darknet


@dataclass(frozen=True)
class BlockInputs:
    """What a criterion may look at besides the network.

    Attributes:
        images: RGB in 0..1, [N, 3, H, W].
        gone: blocks that count as removed.
        random: for criteria that draw numbers.
    """

    images: Tensor
    gone: tuple[Residual, ...]
    random: Generator


BlockCriterion = Callable[[Darknet, Sequence[Residual], BlockInputs], "list[float | None]"]
"""Returns the importance of each block; None for a block that it cannot compare."""


@torch.inference_mode()
def output_change(
    net: Darknet, places: Sequence[Residual], inputs: BlockInputs
) -> list[float | None]:
    """Return how far the removal of each block moves the head maps.

    Returns:
        ||map without - map|| / ||map|| over all images, the mean over the heads; one per block.
    """
    moved = torch.zeros(len(places), len(net.map_layers), dtype=torch.float64)
    whole = torch.zeros(len(net.map_layers), dtype=torch.float64)
    with skipped(net, passes(inputs.gone)):
        starts = range(0, len(inputs.images), IMAGES_AT_ONCE)
        for start in tracked(starts, "block importance", len(starts)):
            images = inputs.images[start : start + IMAGES_AT_ONCE]
            maps, others = _maps_without(net, places, images)
            whole += _squares(maps)
            for number, other in enumerate(others):
                moved[number] += _squares([a - b for a, b in zip(other, maps, strict=True)])
    return [float(change) for change in (moved / whole).sqrt().mean(dim=1)]


IMAGES_AT_ONCE = 4  # all outputs that are still to be read stay in memory


def _maps_without(
    net: Darknet, places: Sequence[Residual], images: Tensor
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Compute the head maps of the network, and of the network without one block, for each block.

    The layers before a block are computed once for all blocks.
    """
    outputs, end, others = {-1: images}, len(net.module_list), {}
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


def mean_weight(net: Darknet, places: Sequence[Residual], _: BlockInputs) -> list[float | None]:
    """Return the mean |w| of the convolutions of each block."""
    return [_mean(_weights(net, place, nn.Conv2d)) for place in places]


def last_scale(net: Darknet, places: Sequence[Residual], _: BlockInputs) -> list[float | None]:
    """Return the mean |gamma| of the last normalisation of each block, which scales its output.

    The idea of Liu et al. 2017 (arXiv:1708.06519) for a whole branch; None without normalisation.
    """
    return [_mean(_weights(net, place, nn.BatchNorm2d)[-1:]) for place in places]


def at_random(_: Darknet, places: Sequence[Residual], inputs: BlockInputs) -> list[float | None]:
    """Return random numbers: the control."""
    return [float(x) for x in torch.rand(len(places), generator=inputs.random)]


CRITERIA: dict[str, BlockCriterion] = {
    "output": output_change,
    "l1": mean_weight,
    "bn": last_scale,
    "random": at_random,
}


def importance(
    net: Darknet,
    places: Sequence[Residual],
    *,
    criterion: str = "output",
    images: Tensor | None = None,
    gone: Sequence[Residual] = (),
    seed: int = 0,
) -> tuple[float, ...]:
    """Compute the importance of blocks; the lowest are removed first.

    Args:
        net: in eval mode.
        places: blocks of it.
        criterion: a key of CRITERIA.
        images: RGB in 0..1, [N, 3, H, W], sides multiples of the network's stride; None for
            noise.
        gone: blocks that count as removed.
        seed: of the noise and of criteria that draw numbers.

    Raises:
        PlanError: there is no such criterion, or it cannot compare a block.
    """
    if criterion not in CRITERIA:
        raise PlanError(f"criterion is {criterion!r}; for blocks there are {', '.join(CRITERIA)}")
    seen = noise(net, seed=seed) if images is None else images
    inputs = BlockInputs(seen, tuple(gone), Generator().manual_seed(seed))
    return tuple(
        _finite(value, place, criterion)
        for place, value in zip(places, CRITERIA[criterion](net, places, inputs), strict=True)
    )


def _finite(value: float | None, place: Residual, criterion: str) -> float:
    if value is None or not isfinite(value):
        name = as_text([place])
        raise PlanError(
            f"the criterion {criterion} gives the block {name} no importance; choose another"
        )
    return value


def noise(net: Darknet, *, number: int = 2, imgsz: int = 256, seed: int = 0) -> Tensor:
    """Draw images of uniform noise, [number, 3, H, H]; H is `imgsz` rounded up to the stride."""
    size = Size.of(imgsz).raised(net.stride)
    weight = next(net.parameters())
    images = torch.rand(size.batch(number), generator=Generator().manual_seed(seed))
    return images.to(weight)


def training_images(
    data: Path, net: Darknet, *, images: int, imgsz: Size, device_name: str
) -> Tensor:
    """Read images spread evenly over the training split of a data set.

    Args:
        data: the description of the data set.
        net: the network that looks at them.
        images: how many.
        imgsz: what they are fitted into, rounded up to the stride of the network.
        device_name: see `device.choose`.

    Returns:
        RGB in 0..1 on the device, [images, 3, H, W].

    Raises:
        DataError: images that cannot be read.
    """
    from prune.data import spec
    from prune.data.sift import sound
    from prune.evaluate.preprocess import fitted

    paths = spec.load(data, splits=("train",)).images("train")
    apart = max(len(paths) / images, 1)
    chosen = [paths[int(number * apart)] for number in range(min(images, len(paths)))]
    chosen = list(sound(chosen, where=f"{data}: train"))
    batch = next(iter(fitted(chosen, imgsz.raised(net.stride), len(chosen))))
    return batch.images.to(device.choose(device_name)).float() / 255


SOURCE = 1  # of a shortcut's inputs: the first is the branch, the second is what it is added to


def passes(places: Sequence[Residual]) -> dict[str, int]:
    """Name the shortcuts that pass on the input of their block, for `masking.skipped`."""
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
