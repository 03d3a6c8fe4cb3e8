"""How many channels of each group may be pruned, from constraints that a user can write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import ceil, gcd

import numpy as np
from numpy.typing import NDArray

from prune.common.inputs import shown
from prune.core.trace.groups import Group
from prune.errors import PlanError

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Limit:
    """How many channels of one group may be pruned.

    Attributes:
        most: maximum number of channels to prune.
        multiple: the number of channels left is a multiple of this, or all of them.
        why: the reason where none may be pruned.
    """

    most: int
    multiple: int = 1
    why: str = ""


@dataclass(frozen=True)
class Constraints:
    """Limits as a user states them, for all groups or for those that a pattern names.

    Attributes:
        max_ratio: maximum fraction of a group's channels to prune, in [0, 1].
        min_channels: outputs that its first layer keeps at least.
        round_to: the number of outputs left is a multiple of this.
        exclude: whether the group is protected.
    """

    max_ratio: float = 1.0
    min_channels: int = 1
    round_to: int = 1
    exclude: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_ratio <= 1:
            raise PlanError(f"max-ratio is {self.max_ratio}; it must lie in [0, 1], e.g. 0.8")
        if self.min_channels < 1:
            raise PlanError(f"min-channels is {self.min_channels}; it must be at least 1, e.g. 8")
        if self.round_to < 1:
            raise PlanError(f"round-to is {self.round_to}; it must be at least 1, e.g. 8")


def limits(
    groups: Sequence[Group],
    everywhere: Constraints,
    layers: Mapping[str, Mapping[str, object]] | None = None,
    *,
    called: Mapping[str, str] | None = None,
) -> tuple[Limit, ...]:
    """Return how many channels of each group may be pruned.

    Args:
        groups: of a network.
        everywhere: holds for every group.
        layers: what differs, by a pattern of layer names ("module_list.2?.*"): fields of
            Constraints. A group follows every pattern that one of its layers matches; the last
            one takes precedence.
        called: the names that patterns use, of the layers of a network that lost blocks; then a
            pattern may match none, since its layers may have been removed.

    Raises:
        PlanError: a pattern names no layer, a field is unknown, or a value is out of range.
    """
    names = [[(called or {}).get(n, n) for n in group.producers] for group in groups]
    for pattern in layers or {}:
        if not called and not any(fnmatchcase(n, pattern) for own in names for n in own):
            raise PlanError(
                f"{shown(pattern)} names no layer that can be cut; see prune show --groups"
            )
    each = (constraints_of(own, everywhere, layers or {}) for own in names)
    return tuple(_limit(group, own) for group, own in zip(groups, each, strict=True))


def constraints_of(
    names: Sequence[str], everywhere: Constraints, layers: Mapping[str, Mapping[str, object]]
) -> Constraints:
    """Return the constraints of layers that are coupled; arguments as in `limits`."""
    found = everywhere
    for pattern, fields in layers.items():
        if any(fnmatchcase(name, pattern) for name in names):
            found = changed(found, fields, where=pattern)
    return found


def changed(constraints: Constraints, fields: Mapping[str, object], *, where: str) -> Constraints:
    """Return constraints with other values of some fields.

    Raises:
        PlanError: a field is unknown, or a value has another type.
    """
    kinds = {name: type(value) for name, value in vars(Constraints()).items()}
    for name, value in fields.items():
        known = kinds.get(name)
        if type(value) is not known and (known, type(value)) != (float, int):  # a bool is no int
            raise PlanError(
                f"{where}: {name}: {shown(value)} is no limit; there are "
                + ", ".join(f"{n} ({kind.__name__})" for n, kind in kinds.items())
            )
    return replace(constraints, **dict(fields))  # type: ignore[arg-type]  # checked above


def _limit(group: Group, constraints: Constraints) -> Limit:
    if group.protected:
        return Limit(0, why=group.protected)
    if constraints.exclude:
        return Limit(0, why="it is excluded")
    multiple = multiple_of(group, constraints.round_to)
    tied = group.width // group.channels  # outputs of the first layer per channel
    floor = max(ceil(constraints.min_channels / tied), 1)
    most = min(int(constraints.max_ratio * group.channels), group.channels - floor)
    if most < 1:
        return Limit(
            0, why=f"it has {group.width} channels, and the limits allow none to be pruned"
        )
    if rounded(group.channels, most, Limit(most, multiple)) < 1:
        return Limit(
            0, why=f"it has {group.width} channels, no lower multiple of {constraints.round_to}"
        )
    return Limit(most, multiple)


def multiple_of(group: Group, outputs: int) -> int:
    """Return how many channels of a group are a multiple of so many outputs of its first layer."""
    return multiple(outputs, tied=group.width // group.channels)


def multiple(outputs: int, *, tied: int) -> int:
    """Return how many channels, of `tied` outputs each, are a multiple of so many outputs."""
    return outputs // gcd(outputs, tied)


def rounded(channels: int, requested: int, limit: Limit) -> int:
    """Return how many channels of a group to prune: the nearest number that the limit allows.

    It is 0 where no multiple is allowed. At a tie more channels are left.
    """
    requested, step = min(requested, limit.most), limit.multiple
    if step == 1 or not limit.most:
        return requested
    fewest = max(-(-(channels - limit.most) // step), 1)  # multiples that must be left
    if channels // step < fewest:
        return 0
    nearest = (2 * (channels - requested) + step) // (2 * step)
    return channels - step * min(max(nearest, fewest), channels // step)


def give_back(
    removed: Counts,
    limits: Sequence[Limit],
    value: Callable[[int, int], float],
    fits: Callable[[Counts], bool],
) -> Counts:
    """Give channels back to groups, what is most valuable first, while the rest fits.

    Args:
        removed: channels that are pruned of each group, [G].
        limits: one per group; a group gets a multiple back at a time.
        value: (group, channels pruned of it) -> what giving its next multiple back is worth.
        fits: whether a network is within its budget with so many channels pruned, [G].

    Returns:
        Channels to prune of each group, [G]; no multiple could be given back within the budget.
    """
    values = {
        int(group): value(int(group), int(removed[group])) for group in np.flatnonzero(removed)
    }
    while values:
        best = max(values, key=lambda group: values[group])
        trial = removed.copy()
        trial[best] = max(trial[best] - limits[best].multiple, 0)  # all of a group is no odd rest
        if fits(trial):
            removed = trial
        if removed is not trial or not trial[best]:
            del values[best]
        else:
            values[best] = value(best, int(trial[best]))
    return removed
