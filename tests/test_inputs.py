"""One door for every input: what is no regular file, too large or broken is refused in one line."""

import os
import socket
import struct
import sys
from pathlib import Path
from zipfile import BadZipFile

import pytest

from prune import inputs
from prune.errors import DataError, InputError, PlanError
from prune.inputs import (
    LIMITS,
    exists,
    is_dir,
    is_file,
    open_input,
    printable,
    read_bytes,
    read_text,
    reading,
    resolved,
    shown,
)


def test_text_reads_with_or_without_the_mark_and_lines_end_in_one_way(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(path) == "a\nb\nc\n"
    assert read_bytes(path, "text") == path.read_bytes()
    with open_input(path, "text") as handle:
        assert handle.read(3) == b"\xef\xbb\xbf"


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _socket(path: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
    return path


def _loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


ODD = {
    "pipe": (_pipe, "it is a pipe; a regular file is needed"),
    "socket": (_socket, "it is a socket; a regular file is needed"),
    "device": (lambda _: Path("/dev/zero"), "it is a device; a regular file is needed"),
    "folder": (lambda path: path.parent, "Is a directory"),
    "loop": (_loop, "Too many levels of symbolic links"),
    "missing": (lambda path: path, "No such file or directory"),
    "long": (lambda path: path.with_name("a" * 5000), "File name too long"),
    "zero": (lambda path: path.with_name("a\0b"), "a name cannot have a NUL character"),
    "surrogate": (lambda path: path.with_name("a\ud800"), "characters that no text can have"),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("make", "said"), ODD.values(), ids=ODD)
def test_only_regular_files_are_read(
    make: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = make(Path("x"))  # type: ignore[operator]
    for read in (read_bytes, open_input):
        with pytest.raises(DataError) as caught:
            read(path, "text", error=DataError)
        assert str(caught.value).startswith("cannot read ")
        assert said in str(caught.value)
        assert len(str(caught.value)) < 400
    assert not is_file(path)
    assert is_dir(path) == (said == "Is a directory")
    assert exists(path) == (said.startswith(("it is", "Is a")))
    assert resolved(path).is_absolute()


def test_a_pipe_is_refused_unopened(tmp_path: Path) -> None:
    """Its writer would take the reader for one that left."""
    path = _pipe(tmp_path / "p")
    ours = os.open(path, os.O_RDWR)
    try:
        with pytest.raises(InputError):
            open_input(path, "text")
        os.write(ours, b"still there")
    finally:
        os.close(ours)


@pytest.mark.timeout(10)
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_file_that_a_pipe_replaces_is_refused_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _pipe(tmp_path / "p")
    (tmp_path / "a").write_text("text")
    regular = (tmp_path / "a").stat()
    before = sorted(Path("/proc/self/fd").iterdir())
    with monkeypatch.context() as patch, pytest.raises(InputError, match="it is a pipe"):
        patch.setattr(os, "stat", lambda _: regular)  # as it was when it was looked at
        open_input(path, "text")
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_file_for_which_memory_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(inputs, "_read", lack)
    with pytest.raises(InputError, match="it needs more memory than there is"):
        read_bytes(__file__, "text")


def test_a_file_beyond_its_limit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LIMITS["yaml"] + 1)  # a hole: no byte is written
    with pytest.raises(InputError, match=r"large: it has 16 MB; .* 16 MB at most"):
        read_text(path, "yaml")
    # Files of /proc have a size of 0; what comes out of them counts.
    monkeypatch.setitem(inputs.LIMITS, "text", 4)
    with pytest.raises(InputError, match="at most"):
        read_bytes(Path("/proc/self/maps"), "text")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"a\nb\xff", "it is no text file: line 2 is not UTF-8"),
        ("names".encode("utf-16"), "it is UTF-16 text; save it as UTF-8"),
    ],
)
def test_what_is_not_utf8_is_said_with_its_line(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_text(path, called="the list")
    assert str(caught.value) == f"cannot read the list {path}: {said}"


def _json_error() -> Exception:
    error = ValueError("Expecting value")
    error.lineno = 7  # type: ignore[attr-defined]
    return error


RAISED = [
    (RecursionError("maximum recursion depth exceeded"), "it is nested too deeply"),
    (OverflowError("int too large"), "a number in it is too large"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "it is damaged: a text in it is not UTF-8"),
    (
        LookupError("unknown encoding: x"),
        "it is damaged or not supported (LookupError: unknown encoding: x)",
    ),
    (
        AttributeError("'tuple' object has no attribute 'dtype'"),
        "it is damaged or not supported (AttributeError: 'tuple' object has no attribute 'dtype')",
    ),
    (RuntimeError("of torch"), "RuntimeError: of torch"),
    (struct.error("unpack requires 4 bytes"), "it ends too early or is damaged"),
    (BadZipFile("File is not a zip file"), "it is a damaged archive"),
    (MemoryError(), "it needs more memory than there is"),
    (ValueError("two\nlines \x1b[31m"), "two"),
    (ValueError("x" * 10_000), "x" * 197 + "..."),
    (ValueError(), "ValueError: ValueError"),
    (_json_error(), "line 7: Expecting value"),
    (OSError(5, "Input/output error"), "Input/output error"),
]


@pytest.mark.parametrize(("raised", "said"), RAISED, ids=lambda value: type(value).__name__)
def test_whatever_a_reader_raises_is_one_line_with_the_name(raised: Exception, said: str) -> None:
    with pytest.raises(DataError) as caught, reading(Path("a.onnx"), error=DataError):
        raise raised
    assert str(caught.value) == f"cannot read a.onnx: {said}"


def test_errors_of_ours_get_the_name_once_and_keep_their_kind() -> None:
    for inner in ("amount is 2", "a.json: amount is 2"):
        with pytest.raises(PlanError) as caught, reading(Path("a.json")):
            raise PlanError(inner)
        assert str(caught.value) == "a.json: amount is 2"


def test_what_is_shown_is_short_and_printable_whatever_it_is() -> None:
    laughs: object = "x"
    for _ in range(20):
        laughs = [laughs] * 9
    itself: list[object] = []
    itself.append(itself)
    odd = [laughs, itself, 10**5000, "x" * 10**6, b"x" * 10**6, {"a": laughs}, {1: {2: itself}}]
    for value in [*odd, "\x1b[31m\u202e", "\ud800", Path("\n")]:
        text = shown(value)
        assert text.isprintable()
        assert len(text) <= 80, text
    assert shown("cat") == "'cat'"
    assert shown(7) == "7"
    assert shown("\x1b[31m") == r"'\x1b[31m'"
    assert shown(-(10**5000)) == "a whole number of about 5001 digits"
    assert printable("a\x1b[31m\nb\ud800") == r"a\x1b[31m\nb\ud800"
    assert printable("x" * 400, 10) == "xxxxxxx..."
