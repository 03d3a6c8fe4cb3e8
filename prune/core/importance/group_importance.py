"""Scores of every group's channels, by a criterion, from the places the channels have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor, nn

from prune.core.importance.criteria import CRITERIA, Criterion
from prune.core.importance.statistics import Evidence
from prune.core.trace.groups import Group, Slot
from prune.errors import PlanError

SCOPES = ("root", "group")

# How the scores of one group are made comparable with those of others.
NORMALIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda scores: scores,
    "mean": lambda scores: scores / _positive(scores.mean()),
    "max": lambda scores: scores / _positive(scores.max()),
    "sum": lambda scores: scores / _positive(scores.sum()),
}


def scores(
    net: nn.Module,
    groups: Sequence[Group],
    *,
    criterion: str = "l1",
    scope: str = "root",
    normalize: str = "none",
    seed: int = 0,
    evidence: Evidence | None = None,
) -> tuple[Tensor | None, ...]:
    """Score the channels of every group.

    Args:
        net: where the weights are.
        groups: of the same network.
        criterion: a key of CRITERIA.
        scope: "root", the first place that tells (the group's first layer, for weights), or
            "group", the mean over all layers that make or read the channels.
        normalize: a key of NORMALIZERS.
        seed: for criteria that draw numbers.
        evidence: for criteria that need pictures.

    Returns:
        One entry a group, float32 [channels]; the lowest go first. None for a group that must stay
        or that the criterion cannot score, such as one without normalisation by "bn".

    Raises:
        PlanError: an unknown name, evidence that lacks, or weights that hold NaN or infinity.
    """
    for name, value, known in (
        ("criterion", criterion, CRITERIA),
        ("scope", scope, SCOPES),
        ("normalize", normalize, NORMALIZERS),
    ):
        if value not in known:
            raise PlanError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
    chosen, generator = CRITERIA[criterion], Generator().manual_seed(seed)
    if chosen.reads not in ("weight", "scale") and evidence is None:
        raise PlanError(f"criterion {criterion} needs pictures; give it data")
    found = []
    for group in groups:
        own = None if group.kept else _of(net, group, chosen, scope, generator, evidence)
        found.append(None if own is None else NORMALIZERS[normalize](own))
    return tuple(found)


def _of(
    net: nn.Module,
    group: Group,
    criterion: Criterion,
    scope: str,
    generator: Generator,
    evidence: Evidence | None,
) -> Tensor | None:
    """Score one group, [channels]; None where nothing it has can be read."""
    slots = [s for s in group.slots if s.kind in READABLE[criterion.reads]]
    if criterion.reads in ("gate", "activity"):
        slots = [s for s in slots if s.side == "in"]
    elif scope == "root" and criterion.reads != "scale":
        slots = [group.slot(group.root)]
    rows = [(slot, _rows(net, slot, criterion.reads, evidence)) for slot in slots]
    told = [(slot, found) for slot, found in rows if found is not None]
    told = told[:1] if scope == "root" else told
    if not told:
        return None
    if criterion.adds:
        total = torch.stack([_by_channel(slot, found) for slot, found in told]).sum(dim=0)
        result = criterion.score(total, generator)
    else:
        each = [_by_channel(slot, criterion.score(found, generator)) for slot, found in told]
        result = torch.stack(each).mean(dim=0)
    return finite(result, group.root)


READABLE = {
    "weight": ("convolution", "depthwise", "linear"),
    "scale": ("norm",),
    "change": ("convolution", "depthwise", "linear"),
    "gate": ("convolution", "linear"),
    "activity": ("convolution", "linear"),
}


def _rows(net: nn.Module, slot: Slot, reads: str, evidence: Evidence | None) -> Tensor | None:
    """Return what a place holds of each of its positions, [positions, k], in float32."""
    module = net.get_submodule(slot.name)
    if reads == "scale":
        scale = module.weight
        return scale.detach().float().unsqueeze(1) if isinstance(scale, Tensor) else None
    if reads == "weight":
        return filters(module, slot.side)
    assert evidence is not None, "checked by scores()"
    found = getattr(evidence, reads).get(slot.name)
    if found is None:
        return None
    if reads == "change":
        return _turned(module, found, slot.side)
    rows: Tensor = found.float()
    return rows.unsqueeze(1) if rows.dim() == 1 else rows


def filters(layer: nn.Module, side: str = "out") -> Tensor:
    """Return the weights of a convolution or linear layer by output or by input, [positions, k]."""
    weight = layer.weight
    assert isinstance(weight, Tensor), f"{type(layer).__name__} makes no channels"
    return _turned(layer, weight.detach(), side)


def _turned(layer: nn.Module, weight: Tensor, side: str) -> Tensor:
    """Lay a weight, or what has its shape, out as one row an output or an input."""
    shares = int(getattr(layer, "groups", 1))
    if getattr(layer, "transposed", False):  # [in, out / shares, ...] -> [out, in / shares, ...]
        weight = _swapped(weight, shares)
    if side == "in":  # [out, in / shares, ...] -> [in, out / shares, ...]
        weight = _swapped(weight, shares)
    return weight.float().flatten(1)


def _swapped(weight: Tensor, shares: int) -> Tensor:
    """Swap inputs and outputs within each share of a grouped convolution."""
    parts = weight.reshape(shares, -1, *weight.shape[1:])  # [shares, a, b, ...]
    return parts.transpose(1, 2).flatten(0, 1)  # [shares x b, a, ...]


def _by_channel(slot: Slot, values: Tensor) -> Tensor:
    """Gather the values of a place's positions by channel, [channels, ...]; tied ones add up."""
    index = torch.tensor(slot.index, device=values.device)  # [channels, tied]
    return values[index].sum(dim=1)


def _positive(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny)


def finite(found: Tensor, layer: str) -> Tensor:
    """Check a layer's scores and bring them to the CPU.

    Raises:
        PlanError: its weights hold NaN or infinity.
    """
    if not found.isfinite().all():
        raise PlanError(
            f"the weights of {layer} hold NaN or infinity; the training that made them failed"
        )
    return found.cpu()
