"""Weights behind a cut by least squares: the outputs of the original from the inputs that are left.

Layer after layer in the order they run, each from its present input, so that a layer also makes up
for what those before it could not (He et al. 2017, arXiv:1707.06168, section 3.2; ThiNet,
arXiv:1707.06342, section 3.3). One pass of the pruned network does it all: whatever runs into a
layer is in memory at that moment, the layer is solved and goes on with its new weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Generator, Tensor, nn

from prune.errors import InputError
from prune.graph import Group
from prune.plan import Plan, Removed, removed
from prune.recover.fit import Solved, Target, fit
from prune.recover.footprint import peak_bytes
from prune.recover.patches import draw, made, unsuited
from prune.recover.readers import Layer, Reader, evaluating, paired, watching


@dataclass(frozen=True)
class Settings:
    """How much a reconstruction looks at.

    Attributes:
        places: how many outputs of each picture a layer is fitted on; fewer where the targets would
            not fit the memory.
        memory: bytes for activations and targets together. Pictures beyond run through the network
            again for every layer. The equations of the largest layer come on top, about 40 F^2
            bytes for F = inputs x kernel cells.
        seed: of the places.
    """

    places: int = 200
    memory: int = 3 << 30
    seed: int = 0


def reconstruct(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[Group],
    plan: Plan,
    pictures: Sequence[Tensor],
    *,
    names: Mapping[str, str] | None = None,
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
    behind = dict(pairs if names else pairs[start:])
    reasons = {name: why for name, r in behind.items() if (why := _unsolved(pruned, r))}
    todo = {name: reader for name, reader in behind.items() if name not in reasons}
    places = _affordable(original, todo, settings, pictures=sum(map(len, pictures)), like=first)
    targets = _targets(original, todo, gone, pictures, places=places, seed=settings.seed)
    held = max(1, settings.memory * 2 // 3 // peak_bytes(pruned, first))
    by_reader = {reader: targets[name] for name, reader in todo.items()}
    solved = _Work(pruned, by_reader).run(*_parted(pictures, held))
    return tuple(
        replace(solved[r.name], name=name)
        if name in todo
        else Solved(name, 0.0, 0.0, left=reasons[name])
        for name, r in behind.items()
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
    parts: dict[str, list[Target]] = {name: [] for name in todo}

    def note(name: str, output: Tensor) -> None:
        layer = net.get_submodule(name)
        at = draw(output, layer, places=places, generator=generator)
        lost = set(gone.get((name, "out"), ()))
        value = made(output, layer, at)
        kept = [i for i in range(value.shape[-1]) if i not in lost]
        parts[name].append(Target(at, value[..., kept] if lost else value))

    with evaluating(net), watching(net, Layer, names=parts, after=note):
        for batch in pictures:
            net(batch)
    return {
        name: Target(torch.cat([t.at for t in found]), torch.cat([t.value for t in found]))
        for name, found in parts.items()
    }


def _parted(pictures: Sequence[Tensor], held: int) -> tuple[Tensor, list[Tensor]]:
    """Join as many pictures as fit; the rest in batches no larger."""
    lead: list[Tensor] = []
    rest: list[Tensor] = []
    size = 0
    for piece in (piece for batch in pictures for piece in torch.split(batch, held)):
        room = max(held - size, 0) if not rest else 0
        lead += [piece[:room]] if room else []
        rest += [piece[room:]] if len(piece) > room else []
        size += min(room, len(piece))
    return torch.cat(lead), rest


class _Reached(Exception):  # noqa: N818  # nothing went wrong
    """Stops a pass at the layer it was for; carries that layer's input."""


class _Work:
    """The pass through the pruned network that solves its layers as it meets them."""

    def __init__(self, net: nn.Module, targets: Mapping[Reader, Target]) -> None:
        self.net = net
        self.todo = {reader.name: (reader, target) for reader, target in targets.items()}
        self.solved: dict[str, Solved] = {}
        self.wanted: str | None = None  # while pictures beyond the first batch run up to a layer
        self.rest: Sequence[Tensor] = ()

    def run(self, lead: Tensor, rest: Sequence[Tensor]) -> dict[str, Solved]:
        """Solve every layer in turn."""
        self.rest = rest
        with evaluating(self.net), watching(self.net, Layer, names=self.todo, before=self._meet):
            self.net(lead)
        return self.solved

    def _meet(self, name: str, value: Tensor) -> None:
        if self.wanted == name:
            raise _Reached(value)
        if self.wanted is None:
            inputs = self._inputs(name, value)
            reader, target = self.todo[name]
            self.solved[name] = fit(self.net, reader, inputs, target)

    def _inputs(self, name: str, value: Tensor) -> Iterator[Tensor]:
        """Give a layer's input batch by batch: the one in memory, then those run up to here."""
        yield value
        self.wanted = name
        for batch in self.rest:
            try:
                self.net(batch)
            except _Reached as reached:
                yield reached.args[0]
        self.wanted = None
