"""What all tests need: a cache of their own, and a machine that is not called busy."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from prune.common.device import cores
from prune.runtimes import other_processes
from prune.runtimes.other_processes import Neighbours

# A shell that starts the tests in its background has them, and all they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine makes an example slow, and says nothing about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what commands remember out of the user's cache, and out of other tests'."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no test wait for a look at the machine, or go by it."""
    monkeypatch.setattr(other_processes, "look", lambda: Neighbours(cores(), 0.0))


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    """Give the number of threads back: bench sets it for a process, and sums differ by it."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)
