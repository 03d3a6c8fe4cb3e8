"""Numbers as files and users write them, in digits that every other tool reads alike."""


def whole(text: str) -> int:
    """Read a whole number; int() alone takes 1_0 for 10, and digits of any script.

    Raises:
        ValueError: the text is none.
    """
    return int(_plain(text))


def real(text: str) -> float:
    """Read a number, finite or not, as `whole` does.

    Raises:
        ValueError: the text is none.
    """
    return float(_plain(text))


def _plain(text: str) -> str:
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is no number")
    return text
