"""Remarks that a command makes once, however often its steps come across the same thing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str], None]
"""What a function reports its progress and its remarks to, one line each."""


def silent(line: str) -> None:
    """Report nothing: the default where a function takes a `Report`."""


_said: set[str] = set()
_quiet = False


def note(text: str) -> None:
    """Log a remark as one line on stderr, unless this command has logged it already."""
    if text not in _said and not _quiet:
        from loguru import logger  # here, so that commands without remarks do not import it

        _said.add(text)
        logger.warning(f"note: {text}")


def forget() -> None:
    """Begin a new command, which makes its remarks anew."""
    _said.clear()


@contextmanager
def without_notes() -> Iterator[None]:
    """Make no remarks in the block, on what is read again later."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before
