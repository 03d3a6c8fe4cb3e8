"""Where what took long to find is kept for the next time: never beside the user's own files."""

from __future__ import annotations

import os
from pathlib import Path


def folder(kind: str) -> Path:
    """Name the folder of a kind of files, after the XDG base directory specification.

    That ignores a path that is not absolute.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    base = named if named.is_absolute() else Path.home() / ".cache"
    return base / "prune" / kind
