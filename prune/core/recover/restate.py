"""Restate BatchNorms for their present inputs: the same function, ready for training.

Least squares makes outputs smaller, but the statistics of BatchNorms do not change with them. In
eval mode that is right; training normalises by the batch instead, which undoes the fit: a network
at 0.46 mAP began its fine-tuning at 0.25. So the statistics become those of the present inputs, and
scale and shift compensate for the difference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.core.recover.readers import Norm


@dataclass
class _Moments:
    """Sums over every value of a channel: how many, of values and of squares, [C]."""

    number: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Add values, [N, C, ...]."""
        rows = values.transpose(0, 1).flatten(1).double()  # [C, M]
        self.number += rows.shape[1]
        self.total = self.total + rows.sum(dim=1)
        self.squares = self.squares + rows.square().sum(dim=1)


def restate(net: nn.Module, images: Iterable[Tensor]) -> None:
    """Set running statistics to those of the images without changing what the network computes.

    With x the input of a BatchNorm, g (x - m) / s + b stays the same number when m and s become the
    mean and deviation of x, g becomes g s_new / s and b becomes b + g (m_new - m) / s.

    Args:
        net: changed in place; BatchNorms without scale, shift or statistics stay as they are.
        images: batches, each [N, 3, H, W].
    """
    norms = [m for m in net.modules() if isinstance(m, Norm) and m.affine and m.track_running_stats]
    moments = {norm: _Moments() for norm in norms}

    def note(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        moments[norm].add(inputs[0])  # type: ignore[index]  # only norms carry the hook

    hooks = [norm.register_forward_pre_hook(note) for norm in norms]
    try:
        with evaluating(net):
            for batch in images:
                net(batch)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, found in moments.items():
        if found.number:
            _take_up(norm, found)


@torch.no_grad()
def _take_up(norm: nn.modules.batchnorm._BatchNorm, found: _Moments) -> None:
    mean = torch.as_tensor(found.total) / found.number
    variance = (torch.as_tensor(found.squares) / found.number - mean.square()).clamp(min=0)
    assert norm.running_mean is not None and norm.running_var is not None
    before, after = ((v.double() + norm.eps).sqrt() for v in (norm.running_var, variance))
    norm.bias.add_((norm.weight * (mean - norm.running_mean) / before).to(norm.bias))
    norm.weight.mul_((after / before).to(norm.weight))
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
