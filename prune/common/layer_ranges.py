"""Layers as users write them: 22, 22-40, 5,6,9; and as messages write them back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prune.common.digits import real
from prune.errors import PlanError


def read_range(text: str) -> tuple[int, int]:
    """Read `22` or `22-40` as the first and the last layer.

    Raises:
        PlanError: the text is neither a number nor a range.
    """
    low, dash, high = text.partition("-")
    if not is_index(low) or (dash and not is_index(high)):
        raise PlanError(f"layer is {text!r}; write a number or a range, e.g. 22 or 22-40")
    return int(low), int(high or low)


def is_index(text: str) -> bool:
    """Tell whether a text is the number of a layer or channel, of less than ten digits."""
    return text.isdecimal() and len(text) < 10


def read_layers(texts: Iterable[str], count: int) -> list[int]:
    """Read `22`, `22-40` and `5,6,9` as layers of any kind in a network of `count` layers.

    Raises:
        PlanError: a text is no number, a range goes down, or the network has no such layer.
    """
    chosen: set[int] = set()
    for part in (part.strip() for text in texts for part in text.split(",")):
        low, high = read_range(part)
        if high < low or high >= count:
            raise PlanError(f"layers {part}: there are layers 0 to {count - 1}; ranges go up")
        chosen.update(range(low, high + 1))
    return sorted(chosen)


def read_factors(texts: Iterable[str], count: int) -> dict[int, float]:
    """Read `0-60:0.1,61-80:0.5` as one factor per layer of a network of `count` layers.

    Raises:
        PlanError: as `read_layers`, or a factor is not above 0, or a layer has two factors.
    """
    found: dict[int, float] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        where, _, number = part.rpartition(":")
        factor = _read_factor(number)
        if not where or factor is None:
            raise PlanError(f"factor is {part!r}; write layers and a number, e.g. 0-60:0.1")
        inside = read_layers([where], count)
        if twice := sorted(found.keys() & set(inside)):
            raise PlanError(f"layer {twice[0]} has two factors, {found[twice[0]]:g} and {factor:g}")
        found |= dict.fromkeys(inside, factor)
    return found


def as_ranges(numbers: Sequence[int]) -> str:
    """Write sorted numbers as ranges: 0, 1, 2, 5 becomes "0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def short_name(name: str) -> str:
    """Name a layer by its index, as users do: module_list.22.Conv2d becomes 22."""
    parts = name.split(".")
    return parts[1] if parts[0] == "module_list" else name


def members(names: Sequence[str]) -> str:
    """Write the layers of a group briefly, e.g. "19, 22-23"."""
    short = [short_name(name) for name in names]
    indices = all(map(str.isdecimal, short))
    return as_ranges([int(name) for name in short]) if indices else ", ".join(short)


def _read_factor(text: str) -> float | None:
    try:
        value = real(text)
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
