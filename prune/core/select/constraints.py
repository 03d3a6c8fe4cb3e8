"""What may be taken off each group, from wishes a user can write: caps, floors, exceptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import ceil, gcd

from prune.common.inputs import shown
from prune.core.trace.groups import Group
from prune.errors import PlanError


@dataclass(frozen=True)
class Limit:
    """What may be taken off one group.

    Attributes:
        most: channels that may go at most.
        multiple: what stays is a multiple of this many channels, or all of them.
        why: the reason where none may go.
    """

    most: int
    multiple: int = 1
    why: str = ""


@dataclass(frozen=True)
class Constraints:
    """Limits as a user states them, for all groups or for those that a pattern names.

    Attributes:
        max_ratio: share of a group's channels that may go at most.
        min_channels: outputs of its first layer that must stay at least.
        round_to: what stays of them is a multiple of this many.
        exclude: nothing may go.
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
    """Say what may be taken off each group.

    Args:
        groups: of a network.
        everywhere: holds for every group.
        layers: what differs, by a pattern of layer names ("module_list.2?.*"): fields of
            Constraints. A group follows every pattern that one of its layers matches, the last
            one first.
        called: what patterns call the layers of a network that others left; then a pattern may
            name none, since its layers may be among those.

    Raises:
        PlanError: a pattern that names no layer, a field there is not, a value out of range.
    """
    names = [[(called or {}).get(n, n) for n in group.producers] for group in groups]
    for pattern in layers or {}:
        if not called and not any(fnmatchcase(n, pattern) for own in names for n in own):
            raise PlanError(
                f"{shown(pattern)} names no layer that can be cut; see prune show --groups"
            )
    wishes = (wish_of(own, everywhere, layers or {}) for own in names)
    return tuple(_limit(group, wish) for group, wish in zip(groups, wishes, strict=True))


def wish_of(
    names: Sequence[str], wish: Constraints, layers: Mapping[str, Mapping[str, object]]
) -> Constraints:
    """Say what is wished of layers that go together; `wish` and `layers` as in `limits`."""
    for pattern, fields in layers.items():
        if any(fnmatchcase(name, pattern) for name in names):
            wish = changed(wish, fields, where=pattern)
    return wish


def changed(wish: Constraints, fields: Mapping[str, object], *, where: str) -> Constraints:
    """Return a wish with some fields said anew.

    Raises:
        PlanError: no such field, or a value of another type.
    """
    kinds = {name: type(value) for name, value in vars(Constraints()).items()}
    for name, value in fields.items():
        known = kinds.get(name)
        if type(value) is not known and (known, type(value)) != (float, int):  # a bool is no int
            raise PlanError(
                f"{where}: {name}: {shown(value)} is no limit; there are "
                + ", ".join(f"{n} ({kind.__name__})" for n, kind in kinds.items())
            )
    return replace(wish, **dict(fields))  # type: ignore[arg-type]  # checked above


def _limit(group: Group, wish: Constraints) -> Limit:
    if group.kept:
        return Limit(0, why=group.kept)
    if wish.exclude:
        return Limit(0, why="it is excluded")
    multiple = multiple_of(group, wish.round_to)
    floor = max(ceil(wish.min_channels / _tied(group)), 1)
    most = min(int(wish.max_ratio * group.channels), group.channels - floor)
    if most < 1:
        return Limit(0, why=f"it has {group.width} channels, and the caps leave it whole")
    if rounded(group.channels, most, Limit(most, multiple)) < 1:
        return Limit(0, why=f"it has {group.width} channels, no lower multiple of {wish.round_to}")
    return Limit(most, multiple)


def multiple_of(group: Group, outputs: int) -> int:
    """Say how many channels of a group are a multiple of so many outputs of its first layer."""
    return outputs // gcd(outputs, _tied(group))


def _tied(group: Group) -> int:
    """Count the outputs of its first layer that a channel is."""
    return group.width // group.channels


def rounded(channels: int, wanted: int, limit: Limit) -> int:
    """Say how many of a group's channels go: what stays is the nearest multiple that is allowed.

    None go where no multiple is. At a tie more stay.
    """
    wanted, step = min(wanted, limit.most), limit.multiple
    if step == 1 or not limit.most:
        return wanted
    fewest = max(-(-(channels - limit.most) // step), 1)  # multiples that must stay
    if channels // step < fewest:
        return 0
    nearest = (2 * (channels - wanted) + step) // (2 * step)
    return channels - step * min(max(nearest, fewest), channels // step)
