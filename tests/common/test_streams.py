"""The standard streams: nothing steers the terminal, and what happens to them ends no run."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from prune import cli
from prune.cli import console
from prune.common import streams
from prune.common.notes import note
from prune.errors import InputError


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text: str, /) -> int:
        """Fail."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Gone(io.StringIO):
    """A pipe that nobody reads any more."""

    def flush(self) -> None:
        """Fail."""
        raise BrokenPipeError


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


Run = Callable[[], int | None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], int]:
    """Run a function as the command `doctor` is run."""
    from prune.cli import doctor

    def run(inner: Run) -> int:
        monkeypatch.setattr(doctor, "run", lambda _: inner())
        return cli.main(["doctor"])

    return run


def test_nothing_from_a_file_steers_the_terminal(
    command: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    name = "\x1b[31mred\x07\x9b\u202e\udc80\n"

    def everywhere() -> None:
        print(name, end="")
        console.print_text(name)
        console.print_table((name, "n"), [(name, 1)])
        console.print_json({name: name + "\x7f"})
        note(name)
        console.logger().info(name)
        raise InputError(name)

    assert command(everywhere) == 2
    out, err = capsys.readouterr()
    assert not set(out + err) & set(name) - set("\n[31mred")
    shown = r"\x1b[31mred\x07\x9b\u202e\udc80"
    assert err.splitlines() == [rf"note: {shown}\n", rf"{shown}\n", f"prune: {shown}"]
    assert out.count(shown + "\\n") == 3
    document = out[out.index("{") :]
    assert json.loads(document) == {name: name + "\x7f"}
    assert document.isascii()


@pytest.mark.parametrize(("stream", "line"), [(Full, True), (Gone, False)])
def test_a_command_whose_words_are_lost_does_its_work_and_returns_1(
    command: Callable[[Run], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stream: type[io.StringIO],
    line: bool,
) -> None:
    done = []

    def work() -> None:
        print("a table", flush=True)
        done.append("a file")

    monkeypatch.setattr(sys, "stdout", stream())
    assert command(work) == 1
    assert done
    said = "prune: cannot write to the standard output: No space left on device\n"
    assert capsys.readouterr().err == said * line


def test_a_failure_of_the_machine_is_one_line_and_a_mistake_of_ours_a_traceback(
    command: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(number: int) -> None:
        raise OSError(number, os.strerror(number), "/tmp/draft.onnx")

    assert command(lambda: fail(errno.ENOSPC)) == 1
    assert capsys.readouterr().err == "prune: /tmp/draft.onnx: No space left on device\n"
    with pytest.raises(FileNotFoundError):
        command(lambda: fail(errno.ENOENT))


def test_memory_that_is_not_there_is_one_line(
    command: Callable[[Run], int], capsys: pytest.CaptureFixture[str]
) -> None:
    def large() -> None:
        np.empty((2**20, 2**20, 2**16))

    assert command(large) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("prune: out of memory: Unable to allocate 512. PiB")


def test_help_that_cannot_be_printed_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit) as left:
        cli.main(["show", "--help"])
    assert left.value.code == 1


def test_an_error_keeps_its_status_when_it_cannot_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    assert cli.main(["nonsense"]) == 2


@pytest.mark.parametrize(
    ("redirected", "status"),
    [(">&-", 1), ("2>&-", 0), (">&- 2>&-", 1), ("<&-", 0), ("| true; exit ${PIPESTATUS[0]}", None)],
)
def test_closed_streams_are_no_traceback(redirected: str, status: int | None) -> None:
    command = f"{sys.executable} -m prune --help {redirected}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status or (status is None and done.returncode in (0, 1))
    assert done.stderr in ("", "prune: cannot write to the standard output: Bad file descriptor\n")


def test_an_encoding_that_lacks_the_letters_is_no_traceback() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", "prune", "圆"], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 2
    assert rb"unknown command '\u5706'" in done.stderr


def test_a_table_in_letters_that_the_encoding_lacks_has_escapes(
    command: Callable[[Run], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    before = sys.stdout
    assert command(lambda: print("圆")) == 0
    assert sys.stdout is before
    assert written.getvalue() == b"\\u5706\n"


def test_a_note_that_is_lost_is_told_by_the_status(
    command: Callable[[Run], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Full())
    assert command(lambda: note("something")) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_behind_the_standard_output_is_one_line_at_the_end() -> None:
    command = f"env -u PYTHONUNBUFFERED {sys.executable} -m prune --help > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    said = "prune: cannot write to the standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    program = (
        "import os, sys; from prune.common import streams\n"
        "with streams.opened(): sys.stderr.write(str(os.open(os.devnull, os.O_RDONLY) > 2))"
    )
    command = f"{sys.executable} -c '{program}' <&- >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == "True"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_end_every_command_as_ctrl_c_does(
    command: Callable[[Run], int], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    from prune.common.files import replacing

    def work() -> None:
        with replacing(tmp_path / "a.txt"):
            os.kill(os.getpid(), getattr(signal, name))

    before = signal.getsignal(getattr(signal, name))
    assert command(work) == 130
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "prune: stopped\n"
    assert signal.getsignal(getattr(signal, name)) == before


def test_a_signal_that_is_ignored_stays_ignored(command: Callable[[Run], int]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert command(lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_long_line_is_wrapped_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = "note: " + "some words that go on " * 5
    assert streams.fitted(text, io.StringIO()) == text
    lines = streams.fitted(text, Terminal()).splitlines()
    assert all(len(line) <= 40 for line in lines)
    assert [line.startswith("  ") for line in lines] == [False] + [True] * (len(lines) - 1)
    assert " ".join(line.strip() for line in lines) == text.strip()


@pytest.mark.parametrize("after", ["", "; it goes on for some more words", ") and more words yet"])
def test_a_command_in_a_text_stays_in_one_line(monkeypatch: pytest.MonkeyPatch, after: str) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    again = "prune train --weights a.pt --data 'my data.yaml' --img-size 288 352"
    text = f"prune: stopped and saved; to go on: {again}{after}"
    assert again in streams.fitted(text, Terminal())
