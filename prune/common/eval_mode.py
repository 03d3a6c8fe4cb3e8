"""A network that predicts inside a block and is as it was behind it, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Run a network in eval mode, without gradients, inside the `with` block.

    Each module gets its own mode back, since some may be frozen in eval mode.
    """
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
