"""An extension of griffe, which reads docstrings for the site: `Example:` is a section of code.

It knows `Examples:` alone, and takes the other for a note whose brackets are links.
"""

from __future__ import annotations

from typing import Any

import griffe


class CodeInExamples(griffe.Extension):  # type: ignore[misc]  # mypy skips it
    """Give the section its other name."""

    def on_object(self, *, obj: Any, **_: object) -> None:
        """Change a docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
