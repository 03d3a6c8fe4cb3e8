"""BatchNorm's epsilon: other code has another than ours, and the numbers make up for it.

Ours is 1e-4, as in YOLOR and Ultralytics' YOLOv3. Darknet has 1e-5, torch's usual too.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

EPS = 1e-4
DARKNET_EPS = TORCH_EPS = 1e-5

_VARIANCE = "running_var"


def with_our_eps(state: Mapping[str, Tensor], theirs: Mapping[str, float]) -> dict[str, Tensor]:
    """Copy a state dict so that our BatchNorm computes with it what theirs does with `state`.

    Args:
        state: tensors by name; those of `BatchNorm2d` go by `weight` and `running_var`.
        theirs: epsilon by the name of its `running_var`; one that is not there has ours.
    """
    changed = dict(state)
    for name, eps in theirs.items():
        if eps == EPS or name not in state:
            continue
        scale = f"{name.removesuffix(_VARIANCE)}weight"
        variance = state[name].double()
        # A variance cannot go below zero; what is left there goes into the scale instead.
        ours = (variance + eps - EPS).clamp(min=0)
        rest = ((ours + EPS) / (variance + eps)).sqrt()
        rest = torch.where(variance + eps < EPS, rest, 1.0)
        changed[name] = ours.float()
        if scale in state:
            changed[scale] = (state[scale] * rest).float()
    return changed


def doubt(state: Mapping[str, Tensor], other: float) -> float:
    """Tell how much a channel's output changes at most with another epsilon than ours, a ratio."""
    ratios = [((state[n] + EPS) / (state[n] + other)).sqrt().max() for n in variances(state)]
    return max((float(ratio) for ratio in ratios), default=1.0) - 1.0


def variances(state: Mapping[str, Tensor]) -> list[str]:
    """List the names of a state dict's variances."""
    return [name for name in state if name.endswith(_VARIANCE)]
