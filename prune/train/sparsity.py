"""Sparse training: channels of low importance fade before they are cut.

A penalty is added to the gradients just before an update, not to the loss: its gradient is known,
and autograd would store a copy of every weight for it. It is added lazily, at every fourth update
for all four (as Karras et al. 2020, arXiv:1912.04958, section 4.1), as weights hardly change
meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from prune.core.trace.groups import Group
from prune.errors import InputError

RAMP = 0.25  # fraction of a run over which the penalty grows to its full strength
EVERY = 4  # updates for which the penalty is added at once; adding at each cost 7 % of a small step

# Adds a penalty of some strength to the gradients that are present.
Penalty = Callable[[float], None]


@dataclass(frozen=True)
class Sparsity:
    """A penalty that makes channels fade.

    Attributes:
        kind: a key of PENALTIES.
        strength: above 0; size of the gradient that the penalty adds per weight at the end of RAMP.

    Raises:
        InputError: an unknown kind, or a strength that is no positive number.
    """

    kind: str
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in PENALTIES:
            raise InputError(
                f"sparsity is of the kind {self.kind!r}; it must be one of {', '.join(PENALTIES)}"
            )
        if not (math.isfinite(self.strength) and self.strength > 0):
            raise InputError(f"sparsity is {self.strength}; it must be above 0, e.g. 1e-3")

    def strength_at(self, done: float) -> float:
        """Return the strength when this fraction of the run is done."""
        return self.strength * min(done / RAMP, 1.0)

    def strength_due(self, done: float, *, updates: int) -> float:
        """Return the strength to add now: that of `EVERY` updates at the last of them, else 0.

        Args:
            done: the fraction of the run that is done.
            updates: number of updates before this one, since the run's start.
        """
        return 0.0 if (updates + 1) % EVERY else EVERY * self.strength_at(done)


def on_scales(net: nn.Module, groups: Sequence[Group]) -> Penalty:
    """Pull BatchNorm scales to zero, L1 (network slimming, Liu et al. 2017, arXiv:1708.06519).

    Args:
        net: where the groups were found; its gradients are added to.
        groups: all groups; protected ones are left out.
    """
    names = {
        slot.name for g in groups if not g.protected for slot in g.slots if slot.kind == "norm"
    }
    scales = [weight for name in sorted(names) if (weight := _scale(net, name)) is not None]

    def add(strength: float) -> None:
        found = [scale for scale in scales if scale.grad is not None]
        if found:
            signs = torch._foreach_sign([scale.detach() for scale in found])
            torch._foreach_add_([_grad(scale) for scale in found], signs, alpha=strength)

    return add


def on_groups(net: nn.Module, groups: Sequence[Group]) -> Penalty:
    """Pull whole coupled channels to zero, a group lasso (Yuan & Lin 2006, eq. 2).

    The penalty of a channel is sqrt(n) times the norm of all n weights that go with it: as output
    and as input of every layer, its scales included. Its gradient at a weight w is w / rms, the
    root mean square over the channel, so that the strength means the same for every channel.

    All channels of the network are numbered, and a weight's squares are summed once for both
    axes. Grouped and transposed convolutions are left out.

    Args:
        net: where the groups were found; its gradients are added to.
        groups: all groups; protected ones are left out.
    """
    places, total = _places(net, groups)
    weights = {name: net.get_parameter(name) for name, _ in places}
    axes = {name: [dim for other, dim in places if other == name] for name in weights}
    parts = [places[name, dim] for name in weights for dim in axes[name]]
    device = next(net.parameters()).device
    lengths, ids = [len(part) for part in parts], torch.cat(parts).to(device)
    one = [_by_axis(torch.ones_like(weight), axes[name]) for name, weight in weights.items()]
    sizes = ids.new_zeros(total + 1, dtype=torch.float32)
    sizes = sizes.index_add(0, ids, torch.cat(list(chain(*one)))).clamp(min=1)

    @torch.no_grad()
    def add(strength: float) -> None:
        found = chain(*(_by_axis(weight.square(), axes[name]) for name, weight in weights.items()))
        squares = torch.zeros_like(sizes).index_add(0, ids, torch.cat(list(found)))
        pull = strength * (squares / sizes).clamp(min=1e-16).rsqrt()  # 1 / rms, [channels + 1]
        pull[total] = 0  # of everything outside the groups
        pulls = iter(torch.split(pull[ids], lengths))
        for name, weight in weights.items():
            both = [_along(next(pulls), dim, weight.dim()) for dim in axes[name]]
            if weight.grad is not None:
                weight.grad.addcmul_(weight, sum(both[1:], both[0]).to(weight.dtype))

    return add


PENALTIES: dict[str, Callable[[nn.Module, Sequence[Group]], Penalty]] = {
    "bn": on_scales,
    "group": on_groups,
}


def scales(net: nn.Module) -> Tensor:
    """Return the absolute scales of all BatchNorms, [channels]."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    found = [m.weight.detach().abs().flatten() for m in norms if isinstance(m.weight, Tensor)]
    return torch.cat(found).float().cpu() if found else torch.zeros(0)


def _places(net: nn.Module, groups: Sequence[Group]) -> tuple[dict[tuple[str, int], Tensor], int]:
    """Number the channels of all groups.

    Returns:
        Name of a weight and axis -> number of the channel at each position; and how many numbers.
    """
    free = [group for group in groups if not group.protected]
    total = sum(group.channels for group in free)
    found: dict[tuple[str, int], Tensor] = {}
    first = 0
    for group in free:
        for slot in group.slots:
            place = _axis(net, slot.name, slot.side, slot.kind)
            if place is None:
                continue
            size = net.get_parameter(place[0]).shape[place[1]]
            ids = found.setdefault(place, torch.full((size,), total))
            for channel, positions in enumerate(slot.index):
                ids[list(positions)] = first + channel
        first += group.channels
    return found, total


def _axis(net: nn.Module, name: str, side: str, kind: str) -> tuple[str, int] | None:
    """Return a slot's weight and the axis of its channels; None where it is left out."""
    if kind == "parameter":
        return None
    module = net.get_submodule(name)
    if not isinstance(getattr(module, "weight", None), nn.Parameter):
        return None
    if kind == "convolution" and (module.groups != 1 or module.transposed):
        return None
    return f"{name}.weight", 1 if side == "in" else 0


def _by_axis(values: Tensor, axes: Sequence[int]) -> list[Tensor]:
    """Sum the values of a weight, [O], [O, I] or [O, I, kh, kw], over all but each of some axes."""
    if values.dim() == 1:
        return [values.float()]
    plane = values.sum(dim=tuple(range(2, values.dim()))) if values.dim() > 2 else values
    return [plane.sum(dim=1 - axis).float() for axis in axes]


def _along(values: Tensor, axis: int, dims: int) -> Tensor:
    """Shape one number per channel to broadcast along an axis, of `dims` axes."""
    return values.view([-1 if dim == axis else 1 for dim in range(dims)])


def _scale(net: nn.Module, name: str) -> nn.Parameter | None:
    weight = getattr(net.get_submodule(name), "weight", None)
    return weight if isinstance(weight, nn.Parameter) and weight.requires_grad else None


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
