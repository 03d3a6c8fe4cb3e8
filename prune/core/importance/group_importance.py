"""Importance of the channels of every group, by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from prune.core.importance.criteria import Criterion
from prune.core.importance.own_criteria import CriterionLike, find
from prune.core.importance.statistics import Statistics
from prune.core.trace.groups import Group, Slot
from prune.errors import PlanError

SCOPES = ("root", "group")

# How the importance within one group is made comparable with that of other groups.
NORMALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "mean": lambda x: x / _positive(x.mean()),
    "max": lambda x: x / _positive(x.max()),
    "sum": lambda x: x / _positive(x.sum()),
}


def channel_importance(
    net: nn.Module,
    groups: Sequence[Group],
    *,
    criterion: CriterionLike = "l1",
    scope: str = "root",
    normalize: str = "none",
    seed: int = 0,
    statistics: Statistics | None = None,
) -> tuple[Tensor | None, ...]:
    """Compute the importance of the channels of every group.

    Args:
        net: has the weights.
        groups: of the same network.
        criterion: see `own_criteria.find`.
        scope: "root", the importance in one layer (for weights the group's first), or "group", the
            mean over all layers that compute or read the channels.
        normalize: a key of NORMALIZERS.
        seed: for criteria that draw numbers.
        statistics: of images, for criteria that need them.

    Returns:
        One entry per group, float32 [channels]; the lowest are pruned first. None for a group that
        is protected or that the criterion cannot compare, such as one without normalisation by
        "bn".

    Raises:
        PlanError: an unknown name, missing statistics, or weights that contain NaN or infinity.
    """
    name, chosen = find(criterion)
    for option, value, known in (
        ("scope", scope, SCOPES),
        ("normalize", normalize, NORMALIZERS),
    ):
        if value not in known:
            raise PlanError(f"{option} is {value!r}; it must be one of {', '.join(known)}")
    generator = Generator().manual_seed(seed)
    if chosen.needs_images and statistics is None:
        raise PlanError(f"criterion {name} needs images; give it data")
    found = []
    for group in groups:
        own = None if group.protected else _of(net, group, chosen, scope, generator, statistics)
        found.append(None if own is None else NORMALIZERS[normalize](own))
    return tuple(found)


def _of(
    net: nn.Module,
    group: Group,
    criterion: Criterion,
    scope: str,
    generator: Generator,
    statistics: Statistics | None,
) -> Tensor | None:
    """Compute the importance within one group, [channels]; None where nothing can be read."""
    slots = [s for s in group.slots if s.kind in READABLE[criterion.reads]]
    if criterion.reads in ("gate", "activity"):
        slots = [s for s in slots if s.side == "in"]
    elif scope == "root" and criterion.reads != "scale":
        slots = [group.slot(group.root)]
    rows = [(slot, _rows(net, slot, criterion.reads, statistics)) for slot in slots]
    read = [(slot, found) for slot, found in rows if found is not None]
    read = read[:1] if scope == "root" else read
    if not read:
        return None
    if criterion.adds:
        total = torch.stack([_by_channel(slot, found) for slot, found in read]).sum(dim=0)
        result = criterion(total, generator)
    else:
        each = [_by_channel(slot, criterion(found, generator)) for slot, found in read]
        result = torch.stack(each).mean(dim=0)
    return finite(result, group.root)


READABLE = {
    "weight": ("convolution", "depthwise", "linear"),
    "scale": ("norm",),
    "change": ("convolution", "depthwise", "linear"),
    "gate": ("convolution", "linear"),
    "activity": ("convolution", "linear"),
}


def _rows(net: nn.Module, slot: Slot, reads: str, statistics: Statistics | None) -> Tensor | None:
    """Return the numbers that a slot has for each of its positions, [positions, k], in float32."""
    module = net.get_submodule(slot.name)
    if reads == "scale":
        scale = module.weight
        return scale.detach().float().unsqueeze(1) if isinstance(scale, Tensor) else None
    if reads == "weight":
        return filters(module, slot.side)
    assert statistics is not None, "checked by channel_importance()"
    found = getattr(statistics, reads).get(slot.name)
    if found is None:
        return None
    if reads == "change":
        return _arrange(module, found, slot.side)
    rows: Tensor = found.float()
    return rows.unsqueeze(1) if rows.dim() == 1 else rows


def filters(layer: nn.Module, side: str = "out") -> Tensor:
    """Return the weights of a convolution or linear layer by output or by input, [positions, k]."""
    weight = layer.weight
    assert isinstance(weight, Tensor), f"{type(layer).__name__} computes no channels"
    return _arrange(layer, weight.detach(), side)


def _arrange(layer: nn.Module, weight: Tensor, side: str) -> Tensor:
    """Arrange a weight, or a tensor of its shape, as one row per output or per input."""
    groups = int(getattr(layer, "groups", 1))
    if getattr(layer, "transposed", False):  # [in, out / groups, ...] -> [out, in / groups, ...]
        weight = _swap(weight, groups)
    if side == "in":  # [out, in / groups, ...] -> [in, out / groups, ...]
        weight = _swap(weight, groups)
    return weight.float().flatten(1)


def _swap(weight: Tensor, groups: int) -> Tensor:
    """Swap inputs and outputs within each group of a grouped convolution."""
    parts = weight.reshape(groups, -1, *weight.shape[1:])  # [groups, a, b, ...]
    return parts.transpose(1, 2).flatten(0, 1)  # [groups x b, a, ...]


def _by_channel(slot: Slot, values: Tensor) -> Tensor:
    """Gather the values of a slot's positions by channel, [channels, ...]; tied ones add up."""
    index = torch.tensor(slot.index, device=values.device)  # [channels, tied]
    return values[index].sum(dim=1)


def _positive(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny)


def finite(found: Tensor, layer: str) -> Tensor:
    """Check the importance within a layer and move it to the CPU.

    Raises:
        PlanError: the weights contain NaN or infinity.
    """
    if not found.isfinite().all():
        raise PlanError(
            f"the weights of {layer} contain NaN or infinity; the training that made them failed"
        )
    return found.cpu()
