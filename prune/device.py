"""Choose the device a command runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune.errors import DeviceError

if TYPE_CHECKING:
    import torch


def choose(name: str = "") -> torch.device:
    """Turn `--device` into a device: "" takes the first GPU if there is one, else the CPU.

    Args:
        name: "", "cpu", a GPU's number such as "0", or "cuda:0".

    Raises:
        DeviceError: the machine has no such device.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    wanted = name.strip().lower().removeprefix("cuda").removeprefix(":")
    if wanted == "cpu" or (not name and not gpus):
        return torch.device("cpu")
    index = wanted or "0"
    if not index.isdecimal():
        raise DeviceError(f"device is {name!r}; it must be cpu or one GPU's number, e.g. 0")
    if int(index) >= gpus:
        have = f"{gpus} GPU(s), numbered from 0" if gpus else "no GPU that torch can use; try cpu"
        raise DeviceError(f"device is {name!r}, but this machine has {have}")
    return torch.device("cuda", int(index))
