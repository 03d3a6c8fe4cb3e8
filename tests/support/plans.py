"""Plans for tests: any channels of any group that leave something behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hypothesis import strategies as st

from prune.core.plan import Cut, Plan
from prune.core.trace.groups import Group


def plan_of(groups: Sequence[Group], chosen: Mapping[int, Collection[int]]) -> Plan:
    """Make a plan that takes channels `chosen[i]` off group i."""
    return Plan("", "given", tuple(cut_of(groups[i], chosen[i]) for i in chosen if chosen[i]))


def cut_of(group: Group, channels: Collection[int]) -> Cut:
    """Make the cut that takes some of a group's channels."""
    index = group.slot(group.root).index
    remove = sorted(position for channel in channels for position in index[channel])
    return Cut(group.root, group.width, tuple(remove), group.producers)


@st.composite
def plans(draw: st.DrawFn, groups: Sequence[Group]) -> Plan:
    """Draw a plan that leaves every group at least one channel."""
    chosen = {
        i: draw(st.sets(st.integers(0, group.channels - 1), max_size=group.channels - 1))
        for i, group in enumerate(groups)
        if not group.protected and group.channels > 1
    }
    return plan_of(groups, chosen)
