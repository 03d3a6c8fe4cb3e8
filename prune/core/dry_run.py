"""Try cuts on shapes: the groups may be right, and yet the network's own code may fail.

A width that is written into forward(), such as x.view(-1, 400), shows only without a channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from prune.core.cut import apply_plan
from prune.core.plan import Plan, cut_of
from prune.core.trace.groups import Group
from prune.core.trace.meta import Inputs, on_meta, run, specs, tensors_in
from prune.errors import PlanError


def protect_failing(net: nn.Module, groups: Sequence[Group], inputs: Inputs) -> tuple[Group, ...]:
    """Protect groups of a single channel, and those that the network cannot run without.

    It takes one run if no group fails, else one per group.

    Args:
        net: the network of the groups; it does not change.
        groups: all of them.
        inputs: what the network takes.
    """
    groups = [_with_reason(group) for group in groups]
    shadow = on_meta(net).eval()
    expected = shapes_of(shadow, inputs)
    free = [group for group in groups if not group.protected]
    if not _objection(shadow, groups, free, inputs, expected):
        return tuple(groups)
    passed: list[Group] = []
    reasons: dict[Group, str] = {}
    for group in free:  # with those that passed: two cuts may be right only alone
        if reason := _objection(shadow, groups, [*passed, group], inputs, expected):
            reasons[group] = f"without one of its channels {reason}"
        else:
            passed.append(group)
    return tuple(
        replace(group, protected=reasons[group]) if group in reasons else group for group in groups
    )


def _with_reason(group: Group) -> Group:
    if group.protected or group.channels > 1:
        return group
    many = f"its {group.width} outputs can only be removed together"
    return replace(group, protected=many if group.width > 1 else "it has a single channel")


def shapes_of(net: nn.Module, inputs: Inputs) -> list[tuple[int, ...]]:
    """Return the shapes of what a network returns.

    Raises:
        PlanError: it cannot be run on shapes.
    """
    results = run(on_meta(net).eval(), [spec.on_meta() for spec in specs(inputs)])
    return [tuple(tensor.shape) for tensor in tensors_in(results)]


def _objection(
    net: nn.Module,
    groups: Sequence[Group],
    cut: Sequence[Group],
    inputs: Inputs,
    expected: list[tuple[int, ...]],
) -> str:
    """Return what fails when some groups lose a channel each; "" for nothing."""
    plan = Plan("", "given", tuple(cut_of(group, [0]) for group in cut))
    try:
        found = shapes_of(apply_plan(net, groups, plan, share=True), inputs)
    except PlanError as error:
        return str(error)
    return "" if found == expected else f"the outputs have other shapes: {found}, not {expected}"
