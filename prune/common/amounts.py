"""Budgets as users write them: 0.5, a fraction of what there is; 30G, a number; 20ms, a time."""

from __future__ import annotations

import re

from prune.errors import PlanError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def read_amount(value: float | str, *, option: str) -> float:
    """Read a budget: a fraction in (0, 1), or a number of at least 1000.

    Args:
        value: a number, or a text such as "0.5", "30G" or "13M".
        option: its name, for the message.

    Raises:
        PlanError: the value is neither.
    """
    number = float(value) if not isinstance(value, str) else _read(value)
    # 1.5 is a slip, and nothing costs so little.
    if not number > 0 or 1 <= number < 1000 or number == float("inf"):
        raise PlanError(f"{option} is {value!r}; write a fraction below 1, e.g. 0.5, or 30G, 13M")
    return number


def read_latency(value: float | str) -> tuple[float, bool]:
    """Read a latency: a fraction in (0, 1), or milliseconds, such as "20ms".

    Returns:
        The number, and whether it is a fraction.

    Raises:
        PlanError: the value is neither.
    """
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms)?", str(value).strip().lower())
    number = float(found[1]) if found else 0.0
    if found is None or number <= 0 or (not found[2] and number >= 1):
        raise PlanError(f"--latency is {str(value)!r}; write a fraction below 1, e.g. 0.5, or 20ms")
    return number, not found[2]


def _read(text: str) -> float:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)([kmgt]?)", text.strip().lower())
    return float(found[1]) * _UNITS[found[2]] if found else 0.0
