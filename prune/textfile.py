"""Read text files: UTF-8, with or without the byte order mark that Windows' editors write."""

from __future__ import annotations

from pathlib import Path

from prune.errors import InputError


def read_text(path: Path, *, error: type[InputError] = InputError, called: str = "") -> str:
    """Read a text file whole.

    Args:
        path: the file.
        error: what is raised where it cannot be read.
        called: what the file is, for the message: "the class names in".

    Raises:
        InputError: the file cannot be read, or is no text; of the kind that `error` names.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        why = cause.strerror if isinstance(cause, OSError) else "it is no text file"
        raise error(f"cannot read {f'{called} ' if called else ''}{path}: {why}") from cause
