"""Signals while a run goes on: noted once, deadly the second time."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from loguru import logger

from prune.cli import console
from prune.train import stopping
from prune.train.stopping import catch_signals, never


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_ends(number: signal.Signals) -> None:
    said: list[str] = []
    before = signal.getsignal(number)
    with catch_signals(said.append) as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before
    assert said == [f"{number.name}: finishing the step and saving; again ends at once"]


def test_another_thread_than_the_first_listens_to_nothing() -> None:
    """Python lets the main thread alone handle signals; a server may detect in any."""
    asked: list[bool] = []

    def run() -> None:
        with catch_signals(print) as stopped:
            asked.append(stopped())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert asked == [False]


def test_a_signal_amid_a_line_of_the_log_is_told_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say = console.logger().info

    def interrupted(line: str) -> None:  # the log holds its lock while it calls this
        if line.startswith("a line"):
            os.kill(os.getpid(), signal.SIGINT)

    logger.add(interrupted, format="{message}")
    with catch_signals(say):
        say("a line")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "a line"
    assert said[1].startswith("SIGINT: finishing")
    assert len(said) == 2


def test_a_launcher_s_echo_is_no_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(stopping, "_ECHO_S", 0.5)
    with catch_signals(said.append, launched=True) as asked:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        time.sleep(0.6)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert len(said) == 1


def test_nobody_asks_by_default() -> None:
    assert not never()
