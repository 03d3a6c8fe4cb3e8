"""What all tests need: a cache of their own, and a machine that is not called busy."""

from __future__ import annotations

import pytest

from prune.bench import neighbours
from prune.bench.neighbours import Neighbours
from prune.device import cores


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what commands remember out of the user's cache, and out of other tests'."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def _idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no test wait for a look at the machine, or go by it."""
    monkeypatch.setattr(neighbours, "look", lambda: Neighbours(cores(), 0.0))
