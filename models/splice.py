"""Layers taken out of a cfg: who read one reads another instead, and numbers move up."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from .sections import Section

REFERRING = ("layers", "from")  # keys that name layers by number


def renumbered(count: int, gone: Collection[int]) -> dict[int, int]:
    """Map each of `count` layers that stays to its index without those that go."""
    left = (layer for layer in range(count) if layer not in gone)
    return {layer: index for index, layer in enumerate(left)}


def spliced(sections: Sequence[Section], instead: Mapping[int, int | None]) -> tuple[Section, ...]:
    """Copy a cfg without some layers.

    References stay as they were written, relative or absolute. Remarks above a removed section move
    to the next one that stays. What a section reads without naming it, the layer before, must still
    come before it: that is the caller's care.

    Args:
        sections: a cfg.
        instead: layer that goes -> earlier layer whose output is read in its place, which may go as
            well; None where nobody who stays reads it.
    """
    moved = renumbered(len(sections) - 1, instead)
    targets = _targets(moved, instead)
    left = [sections[0]]
    waiting: tuple[str, ...] = ()
    for layer, section in enumerate(sections[1:]):
        waiting = (*waiting, *section.comments)
        if layer in moved:
            own = replace(section, comments=tuple(dict.fromkeys(waiting))) if instead else section
            left.append(_redirected(own, layer, moved[layer], targets))
            waiting = ()
    return tuple(left)


def _targets(moved: Mapping[int, int], instead: Mapping[int, int | None]) -> dict[int, int]:
    """Map each layer that may still be read to the one that gives its output now."""
    targets = dict(moved)
    for layer, source in sorted(instead.items()):
        if source in targets:
            targets[layer] = targets[source]
    return targets


def _redirected(section: Section, old: int, new: int, targets: Mapping[int, int]) -> Section:
    """Rewrite the layers that a section names, from its old place to its new one."""

    def number(match: re.Match[str]) -> str:
        value = int(match.group())
        target = targets[old + value if value < 0 else value]
        return str(target - new if value < 0 else target)

    options = {
        key: re.sub(r"[+-]?\d+", number, value) if key in REFERRING else value
        for key, value in section.options.items()
    }
    return replace(section, options=options)
