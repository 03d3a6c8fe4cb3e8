"""Loops that take long are shown: on a terminal as a bar, elsewhere as a line now and then."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator

import pytest

from prune.cli import bars
from prune.common.progress import shown_by, tracked
from prune.runtimes import doubts, other_processes
from prune.runtimes.other_processes import Neighbours
from prune.runtimes.timing import Ratio

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        """Say that it is one."""
        return True


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves."""
    clock = [0.0]
    monkeypatch.setattr("prune.cli.bars.time.monotonic", lambda: clock[0])
    return clock


def _loop(now: list[float], *, seconds: float, steps: int = 10) -> Iterator[int]:
    for number in range(steps):
        now[0] += seconds
        yield number


def test_without_a_listener_a_loop_is_just_passed_on() -> None:
    assert list(tracked("abc", "letters", 3)) == ["a", "b", "c"]


def test_without_a_terminal_a_line_comes_now_and_then(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with shown_by(bars.shown):
        assert list(tracked(_loop(now, seconds=20), "layer timing", 10)) == list(range(10))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "prune: layer timing: 2 of 10, about 0:02:40 left"
    assert len(lines) == 4, "every other step"


def test_a_short_loop_is_not_shown(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with shown_by(bars.shown):
        list(tracked(_loop(now, seconds=0.5), "short", 10))
    assert not capsys.readouterr().err


def test_on_a_terminal_a_bar_shows_name_count_and_time_left(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    with shown_by(bars.shown):
        for _ in tracked(_loop(now, seconds=2), "layer timing", 10):
            list(tracked(_loop(now, seconds=2, steps=2), "inner", 2))
    assert "layer timing" in terminal.getvalue() and "/10" in terminal.getvalue()
    assert not bars._open, "the terminal is given back"


def test_a_loop_that_is_broken_off_gives_the_cursor_back(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    loop = tracked(_loop(now, seconds=2), "stopped", 10)  # held, as by a traceback
    with pytest.raises(KeyboardInterrupt), bars.drawn():
        for number in loop:
            if number == 5:
                raise KeyboardInterrupt
    assert not bars._open
    assert terminal.getvalue().rindex(SHOW_CURSOR) > terminal.getvalue().rindex(HIDE_CURSOR)
    loop.close()  # type: ignore[attr-defined]  # a generator


def test_every_command_that_measures_says_the_same_of_a_busy_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    doubts.note_if_busy(said.append, threads=2)
    doubts.note_if_unsure(said.append, [Ratio(0.5, 0.49, 0.51)], remedy="wait")
    assert not said
    monkeypatch.setattr(other_processes, "look", lambda: Neighbours(2, 1.5))
    doubts.note_if_busy(said.append, threads=2)
    doubts.note_if_unsure(said.append, [Ratio(0.5, 0.4, 0.51)], remedy="wait")
    assert said == [
        "note: the machine is busy: other processes take 1.5 of 2 core(s); trust ratios, not "
        "milliseconds",
        "note: ratios are known to 20 % only; wait",
    ]
