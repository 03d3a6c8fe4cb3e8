"""Memory: batches that fit, and one line for those that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.errors import TrainError
from prune.models.darknet import Darknet, build
from prune.train import memory
from prune.train.settings import Settings

CPU = torch.device("cpu")
SETTINGS = Settings(epochs=1, imgsz=Size.of(64), batch_size=16)


@pytest.fixture
def net() -> Darknet:
    return build(tiny.CFG.format(width=32))


def largest(net: Darknet, settings: Settings = SETTINGS, *, images: int = 1000) -> int:
    return memory.largest_batch(net, settings, hyp=SCRATCH, device=CPU, images=images)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "cudnn", "numpy"],
)
def test_lack_of_memory_is_one_line_that_says_what_to_lower(error: Exception) -> None:
    with pytest.raises(TrainError) as found, memory.explain_shortage(SETTINGS, CPU):
        raise error
    assert str(found.value) == (
        "out of memory at batch 16, 64 px on cpu; lower --batch-size (try auto) or --img-size"
    )


def test_a_real_lack_of_memory_is_told() -> None:
    with pytest.raises(TrainError, match="out of memory"), memory.explain_shortage(SETTINGS, CPU):
        torch.empty(2**60)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), memory.explain_shortage(SETTINGS, CPU):
        raise RuntimeError("shapes do not fit")


def test_batch_is_the_largest_power_of_two_that_is_allowed(
    net: Darknet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: float("inf"))
    assert largest(net) == 64
    assert largest(net, images=23) == 16
    assert largest(net, replace(SETTINGS, nominal_batch=32)) == 32
    assert largest(net, replace(SETTINGS, nominal_batch=512)) == 64  # more helps no CPU


def test_batch_halves_with_memory_and_images_that_grow(
    net: Darknet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_bytes(free: float, settings: Settings = SETTINGS) -> int:
        monkeypatch.setattr(memory, "available", lambda: free)
        return largest(net, settings)

    free = next(2.0**n for n in range(40) if 2.0**n > 1e6 and with_bytes(2.0**n) == 16)
    assert with_bytes(free / 2) in (4, 8)
    assert with_bytes(free, replace(SETTINGS, imgsz=Size.of(128))) == 4
    assert with_bytes(free, replace(SETTINGS, multi_scale=True)) == 8
    with pytest.raises(TrainError, match="at batch 1, 64 px"):
        with_bytes(1e5)


def test_looking_for_a_batch_leaves_the_network_alone(net: Darknet) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    largest(net)
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_available_memory_is_known_here() -> None:
    assert 1e6 < memory.available() < 1e15
