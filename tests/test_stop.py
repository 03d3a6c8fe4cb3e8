"""Signals while a run goes on: noted once, deadly the second time."""

from __future__ import annotations

import os
import signal
import time

import pytest

from prune.train import stop
from prune.train.stop import listening, never


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_a_second_one_ends(number: signal.Signals) -> None:
    said: list[str] = []
    before = signal.getsignal(number)
    with listening(said.append) as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        assert len(said) == 1
        assert number.name in said[0]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_launcher_s_echo_is_no_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(stop, "_ECHO_S", 0.5)
    with listening(said.append, launched=True) as asked:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert asked()
        assert len(said) == 1
        time.sleep(0.6)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_nobody_asks_by_default() -> None:
    assert not never()
