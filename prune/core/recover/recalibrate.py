"""Compute BatchNorm statistics anew: behind a cut the inputs of layers have changed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.core.recover.readers import Norm
from prune.errors import InputError


def recalibrate(net: nn.Module, images: Iterable[Tensor]) -> None:
    """Estimate every BatchNorm's running mean and variance anew, as the average over batches.

    Everything else is in eval mode, such as dropout. Images should be augmented as in training, in
    batches of the same size: other images have other statistics.

    Args:
        net: changed in place, if it has running statistics.
        images: batches, each [N, 3, H, W]; labels are not needed.

    Raises:
        InputError: no images.
    """
    batches = iter(images)
    first = next(batches, None)
    if first is None:
        raise InputError("there are no images to recalibrate with")
    norms = [m for m in net.modules() if isinstance(m, Norm) and m.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    with evaluating(net):
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # the plain average
        try:
            for batch in chain([first], batches):
                net(batch)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
