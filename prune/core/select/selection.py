"""Ways to choose channels: groups, weights and a wish -> Plan. Nothing here changes a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from prune.core.importance.criteria import CRITERIA
from prune.core.importance.group_importance import filters, finite
from prune.core.plan import Cut, Plan, cut_of
from prune.core.select.allocation import ALLOCATIONS, Budget, Evaluation, meet
from prune.core.select.cliffs import Cliff
from prune.core.select.cliffs import cliffs as find_cliffs
from prune.core.select.constraints import Limit, rounded
from prune.core.trace.groups import Group
from prune.errors import PlanError


@dataclass(frozen=True)
class Repeated:
    """A group that one-after-another pruning cut several times; widths are those of its root."""

    root: str
    times: int
    before: int
    after: int


def by_amount(
    groups: Sequence[Group],
    scores: Sequence[Tensor | None],
    layers: Collection[str],
    *,
    amount: float,
    criterion: str = "l1",
    round_to: int = 1,
) -> Plan:
    """Cut every group that one of `layers` is a member of once, against its original width.

    From each go the int(amount x channels) channels that score lowest; ties go from the front.

    Args:
        groups: of a network.
        scores: of their channels, see `ranking.scores`.
        layers: names of convolutions or linear layers.
        amount: in [0, 1).
        criterion: what the scores are of, for the plan to say.
        round_to: keep the nearest multiple of this many channels, at least one multiple and never
            more than there are; a group narrower than one multiple stays whole.

    Raises:
        PlanError: a value out of range, an unknown layer, or nothing to remove; it says why.
    """
    _check(amount, round_to)
    touched = touching(groups, layers)
    cuts = []
    for group, found in zip(groups, scores, strict=True):
        if group in touched and found is not None:
            count = _count(group.channels, amount, group.width // group.channels, round_to)
            cuts.append(cut_of(group, lowest(found, count)))
    return _plan(criterion, cuts, touched, f"amount {amount}")


@dataclass(frozen=True)
class Selected:
    """A plan that meets a budget.

    Attributes:
        plan: what goes.
        whole: the groups that stayed whole, with the reason for each.
        cliffs: what the last of the budget takes where that is known to hurt.
    """

    plan: Plan
    whole: tuple[tuple[str, str], ...]
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
        found: scores and costs of the groups.
        limits: what may be taken off each group.
        budget: what the network may cost.
        allocation: a key of ALLOCATIONS.
        criterion: what the scores are of, for the plan to say.

    Raises:
        PlanError: an unknown allocation, no group that may be cut, or a budget that is met already
            or cannot be met.
    """
    if allocation not in ALLOCATIONS:
        raise PlanError(f"allocation is {allocation!r}; it can be {', '.join(ALLOCATIONS)}")
    if all(scores is None for scores in found.scores):
        reasons = dict.fromkeys(group.kept or f"{criterion} cannot score it" for group in groups)
        raise PlanError(f"nothing to remove: {'; '.join(reasons)}")
    prices = ALLOCATIONS[allocation](found)
    counts = meet(prices, found.costs, budget, limits)
    steep = find_cliffs(groups, found, prices, limits, budget=budget, counts=counts)
    return by_counts(groups, found.scores, limits, counts, criterion=criterion, cliffs=steep)


def by_counts(
    groups: Sequence[Group],
    scores: Sequence[Tensor | None],
    limits: Sequence[Limit],
    counts: Sequence[int] | NDArray[np.int64],
    *,
    criterion: str,
    cliffs: tuple[Cliff, ...] = (),
) -> Selected:
    """Take so many channels off each group, those that score lowest.

    Args:
        groups: of a network.
        scores: of their channels; None where a group may not be cut.
        limits: one a group; they say why one stays whole.
        counts: channels that go, [G].
        criterion: what the scores are of, for the plan to say.
        cliffs: for the result.
    """
    cuts, whole = [], []
    for group, own, limit, count in zip(groups, scores, limits, counts, strict=True):
        if own is not None and count:
            cuts.append(cut_of(group, lowest(own, int(count))))
        else:
            unknown = f"{criterion} cannot score it" if own is None else "nothing had to go"
            whole.append((group.root, limit.why or unknown))
    return Selected(_plan(criterion, cuts, (), "the budget"), tuple(whole), cliffs)


def by_channels(groups: Sequence[Group], layer: str, channels: Collection[int]) -> Plan:
    """Cut the outputs of one layer that somebody named, with everything coupled to them.

    Raises:
        PlanError: no such output, all of them, or outputs that must stay (the message says why).
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
        raise PlanError(f"all {len(place)} channels of {layer} are to go; leave at least one")
    chosen: dict[Group, set[int]] = defaultdict(set)
    for position in channels:
        group, channel = place[position]
        if group.kept:
            raise PlanError(f"{layer} must keep channel {position}: {group.kept}")
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
    criterion: str = "l1",
    seed: int = 0,
    round_to: int = 1,
) -> tuple[Plan, tuple[Repeated, ...]]:
    """Cut layer after layer, each against the width the layers before it have left: the old way.

    Of each layer go int(amount x present channels), ranked by its own present weights. A group is
    cut again whenever another of its members comes up. Other arguments and errors are those of
    `by_amount`; `layers` are taken in this order, the weights from `net`, and `seed` is for
    criteria that draw numbers.

    Returns:
        The plan, and the groups that were cut several times.
    """
    _check(amount, round_to)
    if criterion not in CRITERIA or CRITERIA[criterion].reads != "weight":
        weighing = ", ".join(name for name, c in CRITERIA.items() if c.reads == "weight")
        raise PlanError(f"criterion is {criterion!r}; one after another goes by {weighing} alone")
    generator = Generator().manual_seed(seed)
    touched = touching(groups, layers)
    free = [group for group in touched if not group.kept]
    gone: list[set[int]] = [set() for _ in free]
    lost: dict[str, set[int]] = defaultdict(set)  # layer -> input positions that are gone
    times = [0] * len(free)
    for layer in layers:
        present = _present(free, gone, layer)
        weight = _present_inputs(net.get_submodule(layer), lost[layer])
        ranks = finite(CRITERIA[criterion].score(weight, generator), layer)  # [out]
        leaving = _leaving(free, layer, present, ranks, amount=amount, round_to=round_to)
        for number, channel in leaving:
            gone[number].add(channel)
            for slot in free[number].slots:
                if slot.side == "in":
                    lost[slot.name].update(slot.index[channel])
        for number in {number for number, _ in leaving}:
            times[number] += 1
    cuts = [cut_of(group, channels) for group, channels in zip(free, gone, strict=True)]
    repeated = tuple(
        Repeated(group.root, count, group.width, group.width - len(cut.remove))
        for group, count, cut in zip(free, times, cuts, strict=True)
        if count > 1
    )
    return _plan(criterion, cuts, touched, f"amount {amount}"), repeated


def touching(groups: Sequence[Group], layers: Collection[str]) -> tuple[Group, ...]:
    """Return the groups that one of `layers` is a member of, kept ones included.

    Raises:
        PlanError: a layer that is in no group.
    """
    known = {name for group in groups for name in group.producers}
    if missing := [layer for layer in layers if layer not in known]:
        raise PlanError(f"{missing[0]} cannot be cut: the trace never reached it")
    wanted = set(layers)
    return tuple(group for group in groups if wanted.intersection(group.producers))


def _check(amount: float, round_to: int) -> None:
    if not 0 <= amount < 1:
        raise PlanError(f"amount is {amount}; it must lie in [0, 1), e.g. 0.4")
    if round_to < 1:
        raise PlanError(f"round-to is {round_to}; it must be at least 1, e.g. 8")


def _present_inputs(layer: nn.Module, gone: set[int]) -> Tensor:
    """Return a layer's filters without the inputs that are gone, [out, k]."""
    rows = filters(layer)
    inputs = layer.in_features if isinstance(layer, nn.Linear) else _inputs_of_a_share(layer)
    left = [i for i in range(inputs) if i not in gone]  # tied: every share lost the same
    return rows.reshape(len(rows), inputs, -1)[:, left].flatten(1)


def _inputs_of_a_share(layer: nn.Module) -> int:
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return layer.in_channels // layer.groups


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


def _leaving(
    groups: Sequence[Group],
    layer: str,
    present: list[tuple[int, int]],
    ranks: Tensor,
    *,
    amount: float,
    round_to: int,
) -> list[tuple[int, int]]:
    """Choose the lowest of a layer's present channels, but never all that a group has left."""
    if not present:
        return []
    places = [list(groups[number].slot(layer).index[channel]) for number, channel in present]
    scores = torch.stack([ranks[place].sum() for place in places])
    count = _count(len(present), amount, len(places[0]), round_to)
    order = torch.argsort(scores, stable=True).tolist()
    best = {present[i][0]: i for i in order}  # of each group: the last one in the order
    return [present[i] for i in order if i not in best.values()][:count]


def _count(present: int, amount: float, tied: int, round_to: int) -> int:
    """Say how many of the present channels go; each of them is `tied` outputs of its layer."""
    limit = Limit(present - 1, round_to // gcd(round_to, tied))
    return rounded(present, int(amount * present), limit)


def lowest(scores: Tensor, count: int) -> list[int]:
    """Return the places of the `count` lowest scores; ties go from the front."""
    return sorted(torch.argsort(scores, stable=True)[:count].tolist())


def _plan(criterion: str, cuts: Iterable[Cut], touched: Iterable[Group], wish: str) -> Plan:
    cuts = tuple(cut for cut in cuts if cut.remove)
    if not cuts:
        reasons = [f"{group.root}: {group.kept}" for group in touched if group.kept]
        why = "; ".join(reasons) or f"{wish} leaves every group whole"
        raise PlanError(f"nothing to remove: {why}")
    return Plan(network="", criterion=criterion, cuts=cuts)
