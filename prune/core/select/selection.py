"""Choose channels: groups, importance and a target -> Plan. Nothing here changes a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from prune.core.importance.criteria import CRITERIA
from prune.core.importance.group_importance import filters, finite
from prune.core.importance.own_criteria import CriterionLike, find
from prune.core.plan import Cut, Plan, cut_of
from prune.core.select.allocation import ALLOCATIONS, Budget, Evaluation, meet
from prune.core.select.cliffs import Cliff
from prune.core.select.cliffs import cliffs as find_cliffs
from prune.core.select.constraints import Constraints, Limit, limits, multiple, rounded
from prune.core.trace.groups import Group
from prune.errors import PlanError


@dataclass(frozen=True)
class Repeated:
    """A group that sequential pruning cut several times.

    Attributes:
        root: its first layer.
        times: how often it was cut.
        before: channels of its first layer in the original.
        after: channels of its first layer in the pruned model.
    """

    root: str
    times: int
    before: int
    after: int


def by_amount(
    groups: Sequence[Group],
    importance: Sequence[Tensor | None],
    layers: Collection[str] | None = None,
    *,
    amount: float,
    criterion: str = "l1",
    allowed: Sequence[Limit] | None = None,
) -> Plan:
    """Cut each group that one of `layers` belongs to once, by a fraction of its original width.

    The int(amount x channels) channels of least importance are removed from each, or the nearest
    number that its limit allows; of equal ones the first.

    Args:
        groups: of a network.
        importance: of their channels, see `group_importance.channel_importance`.
        layers: names of convolutions or linear layers; None for all.
        amount: fraction of the channels, in [0, 1).
        criterion: name of the criterion, for the plan.
        allowed: one limit per group; None for no limits.

    Raises:
        PlanError: a value out of range, an unknown layer, or nothing to remove, with the reasons.
    """
    _expect_amount(amount)
    allowed = limits(groups, Constraints()) if allowed is None else allowed
    touched = groups if layers is None else touching(groups, layers)
    cuts = []
    reasons = []
    for group, own, limit in zip(groups, importance, allowed, strict=True):
        if group not in touched:
            continue
        count = rounded(group.channels, int(amount * group.channels), limit)
        if own is not None and count:
            cuts.append(cut_of(group, lowest(own, count)))
        else:
            unknown = f"{criterion} cannot compare its channels" if own is None else ""
            small = f"amount {amount} of its {group.channels} channels is less than one"
            reasons.append(f"{group.root}: {limit.why or unknown or small}")
    if not cuts:
        raise PlanError(f"nothing to remove: {'; '.join(reasons)}")
    return Plan(network="", criterion=criterion, cuts=tuple(cuts))


@dataclass(frozen=True)
class Selected:
    """A plan that meets a budget.

    Attributes:
        plan: what is removed.
        untouched: the groups that keep all channels, with the reason for each.
        cliffs: groups whose measured drop rises steeply over the last part of the budget.
    """

    plan: Plan
    untouched: tuple[tuple[str, str], ...]
    cliffs: tuple[Cliff, ...] = ()


def by_budget(
    groups: Sequence[Group],
    found: Evaluation,
    limits: Sequence[Limit],
    *,
    budget: Budget,
    allocation: str = "uniform",
    criterion: str = "l1",
) -> Selected:
    """Cut any group until the network is within a budget.

    Args:
        groups: of a network.
        found: importance and costs of the groups.
        limits: how many channels of each group may be pruned.
        budget: what the network may cost.
        allocation: a key of ALLOCATIONS.
        criterion: name of the criterion, for the plan.

    Raises:
        PlanError: an unknown allocation, no group that may be cut, or a budget that is met already
            or cannot be met.
    """
    if allocation not in ALLOCATIONS:
        raise PlanError(f"allocation is {allocation!r}; it can be {', '.join(ALLOCATIONS)}")
    if all(own is None for own in found.importance):
        unknown = f"{criterion} cannot compare its channels"
        reasons = dict.fromkeys(group.protected or unknown for group in groups)
        raise PlanError(f"nothing to remove: {'; '.join(reasons)}")
    prices = ALLOCATIONS[allocation](found)
    counts = meet(prices, found.costs, budget, limits)
    steep = find_cliffs(groups, found, prices, limits, budget=budget, counts=counts)
    return by_counts(groups, found.importance, limits, counts, criterion=criterion, cliffs=steep)


def by_counts(
    groups: Sequence[Group],
    importance: Sequence[Tensor | None],
    limits: Sequence[Limit],
    counts: Sequence[int] | NDArray[np.int64],
    *,
    criterion: str,
    cliffs: tuple[Cliff, ...] = (),
) -> Selected:
    """Remove so many channels from each group, those of least importance.

    Args:
        groups: of a network.
        importance: of their channels; None where a group may not be cut.
        limits: one per group, with the reason where none may be pruned.
        counts: channels to prune, [G].
        criterion: name of the criterion, for the plan.
        cliffs: for the result.
    """
    cuts, untouched = [], []
    for group, own, limit, count in zip(groups, importance, limits, counts, strict=True):
        if own is not None and count:
            cuts.append(cut_of(group, lowest(own, int(count))))
        else:
            unknown = f"{criterion} cannot compare its channels"
            reason = unknown if own is None else "the budget did not require it"
            untouched.append((group.root, limit.why or reason))
    return Selected(_plan(criterion, cuts, (), "the budget"), tuple(untouched), cliffs)


def by_channels(groups: Sequence[Group], layer: str, channels: Collection[int]) -> Plan:
    """Cut the named outputs of one layer, with everything coupled to them.

    Raises:
        PlanError: there is no such output, all are named, or one is protected, with the reason.
    """
    place = {
        position: (group, channel)
        for group in touching(groups, [layer])
        for channel, positions in enumerate(group.slot(layer).index)
        for position in positions
    }
    if unknown := sorted(set(channels) - place.keys()):
        raise PlanError(f"{layer} has channels 0 to {max(place)}, not {unknown[0]}")
    if len(set(channels)) == len(place):
        raise PlanError(
            f"all {len(place)} channels of {layer} would be removed; leave at least one"
        )
    chosen: dict[Group, set[int]] = defaultdict(set)
    for position in channels:
        group, channel = place[position]
        if group.protected:
            raise PlanError(f"channel {position} of {layer} is protected: {group.protected}")
        chosen[group].add(channel)
    return _plan(
        "given", [cut_of(group, units) for group, units in chosen.items()], (), "no channels"
    )


def one_after_another(
    net: nn.Module,
    groups: Sequence[Group],
    layers: Sequence[str],
    *,
    amount: float,
    criterion: CriterionLike = "l1",
    seed: int = 0,
    round_to: int = 1,
) -> tuple[Plan, tuple[Repeated, ...]]:
    """Cut layer after layer, each by a fraction of the width that is left of it.

    The int(amount x present channels) channels of least importance by its own present weights are
    removed from each layer. A group is cut again with each of its members. Other arguments and
    errors are those of `by_amount`; `layers` are cut in this order, the weights are read from
    `net`, `seed` is of criteria that draw numbers, and `round_to` keeps multiples.

    Returns:
        The plan, and the groups that were cut several times.
    """
    _expect_amount(amount)
    constraints = Constraints(round_to=round_to)
    name, chosen = find(criterion)
    if chosen.reads != "weight":
        known = ", ".join(name for name, c in CRITERIA.items() if c.reads == "weight")
        raise PlanError(f"criterion is {name!r}; sequential pruning supports {known}")
    generator = Generator().manual_seed(seed)
    touched = touching(groups, layers)
    free = [group for group in touched if not group.protected]
    gone: list[set[int]] = [set() for _ in free]
    lost: dict[str, set[int]] = defaultdict(set)  # layer -> input positions that were removed
    times = [0] * len(free)
    for layer in layers:
        present = _present(free, gone, layer)
        weight = _present_inputs(net.get_submodule(layer), lost[layer])
        own = finite(chosen(weight, generator), layer)  # [out]
        cut = _least_important(free, layer, present, own, amount=amount, constraints=constraints)
        for number, channel in cut:
            gone[number].add(channel)
            for slot in free[number].slots:
                if slot.side == "in":
                    lost[slot.name].update(slot.index[channel])
        for number in {number for number, _ in cut}:
            times[number] += 1
    cuts = [cut_of(group, channels) for group, channels in zip(free, gone, strict=True)]
    repeated = tuple(
        Repeated(group.root, count, group.width, group.width - len(cut.remove))
        for group, count, cut in zip(free, times, cuts, strict=True)
        if count > 1
    )
    return _plan(name, cuts, touched, f"amount {amount}"), repeated


def touching(groups: Sequence[Group], layers: Collection[str]) -> tuple[Group, ...]:
    """Return the groups that one of `layers` belongs to, protected ones included.

    Raises:
        PlanError: a layer is in no group.
    """
    known = {name for group in groups for name in group.producers}
    if missing := [layer for layer in layers if layer not in known]:
        raise PlanError(f"{missing[0]} cannot be cut: the trace never reached it")
    wanted = set(layers)
    return tuple(group for group in groups if wanted.intersection(group.producers))


def _expect_amount(amount: float) -> None:
    if not 0 <= amount < 1:
        raise PlanError(f"amount is {amount}; it must lie in [0, 1), e.g. 0.4")


def _present_inputs(layer: nn.Module, gone: set[int]) -> Tensor:
    """Return a layer's filters without the inputs that were removed, [out, k]."""
    rows = filters(layer)
    if isinstance(layer, nn.Linear):
        inputs = layer.in_features
    else:
        assert isinstance(layer, nn.modules.conv._ConvNd)
        inputs = layer.in_channels // layer.groups
    left = [i for i in range(inputs) if i not in gone]  # tied: every group lost the same
    return rows.reshape(len(rows), inputs, -1)[:, left].flatten(1)


def _present(
    groups: Sequence[Group], gone: Sequence[set[int]], layer: str
) -> list[tuple[int, int]]:
    """List what is left of a layer's outputs, as group number and channel."""
    return [
        (number, channel)
        for number, group in enumerate(groups)
        if layer in group.producers
        for channel in range(group.channels)
        if channel not in gone[number]
    ]


def _least_important(
    groups: Sequence[Group],
    layer: str,
    present: list[tuple[int, int]],
    importance: Tensor,
    *,
    amount: float,
    constraints: Constraints,
) -> list[tuple[int, int]]:
    """Choose the least important of a layer's channels, but never all that a group has left."""
    if not present:
        return []
    places = [list(groups[number].slot(layer).index[channel]) for number, channel in present]
    summed = torch.stack([importance[place].sum() for place in places])
    limit = Limit(len(present) - 1, multiple(constraints.round_to, tied=len(places[0])))
    count = rounded(len(present), int(amount * len(present)), limit)
    order = torch.argsort(summed, stable=True).tolist()
    best = {present[i][0]: i for i in order}  # of each group: the last one in the order
    return [present[i] for i in order if i not in best.values()][:count]


def lowest(importance: Tensor, count: int) -> list[int]:
    """Return the indices of the `count` least important channels; of equal ones the first."""
    return sorted(torch.argsort(importance, stable=True)[:count].tolist())


def _plan(criterion: str, cuts: Iterable[Cut], touched: Iterable[Group], what: str) -> Plan:
    cuts = tuple(cut for cut in cuts if cut.remove)
    if not cuts:
        reasons = [f"{group.root}: {group.protected}" for group in touched if group.protected]
        why = "; ".join(reasons) or f"{what} removes no channel of any group"
        raise PlanError(f"nothing to remove: {why}")
    return Plan(network="", criterion=criterion, cuts=cuts)
