"""Weights behind a cut by least squares: the outputs of the original from the inputs that are left.

Layer after layer in the order they run, each from its present input, so that a layer also makes up
for what those before it could not (He et al. 2017, arXiv:1707.06168, section 3.2; ThiNet,
arXiv:1707.06342, section 3.3). All pictures go through the pruned network side by side, a layer at
a time: when they stand in front of one, it is solved, and they go on with its new weights.
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
    """How much a reconstruction looks at.

    Attributes:
        places: how many outputs of each picture a layer is fitted on; fewer where the targets would
            not fit the memory.
        memory: bytes for activations and targets together. Batches that do not fit begin anew for
            every layer, until the maps have become small enough. The equations of the largest layer
            come on top, about 40 F^2 bytes for F = inputs x kernel cells.
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
    pictures: Sequence[Tensor],
    *,
    names: Mapping[str, str] | None = None,
    whole: bool = False,
    settings: Settings | None = None,
) -> tuple[Solved, ...]:
    """Fit every layer from the first that lost inputs on to the original's outputs.

    A ridge holds weights to what they are; each layer takes the one of `fit.RIDGES` that does best
    on pictures it was not fitted on, and stays as it is if none does better than no change.

    Args:
        original: the network before the cut; stays as it is.
        pruned: changed in place; shapes stay.
        groups: of the original.
        plan: the cut.
        pictures: batches of inputs, each [N, 3, H, W], all of one height and width.
        names: of a network that lost whole layers: the original's names -> the pruned one's; then
            every layer is fitted.
        whole: fit every layer in any case: for a network that differs in more than the cut.
        settings: how much to look at.

    Returns:
        What became of each of these layers, in order.

    Raises:
        PlanError: the plan does not fit the groups.
        InputError: no pictures.
    """
    if not pictures:
        raise InputError("there are no pictures to reconstruct with")
    settings = settings or Settings()
    gone = removed(groups, plan)
    first = pictures[0][:1]
    pairs = paired(pruned, first, names)
    start = next((i for i, (name, _) in enumerate(pairs) if (name, "in") in gone), len(pairs))
    behind = dict(pairs if names or whole else pairs[start:])
    reasons = {name: why for name, r in behind.items() if (why := _unsolved(pruned, r))}
    todo = {name: reader for name, reader in behind.items() if name not in reasons}
    places = _affordable(original, todo, settings, pictures=sum(map(len, pictures)), like=first)
    targets = _targets(original, todo, gone, pictures, places=places, seed=settings.seed)
    solved = _solve(pruned, todo, targets, pictures, memory=settings.memory * 2 // 3)
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
    net: nn.Module, todo: Iterable[str], settings: Settings, *, pictures: int, like: Tensor
) -> int:
    """Return how many places a picture can have with all targets in a third of the memory."""
    layers = [cast("nn.Conv2d", net.get_submodule(name)) for name in todo]
    row = sum(layer.weight.shape[0] * like.element_size() + 8 for layer in layers)
    return max(1, min(settings.places, settings.memory // 3 // max(row * pictures, 1)))


def _targets(
    net: nn.Module,
    todo: Iterable[str],
    gone: Removed,
    pictures: Sequence[Tensor],
    *,
    places: int,
    seed: int,
) -> dict[str, Target]:
    generator = Generator().manual_seed(seed)
    means = {r.name: norm_mean(net, r) for r in readers(net, pictures[0][:1])}
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
        for batch in pictures:
            net(batch)
    return {
        name: Target(torch.cat([t.at for t in found]), torch.cat([t.value for t in found]))
        for name, found in parts.items()
    }


def _solve(
    net: nn.Module,
    todo: Mapping[str, Reader],
    targets: Mapping[str, Target],
    pictures: Sequence[Tensor],
    *,
    memory: int,
) -> dict[str, Solved]:
    """Solve layer after layer; batches wait in front of each as far as they fit the memory."""
    places = [reader.name for reader in todo.values()]
    taken = footprint(net, pictures[0][:1], places)
    size = max(1, memory // 4 // taken.peak)  # while one batch goes on, the others wait
    batches = [piece for batch in pictures for piece in torch.split(batch, size)]
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
    """Say for each batch from which step on it can stay where it is.

    Args:
        batches: those before a batch stay wherever it does.
        live: bytes that a picture holds in front of each layer.
        memory: bytes for all.
    """
    starts, pictures = [], 0
    for batch in batches:
        pictures += len(batch)
        over = [step for step, size in enumerate(live) if pictures * size > memory]
        starts.append(over[-1] + 1 if over else 0)
    return starts
