"""BatchNorm over the pictures of all processes (--sync-bn), as one process with all would see them.

Nothing in the network changes: while it looks at pictures, the function that its BatchNorms call is
another. torch's own SyncBatchNorm replaces modules, and knows GPUs only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own habit)
from torch.overrides import TorchFunctionMode

from prune.train.distributed import Team


class SharedStatistics(TorchFunctionMode):
    """While entered, BatchNorms in training mode normalise by what all processes see."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call a function of torch, or ours in its place."""
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))  # type: ignore[arg-type]  # torch's own
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
        mean, squares, count = moments(input.detach(), self.team)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(squares / (count - 1).clamp(min=1), momentum)
        fixed = mean, (squares / count + eps).rsqrt(), count
        normalise = cast(Callable[..., Tensor], _Normalise.apply)
        return normalise(input, weight, bias, fixed, self.team)


def moments(values: Tensor, team: Team) -> tuple[Tensor, Tensor, Tensor]:
    """Return what all processes' values [N, C, H, W] give; N may be zero here, not everywhere.

    Joined from each one's own mean and squares (Chan et al. 1979), which loses no digits.

    Returns:
        Mean [C], sum of squared deviations from it [C], values a channel [1]; float32.
    """
    values, channels = values.float(), values.shape[1]
    count = values.numel() // channels
    mean = values.sum(dim=(0, 2, 3)) / max(count, 1)  # [C]
    squares = (values - _along(mean)).square().sum(dim=(0, 2, 3))  # [C]
    every = team.stack(torch.cat((mean, squares, mean.new_tensor([count]))))  # [R, 2 C + 1]
    means, squares, counts = torch.split(every, [channels, channels, 1], dim=1)
    total = counts.sum(dim=0)  # [1]
    mean = (counts * means).sum(dim=0) / total
    return mean, (squares + counts * (means - mean).square()).sum(dim=0), total


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation * weight + bias, where mean and deviation depend on all processes."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's own type has none of what it carries
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        fixed: tuple[Tensor, Tensor, Tensor],
        team: Team,
    ) -> Tensor:
        mean, inverse, count = fixed
        ctx.save_for_backward(values, weight, mean, inverse, count)
        ctx.team = team
        scale = weight * inverse
        normalised = values.float() * _along(scale) + _along(bias - mean * scale)
        return normalised.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, inverse, count = ctx.saved_tensors
        slope = gradient.float()
        unit = (values.float() - _along(mean)) * _along(inverse)
        own = torch.stack((slope.sum(dim=(0, 2, 3)), (slope * unit).sum(dim=(0, 2, 3))))  # [2, C]
        shift, stretch = ctx.team.sum(own) / count  # [C] each
        back = _along(weight * inverse) * (slope - _along(shift) - unit * _along(stretch))
        # The scale's and shift's gradients are this process's; they are summed like all others.
        return back.to(values.dtype), own[1], own[0], None, None


def _along(channels: Tensor) -> Tensor:
    """Shape values a channel, [C], to go with pictures, [1, C, 1, 1]."""
    return channels[None, :, None, None]
