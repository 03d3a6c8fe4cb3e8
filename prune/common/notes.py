"""Remarks that a command makes once, however often its steps come across the same thing."""

_said: set[str] = set()


def note(text: str) -> None:
    """Log a remark as one line on stderr, unless this command has logged it already."""
    if text not in _said:
        from loguru import logger  # here, so that commands without remarks do not import it

        _said.add(text)
        logger.warning(f"note: {text}")


def forget() -> None:
    """Begin a new command, which makes its remarks anew."""
    _said.clear()
