"""Standard output and standard error as every command uses them: one door out.

What is written there cannot steer the terminal (see `visible`), is never more than its encoding
can say, and never ends a run: where the disk is full, the stream closed or its reader gone, the
command goes on, writes its files, and its exit status says that words were lost.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol, TextIO, cast

from prune.common.visible import visible

LOST = 1  # exit status of a command that did its work, and could not print all of it
_INDENT = "  "
# A command in a text, up to the value of its last option: pasted, it must be one line.
_COMMAND = re.compile(
    r"\bprune [a-z]+(?:(?: \S*[^\s;,)])* --\S*[^\s;,)](?: \S*[^\s;,)]){0,2}|(?: \S*[^\s;,)]){0,2})"
)
_GLUE = "\0"  # in place of a command's spaces while its text is wrapped


class _Writable(Protocol):
    def write(self, text: str, /) -> int: ...

    def flush(self) -> None: ...


class Stream:
    """A text stream that shows what it writes, and remembers what it could not write."""

    def __init__(self, under: TextIO | None) -> None:
        self.under: _Writable = _Closed() if under is None else under
        self.lost: OSError | None = None
        if reconfigure := getattr(under, "reconfigure", None):
            reconfigure(errors="backslashreplace")

    def write(self, text: str, /) -> int:
        """Write a text; once something was lost, nothing."""
        if self.lost is None:
            try:
                self.under.write(visible(text, lines=True))
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write what is in the buffers."""
        if self.lost is None:
            try:
                self.under.flush()
            except OSError as error:
                self._lose(error)

    def __getattr__(self, name: str) -> object:
        return getattr(self.under, name)

    def _lose(self, error: OSError) -> None:
        """Remember the first failure; what is in the buffers goes nowhere, else exiting fails."""
        self.lost = error
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, cast(TextIO, self.under).fileno())
            os.close(nowhere)


class _Closed:
    """In place of a stream that was closed before the command began."""

    encoding = "utf-8"

    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False


@contextmanager
def libraries_silent() -> Iterator[None]:
    """Drop what compiled libraries write to standard error in the block: they raise it as well."""
    try:
        kept = os.dup(2)
    except OSError:  # closed: nothing is to be seen anyway
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def opened() -> Iterator[tuple[Stream, Stream]]:
    """Put both streams in place for a command."""
    _occupy_closed()
    before = sys.stdout, sys.stderr
    streams = Stream(sys.stdout), Stream(sys.stderr)
    sys.stdout, sys.stderr = cast("tuple[TextIO, TextIO]", streams)
    try:
        yield streams
    finally:
        sys.stdout, sys.stderr = before


def settled(status: int, streams: tuple[Stream, Stream]) -> int:
    """Flush; return the exit status, which is not 0 where words were lost, and say so if possible.

    A reader that went away, as `head` does, knows: no word of that.
    """
    out, err = streams
    out.flush()
    if out.lost is not None and not isinstance(out.lost, BrokenPipeError):
        log(f"prune: cannot write to the standard output: {out.lost.strerror}")
    err.flush()
    lost = out.lost is not None or err.lost is not None
    return status or (LOST if lost else 0)


def log(text: str) -> None:
    """Write one line on stderr; what comes from files cannot make it two."""
    if sys.stderr is not None:  # closed, in a worker process
        sys.stderr.write(fitted(visible(text), sys.stderr) + "\n")


def log_remarks() -> None:
    """Have loguru, by which any layer makes its remarks, write them as plain lines on stderr."""
    from loguru import logger  # here: a command without remarks does not import it

    logger.remove()
    logger.add(lambda line: log(str(line).removesuffix("\n")), format="{message}", level="INFO")


def fitted(text: str, stream: TextIO) -> str:
    """Wrap a line at words where it goes to a terminal that is narrower; commands stay whole."""
    if not stream.isatty() or len(text) <= (room := _columns(stream)):
        return text
    glued = _COMMAND.sub(lambda found: found[0].replace(" ", _GLUE), text)
    lines = textwrap.wrap(
        glued,
        room,
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace(_GLUE, " ")


def bare(stream: TextIO) -> TextIO:
    """Return the stream itself, for those who draw on the terminal by control characters."""
    return cast(TextIO, stream.under) if isinstance(stream, Stream) else stream


def _columns(stream: TextIO) -> int:
    with suppress(OSError, ValueError):
        if not os.environ.get("COLUMNS"):
            return os.get_terminal_size(stream.fileno()).columns or 80
    return shutil.get_terminal_size().columns


def _occupy_closed() -> None:
    """Keep the numbers of closed standard streams from files: what libraries print would go there.

    The system gives the lowest free number, so that each gets its own.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
