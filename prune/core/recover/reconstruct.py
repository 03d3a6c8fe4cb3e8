"""Fit the weights behind a cut by least squares, from the remaining inputs to the original outputs.

Layers are fitted in the order they run, each from its present input, so that a layer also corrects
the remaining error of those before it (He et al. 2017, arXiv:1707.06168, section 3.2; ThiNet,
arXiv:1707.06342, section 3.3). All images pass through the pruned network side by side, one layer
at a time: when they reach a layer, it is fitted, and they continue with its new weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Generator, Tensor, nn

from prune.common.eval_mode import evaluating
from prune.common.progress import tracked
from prune.core.plan import Plan, Removed, removed
from prune.core.recover.fit import Solved, Target, fit
from prune.core.recover.footprint import footprint
from prune.core.recover.patches import draw, made, unsuited
from prune.core.recover.readers import Layer, Reader, norm_mean, paired, readers, watching
from prune.core.recover.walk import walking
from prune.core.trace.groups import Group
from prune.errors import InputError


@dataclass(frozen=True)
class Settings:
    """The size of a reconstruction.

    Attributes:
        places: how many outputs of each image a layer is fitted on; fewer where the targets would
            not fit the memory.
        memory: bytes for activations and targets together. Batches that do not fit start again for
            every layer, until the maps are small enough. The equations of the largest layer take
            another 40 F^2 bytes or so, for F = inputs x kernel cells.
        seed: of the places.
    """

    places: int = 200
    memory: int = 4 << 30
    seed: int = 0


def reconstruct(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[Group],
    plan: Plan,
    images: Sequence[Tensor],
    *,
    names: Mapping[str, str] | None = None,
    whole: bool = False,
    settings: Settings | None = None,
) -> tuple[Solved, ...]:
    """Fit every layer, from the first that lost inputs on, to the outputs of the original.

    A ridge penalises the change of weights; each layer uses the one of `fit.RIDGES` with the least
    error on images that it was not fitted on, and does not change if none is better than no change.

    Args:
        original: the network before the cut; it does not change.
        pruned: changed in place, without its shapes.
        groups: of the original.
        plan: the cut.
        images: batches of inputs, each [N, 3, H, W], all of one height and width.
        names: of a network that lost whole layers: the original's names -> the pruned one's; then
            every layer is fitted.
        whole: fit every layer in any case: for a network that differs in more than the cut.
        settings: see there.

    Returns:
        The result of each of these layers, in order.

    Raises:
        PlanError: the plan does not fit the groups.
        InputError: no images.
    """
    if not images:
        raise InputError("there are no images to reconstruct with")
    settings = settings or Settings()
    gone = removed(groups, plan)
    first = images[0][:1]
    pairs = paired(pruned, first, names)
    start = next((i for i, (name, _) in enumerate(pairs) if (name, "in") in gone), len(pairs))
    behind = dict(pairs if names or whole else pairs[start:])
    reasons = {name: why for name, r in behind.items() if (why := _unsolved(pruned, r))}
    todo = {name: reader for name, reader in behind.items() if name not in reasons}
    places = _affordable(original, todo, settings, images=sum(map(len, images)), like=first)
    targets = _targets(original, todo, gone, images, places=places, seed=settings.seed)
    solved = _solve(pruned, todo, targets, images, memory=settings.memory * 2 // 3)
    return tuple(
        solved[name] if name in todo else Solved(name, 0.0, 0.0, left=reasons[name])
        for name in behind
    )


def _unsolved(net: nn.Module, reader: Reader) -> str | None:
    layer = net.get_submodule(reader.name)
    if reader.calls > 1:
        return f"it runs {reader.calls} times"
    owners = [m for m in net.modules() if getattr(m, "weight", None) is layer.weight]
    return "its weights are another layer's as well" if len(owners) > 1 else unsuited(layer)


def _affordable(
    net: nn.Module, todo: Iterable[str], settings: Settings, *, images: int, like: Tensor
) -> int:
    """Return how many places a image can have with all targets in a third of the memory."""
    layers = [cast("nn.Conv2d", net.get_submodule(name)) for name in todo]
    row = sum(layer.weight.shape[0] * like.element_size() + 8 for layer in layers)
    return max(1, min(settings.places, settings.memory // 3 // max(row * images, 1)))


def _targets(
    net: nn.Module,
    todo: Iterable[str],
    gone: Removed,
    images: Sequence[Tensor],
    *,
    places: int,
    seed: int,
) -> dict[str, Target]:
    generator = Generator().manual_seed(seed)
    means = {r.name: norm_mean(net, r) for r in readers(net, images[0][:1])}
    parts: dict[str, list[Target]] = {name: [] for name in todo}

    def note(name: str, output: Tensor) -> None:
        layer = net.get_submodule(name)
        at = draw(output, layer, places=places, generator=generator)
        lost = set(gone.get((name, "out"), ()))
        value, mean = made(output, layer, at), means[name]
        value = value if mean is None else value - mean
        kept = [i for i in range(value.shape[-1]) if i not in lost]
        parts[name].append(Target(at, value[..., kept] if lost else value))

    with evaluating(net), watching(net, Layer, names=parts, after=note):
        for batch in images:
            net(batch)
    return {
        name: Target(torch.cat([t.at for t in found]), torch.cat([t.value for t in found]))
        for name, found in parts.items()
    }


def _solve(
    net: nn.Module,
    todo: Mapping[str, Reader],
    targets: Mapping[str, Target],
    images: Sequence[Tensor],
    *,
    memory: int,
) -> dict[str, Solved]:
    """Solve layer after layer; batches wait in front of each as far as they fit the memory."""
    places = [reader.name for reader in todo.values()]
    taken = footprint(net, images[0][:1], places)
    size = max(1, memory // 4 // taken.peak)  # while one batch goes on, the others wait
    batches = [piece for batch in images for piece in torch.split(batch, size)]
    waiting = _waiting(batches, [taken.waiting[place] for place in places], memory * 3 // 4)
    solved: dict[str, Solved] = {}
    with walking(net, places) as walk:
        layers = tracked(todo.items(), "least squares", len(todo))
        for step, (name, reader) in enumerate(layers):

            def inputs(place: str = reader.name, step: int = step) -> Iterator[Tensor]:
                for number, batch in enumerate(batches):
                    yield walk.value(number, batch, place)
                    if step < waiting[number]:
                        walk.forget(number)

            solved[name] = replace(fit(net, reader, inputs(), targets[name]), name=name)
    return solved


def _waiting(batches: Sequence[Tensor], live: Sequence[int], memory: int) -> list[int]:
    """Return for each batch from which step on it can wait where it is.

    Args:
        batches: those before a batch wait wherever it does.
        live: bytes per image in front of each layer.
        memory: bytes for all.
    """
    starts, images = [], 0
    for batch in batches:
        images += len(batch)
        over = [step for step, size in enumerate(live) if images * size > memory]
        starts.append(over[-1] + 1 if over else 0)
    return starts
