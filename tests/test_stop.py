"""Signals while a run goes on: noted once, deadly the second time."""

from __future__ import annotations

import os
import signal

import pytest
from loguru import logger

from prune.cli import console
from prune.train.stop import listening, never


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_ends(number: signal.Signals) -> None:
    said: list[str] = []
    before = signal.getsignal(number)
    with listening(said.append) as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert said == [f"{number.name}: finishing the step and saving; again ends at once"]


def test_a_signal_amid_a_line_of_the_log_is_told_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say = console.logger().info

    def interrupted(line: str) -> None:  # the log holds its lock while it calls this
        if line.startswith("a line"):
            os.kill(os.getpid(), signal.SIGINT)

    logger.add(interrupted, format="{message}")
    with listening(say):
        say("a line")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "a line"
    assert said[1].startswith("SIGINT: finishing")
    assert len(said) == 2


def test_nobody_asks_by_default() -> None:
    assert not never()
