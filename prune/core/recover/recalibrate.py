"""BatchNorm statistics from pictures: what the layers behind a cut see now is not what they saw."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.core.recover.readers import Norm
from prune.errors import InputError


def recalibrate(net: nn.Module, pictures: Iterable[Tensor]) -> None:
    """Estimate every BatchNorm's running mean and variance anew, as the average over batches.

    Everything else stays in eval mode, dropout first of all. Give the pictures as training made
    them, in batches as large: statistics of other pictures are statistics of another task.

    Args:
        net: changed in place; a network without running statistics stays as it is.
        pictures: batches, each [N, 3, H, W]; labels are not needed.

    Raises:
        InputError: no pictures.
    """
    batches = iter(pictures)
    first = next(batches, None)
    if first is None:
        raise InputError("there are no pictures to recalibrate with")
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
