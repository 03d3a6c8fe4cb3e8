"""Feature imitation: what stands before a network's heads, compared with its teacher's.

Widths may differ, so a 1x1 adapter takes the one to the other (FitNets, Romero et al. 2015,
arXiv:1412.6550). The best adapter is known in closed form, by least squares; it is worked out on
the first batch of every epoch instead of being trained: no optimiser holds it, and nothing has to
be taken off the network in the end. The loss is the share of the teacher's variance that is not
explained, so that it needs no gain of its own for every level or network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  everybody's name for it

_RIDGE = 1e-3  # of the features' mean square: channels that say the same do not blow up


@torch.no_grad()
def solved(
    features: Tensor, taught: Tensor, *, whole: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Fit an adapter by ridge least squares.

    Args:
        features: of the network, [N, C, ny, nx].
        taught: of the teacher, [N, T, ny, nx].
        whole: where these are a share of a batch: sums tensors over all shares.

    Returns:
        Weights and, last, the constant, [T, C + 1].
    """
    x = _rows(features)  # [P, C]
    x = torch.cat((x, x.new_ones(len(x), 1)), dim=1)  # [P, C + 1]
    square, cross = x.T @ x, x.T @ _rows(taught)  # [C + 1, C + 1], [C + 1, T]
    if whole is not None:
        square, cross = whole(square), whole(cross)
    ridge = torch.full_like(square.diagonal(), _RIDGE * float(square.diagonal().mean()))
    ridge[-1] = 1e-6 * square[-1, -1]  # of the places; the constant is not shrunk, or hardly
    adapter: Tensor = torch.linalg.solve(square + ridge.diag(), cross)
    return adapter.T.contiguous()


def feature_loss(
    features: Sequence[Tensor], taught: Sequence[Tensor], adapters: Sequence[Tensor]
) -> Tensor:
    """Return the mean over levels of the share of the teacher's variance not explained.

    Args:
        features: of the network, one a head, [N, C, ny, nx].
        taught: of the teacher, likewise, [N, T, ny, nx], without gradient.
        adapters: what `solved` gave, one a head, [T, C + 1].

    Returns:
        A scalar: 0 where all is explained, 1 where no more than the mean is.
    """
    shares = [_unexplained(*level) for level in zip(features, taught, adapters, strict=True)]
    return torch.stack(shares).mean()


def _unexplained(features: Tensor, taught: Tensor, adapter: Tensor) -> Tensor:
    wished = taught.float()
    found = F.conv2d(features.float(), adapter[:, :-1, None, None], adapter[:, -1])
    variance = (wished - wished.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    return (found - wished).square().mean() / variance.clamp(min=1e-12)


def _rows(features: Tensor) -> Tensor:
    """Put channels last and everything else into rows, float32 [P, C]."""
    return features.float().movedim(1, -1).flatten(0, -2)
