"""How messages write lists and counts."""

from __future__ import annotations

from collections.abc import Sequence

from prune.common.visible import visible


def few(names: Sequence[object], most: int = 5) -> str:
    """List the first names: "cat, dog, ..."."""
    return ", ".join(visible(str(name)) for name in names[:most]) + (
        ", ..." if len(names) > most else ""
    )


def counted(count: int, one: str, more: str = "") -> str:
    """Write a number with its noun: "1 image", "2 images"; `more` is a plural of another kind."""
    return f"{count} {one if count == 1 else more or one + 's'}"
