"""Text from files as it may be shown: whatever would steer a terminal stands there as an escape.

Class names, cfg keys, file names and plans come from strangers. Everything that is printed, logged,
drawn on images or written for people to read (labels.txt, README.md, reports) passes `visible`.
"""

from __future__ import annotations

import re

# Joiners that letters of Persian and of Indian languages and many emoji need, and wide spaces.
_HARMLESS = frozenset("\u200c\u200d\u00a0\u3000")
_MARKUP = re.compile(r"[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)")  # what acts amid a line of Markdown


def visible(text: str, *, lines: bool = False) -> str:
    r"""Write what nobody could see, or what would act, as an escape: \x1b, \n, \u202e, \udc80.

    These are control characters, marks that reverse the order of letters, invisible ones, and the
    lone surrogates that stand for bytes which are no UTF-8. A text that is visible already stays.

    Args:
        text: any text.
        lines: leave line ends and tabs as they are: for texts of several lines, not for names.
    """
    if text.isprintable():
        return text
    stays = _HARMLESS | frozenset("\n\t") if lines else _HARMLESS
    return "".join(
        letter if letter.isprintable() or letter in stays else _escaped(letter) for letter in text
    )


def markdown(text: str) -> str:
    """Write a text from a file so that Markdown and HTML show it, and do not act on it."""
    import html  # here, as below: every command starts with this file, and few come this far

    return _MARKUP.sub(r"\\\g<0>", html.escape(visible(text), quote=False))


def _escaped(letter: str) -> str:
    import unicodedata

    if unicodedata.category(letter) == "Zs":
        return letter  # the spaces of other scripts
    return letter.encode("unicode_escape").decode("ascii")
