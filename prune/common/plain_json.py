"""Read JSON text in which every key of an object is given once; what is wrong fits one line."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prune.common.inputs import printable, read_bytes, shown
from prune.errors import InputError, PruneError

DEPTH = 100  # lists and objects inside each other
DIGITS = 300  # of a number: the largest float has 309

_LONG = b"0" * (DIGITS + 1)
_TO_ZERO = bytes(ord("0") if chr(byte).isdecimal() else ord(" ") for byte in range(256))
_NOT_NESTING = bytes(set(range(256)) - set(b'[]{}"\\'))
_IN_QUOTES = re.compile(rb'"(?:[^"\\]|\\.)*"')
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class BrokenTextError(ValueError):
    """Text that is not of its format, or that no two programs would read the same way.

    Attributes:
        why: what is wrong.
        line: the line where it is, from 1; None where no line is known.
    """

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(why if line is None else f"line {line}: {why}")
        self.why = why
        self.line = line


class BrokenJsonError(BrokenTextError):
    """Text that is not JSON, gives a key twice, or has a value that is none."""


@contextmanager
def locating(path: Path, what: str, error: type[PruneError]) -> Iterator[None]:
    """Put file and line in front of what is wrong with a text: "a.json:3: broken JSON: ..."."""
    try:
        yield
    except BrokenTextError as broken:
        where = f"{printable(str(path))}:{broken.line}" if broken.line else printable(str(path))
        raise error(f"{where}: {what}: {broken.why}") from broken


def read_json(text: str | bytes, *, file_names: bool = False, lenient: bool = False) -> object:
    """Return what the text describes.

    Python's own reader takes the last of two equal keys and numbers that JSON lacks (NaN), and
    ends in a traceback at what is nested deeply or has thousands of digits.

    Args:
        text: JSON; bytes are UTF-8.
        file_names: whether half characters may stand in it by which Python writes names of files
            that are not UTF-8 (PEP 383), as records of ours do; all others are refused.
        lenient: pass on half characters and, as NaN, numbers that no float holds: for readers that
            check every value where they take it.

    Raises:
        BrokenJsonError: the text is not JSON, gives a key twice, or has a value that is none.
    """
    try:
        data = text.encode() if isinstance(text, str) else text.removeprefix(b"\xef\xbb\xbf")
        text = data.decode()
    except UnicodeError as error:
        raise BrokenJsonError("it is not UTF-8 text") from error
    _expect_shallow(data)
    long = _LONG in data.translate(_TO_ZERO)
    try:
        found: object = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_nan if lenient else _constant,
            parse_int=None if not long else _whole_or_nan if lenient else _whole,
        )
    except json.JSONDecodeError as error:
        raise BrokenJsonError(error.msg, error.lineno) from error
    if not lenient and _SURROGATE.search(data):
        _expect_characters(found, file_names=file_names)
    return found


def read_json_file(
    path: Path,
    kind: str = "json",
    *,
    file_names: bool = False,
    lenient: bool = False,
    error: type[PruneError] = InputError,
    called: str = "",
) -> object:
    """Return what a JSON file describes; see `read_json` and `inputs.open_input`.

    Raises:
        InputError: it cannot be read or is broken, with its line; of the kind that `error` names.
    """
    data = read_bytes(path, kind, error=error, called=called)
    with locating(path, "broken JSON", error):
        return read_json(data, file_names=file_names, lenient=lenient)


def _expect_shallow(data: bytes) -> None:
    brackets = _IN_QUOTES.sub(b"", data.translate(None, _NOT_NESTING))
    steps = map(_STEP.get, brackets, itertools.repeat(0))
    if max(itertools.accumulate(steps), default=0) > DEPTH:
        raise BrokenJsonError(f"it is nested more than {DEPTH} levels deep")


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BrokenJsonError(f"{shown(twice)} is given twice; keep one")
    return found


def _constant(text: str) -> object:
    raise BrokenJsonError(f"{text} is not a number")


def _nan(_: str) -> float:
    return math.nan


def _whole_or_nan(text: str) -> float:
    return math.nan if len(text) > DIGITS else int(text)


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise BrokenJsonError(f"a number of {len(text)} digits ({text[:10]}...) is too large")
    return int(text)


def _expect_characters(found: object, *, file_names: bool) -> None:
    """Look for halves of characters, which cannot be printed or written, in keys and values."""
    ahead = [found]
    while ahead:
        value = ahead.pop()
        if isinstance(value, dict):
            ahead += [*value, *value.values()]
        elif isinstance(value, list):
            ahead += value
        elif isinstance(value, str) and has_half_characters(value, file_names=file_names):
            raise BrokenJsonError(f"{shown(value)} has half a character (a lone surrogate)")


def has_half_characters(text: str, *, file_names: bool = False) -> bool:
    """Tell whether text has lone surrogates; `file_names` allows those of PEP 383."""
    try:
        text.encode(errors="surrogateescape" if file_names else "strict")
    except UnicodeEncodeError:
        return True
    return False
