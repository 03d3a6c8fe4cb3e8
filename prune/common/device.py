"""The device a command runs on: which one, how many cores, and whether results repeat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prune.errors import DeviceError

if TYPE_CHECKING:
    import torch


def choose(name: str = "", *, process: int | None = None) -> torch.device:
    """Turn `--device` into a device: "" takes the first GPU if there is one, else the CPU.

    Args:
        name: "", "cpu", a GPU's number such as "0", or "cuda:0".
        process: this process's number among those on this machine, where several share the work;
            it takes the GPU of that number.

    Raises:
        DeviceError: the machine has no such device.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = name.strip().lower().removeprefix("cuda").removeprefix(":")
    if process is not None and wanted != "cpu" and gpus:
        return _own(name, process, gpus)
    if wanted == "cpu" or (not name and not gpus):
        return torch.device("cpu")
    index = wanted or "0"
    if not index.isdecimal():
        raise DeviceError(f"device is {name!r}; it must be cpu or one GPU's number, e.g. 0")
    if int(index) >= gpus:
        have = f"{gpus} GPU(s), numbered from 0" if gpus else "no GPU that torch can use; try cpu"
        raise DeviceError(f"device is {name!r}, but this machine has {have}")
    return torch.device("cuda", int(index))


def cores() -> int:
    """Count the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def repeatable(wanted: bool = True) -> Iterator[None]:
    """Let torch use only what gives the same result in every run, for the length of the block.

    Enter it before anything runs on a GPU: cuBLAS reads its setting when it starts.

    Raises:
        DeviceError: an operation in the block has no such way to be computed on its device.
    """
    import torch

    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).partition(",")[0].partition("\n")[0]
        raise DeviceError(f"deterministic is more than this device can: {reason}") from error
    finally:
        torch.use_deterministic_algorithms(before)


def _own(name: str, process: int, gpus: int) -> torch.device:
    """Return the GPU of one of several processes."""
    import torch

    if name:
        raise DeviceError(
            f"device is {name!r}, but every process takes a GPU of its own; leave --device out, "
            "and choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    if process >= gpus:
        raise DeviceError(f"process {process} of this machine finds no GPU; it has {gpus}")
    return torch.device("cuda", process)


@contextmanager
def vanishing_as_zero() -> Iterator[None]:
    """Take vanishing numbers for zero in the block: arithmetic on them is many times slower."""
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
