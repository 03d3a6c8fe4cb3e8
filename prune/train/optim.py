"""SGD or AdamW over groups of parameters: by kind, and by their layer's factor."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prune.common.hyperparameters import named
from prune.train.schedule import Setting

GROUPS = ("weights", "scales", "biases")
_SECOND_BETA = 0.999


def optimiser(
    net: nn.Module,
    hyp: Mapping[str, float],
    *,
    decay_share: float,
    factors: Mapping[int, float] | None = None,
) -> torch.optim.Optimizer:
    """Make the optimizer; only the kernels of convolutions and linears decay.

    Args:
        net: the network to train.
        hyp: `optimizer`, `lr0`, `momentum`, `weight_decay`, `l1`.
        decay_share: the batch an update sees as a share of the nominal batch; weight decay and L1
            penalty, which are meant for the nominal one, are scaled by it.
        factors: what the learning rates of some layers are multiplied by, by their indices.
    """
    groups = [
        {
            "params": list(members.values()),
            "weight_decay": hyp["weight_decay"] * decay_share if kind == "weights" else 0.0,
            "l1": hyp["l1"] * decay_share if kind == "weights" else 0.0,
            "kind": kind,
            "factor": factor,
        }
        for (kind, factor), members in group(net, factors).items()
    ]
    return OPTIMIZERS[named("optimizer", hyp)](groups, hyp)


def _sgd(groups: list[dict[str, Any]], hyp: Mapping[str, float]) -> torch.optim.Optimizer:
    # fused: half the time of the loop over tensors on a CPU, a few launches on a GPU
    return torch.optim.SGD(
        groups, lr=hyp["lr0"], momentum=hyp["momentum"], nesterov=True, fused=True
    )


def _adamw(groups: list[dict[str, Any]], hyp: Mapping[str, float]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=hyp["lr0"], betas=(hyp["momentum"], _SECOND_BETA), fused=True
    )


# Each takes the groups of parameters, as `group` sorts them, and the hyper-parameters.
OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}
# Copies of the weights that each keeps from update to update.
COPIES = {"sgd": 1, "adamw": 2}


def group(
    net: nn.Module, factors: Mapping[int, float] | None = None
) -> dict[tuple[str, float], dict[str, nn.Parameter]]:
    """Sort the parameters that train into kernels, biases, and what scales or shifts channels.

    Each kind is split further by the factors of the layers, where they differ.
    """
    found: dict[tuple[str, float], dict[str, nn.Parameter]] = {(kind, 1.0): {} for kind in GROUPS}
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                key = _kind(module, name), _factor(prefix, factors or {})
                found.setdefault(key, {})[f"{prefix}.{name}".lstrip(".")] = parameter
    return found


def tell(optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    """Set the learning rates and momentum of the next update."""
    for options in optimizer.param_groups:
        rate = setting.bias_rate if options["kind"] == "biases" else setting.rate
        options["lr"] = options["factor"] * rate
        if "betas" in options:
            options["betas"] = (setting.momentum, _SECOND_BETA)
        else:
            options["momentum"] = setting.momentum


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the present learning rate of each group."""
    return {_called(options): float(options["lr"]) for options in optimizer.param_groups}


def _called(options: Mapping[str, Any]) -> str:
    """Name a group of parameters: weights, or weights x 0.1."""
    kind, factor = options["kind"], options["factor"]
    return str(kind) if factor == 1 else f"{kind} x {factor:g}"


def _kind(module: nn.Module, name: str) -> str:
    if name == "bias":
        return "biases"
    kernel = isinstance(module, (nn.Conv2d, nn.Linear)) and name == "weight"
    return "weights" if kernel else "scales"


def _factor(module: str, factors: Mapping[int, float]) -> float:
    """Look up the factor of the layer that a module such as module_list.7.Conv2d belongs to."""
    parent, _, rest = module.partition(".")
    index = rest.partition(".")[0]
    return factors.get(int(index), 1.0) if parent == "module_list" and index else 1.0
