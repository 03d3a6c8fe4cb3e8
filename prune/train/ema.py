"""The running average of the weights: what is scored and kept."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

# The published decay and ramp suit runs of many thousand updates. A small set gives a few hundred:
# there the average spans the last tenth of the run, and gets there within a tenth of it.
_DECAY, _RAMP = 0.9999, 2000.0
_SPAN_SHARE = 0.1


def average(net: nn.Module, *, updates: int) -> AveragedModel:
    """Copy `net` into a running average of its parameters and buffers.

    The decay at update t is d * (1 - exp(-t / ramp)): young averages forget fast.

    Args:
        net: the network to follow; call `update_parameters(net)` after each update of it.
        updates: how many there will be in the run.
    """
    limit, ramp = _limits(updates)

    def step(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        decay = limit * (1 - math.exp(-float(count) / ramp))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(list(averaged), list(current), 1 - decay)
        else:  # BatchNorm's counters have no average
            torch._foreach_copy_(list(averaged), list(current))

    copy = AveragedModel(net, multi_avg_fn=step, use_buffers=True)
    return copy.eval().requires_grad_(False)


def _limits(updates: int) -> tuple[float, float]:
    """Return the decay in the long run, and how many updates the ramp to it takes."""
    span = max(_SPAN_SHARE * updates, 1.0)
    return min(_DECAY, 1 - 1 / span), min(_RAMP, span)
