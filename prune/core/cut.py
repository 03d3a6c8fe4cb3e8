"""Carry a plan out: the one file that changes a module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch_pruning as tp
from torch import Tensor, nn

from prune.core.plan import Plan, Removed, removed
from prune.core.trace.groups import Group, Slot
from prune.core.trace.meta import copied

Module = TypeVar("Module", bound=nn.Module)

# A cutter takes a layer and the positions that leave one of its sides. torch-pruning's for the
# inputs of a grouped convolution is right where every group of it loses the same places, as here.
Cutter = Callable[[nn.Module, list[int]], object]

CUTTERS: dict[tuple[str, str], Cutter] = {
    ("convolution", "out"): tp.prune_conv_out_channels,
    ("convolution", "in"): tp.prune_conv_in_channels,
    ("depthwise", "out"): tp.prune_depthwise_conv_out_channels,
    ("linear", "out"): tp.prune_linear_out_channels,
    ("linear", "in"): tp.prune_linear_in_channels,
    ("norm", "out"): tp.prune_batchnorm_out_channels,
    ("prelu", "out"): tp.prune_prelu_out_channels,
}


def apply_plan(net: Module, groups: Sequence[Group], plan: Plan, *, share: bool = False) -> Module:
    """Return a copy of `net` without the channels a plan removes; `net` stays as it is.

    Args:
        net: the network the groups were found in.
        groups: see `graph.trace`.
        plan: what to remove.
        share: let layers that lose nothing share the tensors of `net`, which saves time and memory;
            not for two networks that are both trained.

    Raises:
        PlanError: the plan does not fit the groups.
    """
    gone = removed(groups, plan)
    pruned = copied(net, lambda tensor: tensor)  # shares every weight until it is cut or copied
    _carry_out(pruned, groups, gone)
    if not share:
        _own(pruned, net)
    trained = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(trained[name])
    return pruned


def apply_in_place(net: nn.Module, groups: Sequence[Group], plan: Plan) -> None:
    """Remove the channels of a plan from `net` itself; see `apply_plan` for arguments and errors.

    The plan is checked first. Parameters that lose channels become others: an optimiser that holds
    the old ones has to be made anew.
    """
    gone = removed(groups, plan)
    trained = {name: parameter.requires_grad for name, parameter in net.named_parameters()}
    _carry_out(net, groups, gone)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(trained[name])


def _carry_out(net: nn.Module, groups: Sequence[Group], gone: Removed) -> None:
    slots = {(slot.name, slot.side): slot for group in groups for slot in group.slots}
    with torch.no_grad():
        for place, positions in gone.items():
            _shrink(net, slots[place], list(positions))


def _shrink(net: nn.Module, slot: Slot, positions: list[int]) -> None:
    if slot.kind != "parameter":
        CUTTERS[slot.kind, slot.side](net.get_submodule(slot.name), positions)
        return
    owner, _, name = slot.name.rpartition(".")
    cutter = tp.function.ParameterPruner(pruning_dim=slot.dim)
    module = net.get_submodule(owner)
    setattr(module, name, cutter.prune_out_channels(getattr(module, name), positions))


def _own(pruned: nn.Module, net: nn.Module) -> None:
    """Give a copy its own weights where it still shares the original's."""
    shared = {id(tensor) for tensor in (*net.parameters(), *net.buffers())}
    mine: dict[int, Tensor] = {}  # weights that two layers share are still one
    for module in pruned.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in shared:
                mine.setdefault(id(parameter), nn.Parameter(parameter.detach().clone()))
                setattr(module, name, mine[id(parameter)])
        for name, buffer in module.named_buffers(recurse=False):
            if id(buffer) in shared:
                mine.setdefault(id(buffer), buffer.clone())
                setattr(module, name, mine[id(buffer)])
