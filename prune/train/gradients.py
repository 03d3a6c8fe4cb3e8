"""What is done to an update's gradients between the last backward pass and the step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.utils import clip_grad_norm_


def prepare(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    clip: float,
    penalty: Callable[[], None] | None = None,
) -> None:
    """Limit the loss's gradients, then add the penalties of the weights, which no limit touches.

    A penalty that is added for several updates at once would else use up the limit of one, and come
    out weaker than one that is added each time.

    Args:
        optimizer: its groups say how strong the L1 penalty is (`l1`); its gradient is l1 * sign(w).
        scaler: what the loss was scaled by.
        clip: the largest norm of all gradients together (Pascanu et al. 2013, arXiv:1211.5063); 0
            for any.
        penalty: adds one more to the gradients; see `sparsity.PENALTIES`.
    """
    shrinking = [group for group in optimizer.param_groups if group["l1"]]
    if not clip and not shrinking and penalty is None:
        return
    scaler.unscale_(optimizer)
    if clip:
        clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    for group in shrinking:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach().sign(), alpha=group["l1"])
    if penalty is not None:
        penalty()
