"""Figures beside the files: what boards are given, and services that need not be installed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from prune.errors import InputError
from prune.train import run_log

GREY = np.zeros((4, 4, 3), dtype=np.uint8)


class Recorder(ModuleType):
    """Stands in for a package: notes every call of every name, and of what calls return."""

    def __init__(self, name: str, calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]]) -> None:
        super().__init__(name)
        self.calls = calls

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Recorder:
            self.calls.append((name, args, kwargs))
            return Recorder(name, self.calls)

        return call

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append(("end_run", (), {}))


@pytest.mark.parametrize(
    ("service", "figures", "end"),
    [("wandb", "log", "finish"), ("mlflow", "log_metrics", "end_run")],
)
def test_a_service_gets_what_tensorboard_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, service: str, figures: str, end: str
) -> None:
    package = Recorder(service, [])
    monkeypatch.setitem(sys.modules, service, package)
    with run_log.open_boards(tmp_path, service, {"epochs": 3}) as board:
        board.figures({"train/loss": 1.5}, 1)
        board.histogram("scales", torch.ones(4), 1)
        board.image("batch", GREY, 1)
    assert list(tmp_path.glob("events.out.tfevents.*"))
    assert any(
        (name, args, kwargs) == (figures, ({"train/loss": 1.5},), {"step": 1})
        for name, args, kwargs in package.calls
    )
    assert "mage" in str([name for name, _, _ in package.calls])  # wandb's Image, log_image
    assert "epochs" in str(package.calls)
    assert package.calls[-1][0] == end


@pytest.mark.parametrize("service", run_log.SERVICES)
def test_a_service_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    monkeypatch.setitem(sys.modules, service, None)
    with pytest.raises(InputError, match=f"pip install {service}"):
        run_log.expect_service(service)
    run_log.expect_service(None)


def test_only_the_services_of_the_table_are_imported() -> None:
    with pytest.raises(InputError, match="--log is 'this'; it must be wandb or mlflow"):
        run_log.expect_service("this")
    assert "this" not in sys.modules
