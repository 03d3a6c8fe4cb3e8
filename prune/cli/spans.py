"""Layers as users write them: 22, 22-40, 5,6,9; and as we write them back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prune.common.digits import real
from prune.errors import PlanError


def span(text: str) -> tuple[int, int]:
    """Read `22` or `22-40` as the first and the last layer.

    Raises:
        PlanError: neither.
    """
    low, dash, high = text.partition("-")
    if not is_index(low) or (dash and not is_index(high)):
        raise PlanError(f"layer is {text!r}; write a number or a range, e.g. 22 or 22-40")
    return int(low), int(high or low)


def is_index(text: str) -> bool:
    """Say whether a text is a layer's or a channel's number, and not ever so many digits."""
    return text.isdecimal() and len(text) < 10


def layers(words: Iterable[str], count: int) -> list[int]:
    """Read `22`, `22-40` and `5,6,9` as layers of a network that has `count`, of any kind.

    Raises:
        PlanError: no number, a range that goes down, or a layer there is not.
    """
    chosen: set[int] = set()
    for part in (part.strip() for word in words for part in word.split(",")):
        low, high = span(part)
        if high < low or high >= count:
            raise PlanError(f"layers {part}: there are layers 0 to {count - 1}; ranges go up")
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def factors(words: Iterable[str], count: int) -> dict[int, float]:
    """Read `0-60:0.1,61-80:0.5` as a factor for each layer of a network that has `count`.

    Raises:
        PlanError: as `layers`, no factor above 0, or a layer that has two.
    """
    found: dict[int, float] = {}
    for part in (part.strip() for word in words for part in word.split(",")):
        where, _, text = part.rpartition(":")
        factor = _factor(text)
        if not where or factor is None:
            raise PlanError(f"factor is {part!r}; write layers and a number, e.g. 0-60:0.1")
        inside = layers([where], count)
        if twice := sorted(found.keys() & set(inside)):
            raise PlanError(f"layer {twice[0]} has two factors, {found[twice[0]]:g} and {factor:g}")
        found |= dict.fromkeys(inside, factor)
    return found


def as_ranges(numbers: Sequence[int]) -> str:
    """Write sorted numbers shortly, 0, 1, 2, 5 as "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _factor(text: str) -> float | None:
    try:
        value = real(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
