"""Long loops tell how far they are; whoever listens shows it, else nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Listener = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Begins to show a loop: its name and number of steps -> what is told how many are done."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def tracked(items: Iterable[T], name: str, total: int) -> Iterator[T]:
    """Pass the items of a loop on, and tell of each that is done.

    Args:
        items: of the loop.
        name: what it does, in a word or two.
        total: how many items there are.
    """
    listen = _listener.get()
    if listen is None:
        yield from items
        return
    with listen(name, total) as show:
        for done, item in enumerate(items, start=1):
            yield item
            show(done)


@contextmanager
def shown_by(listener: Listener) -> Iterator[None]:
    """Have a listener show the loops of the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
