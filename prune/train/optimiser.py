"""SGD with Nesterov momentum over three groups of parameters."""

from collections.abc import Mapping

import torch
from torch import nn

from prune.train.schedule import Setting

GROUPS = ("weights", "scales", "biases")


def optimiser(net: nn.Module, hyp: Mapping[str, float], *, decay_share: float) -> torch.optim.SGD:
    """Make the optimiser; only the kernels of convolutions and linears decay.

    Args:
        net: the network to train.
        hyp: `lr0`, `momentum`, `weight_decay`.
        decay_share: the batch an update sees as a share of the nominal batch; the weight decay,
            which is meant for the nominal one, is scaled by it.
    """
    groups = group(net)
    decay = {"weights": hyp["weight_decay"] * decay_share}
    return torch.optim.SGD(
        [
            {"params": list(groups[name].values()), "weight_decay": decay.get(name, 0.0)}
            for name in GROUPS
        ],
        lr=hyp["lr0"],
        momentum=hyp["momentum"],
        nesterov=True,
    )


def group(net: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Sort the parameters that train into kernels, biases, and what scales or shifts channels."""
    found: dict[str, dict[str, nn.Parameter]] = {name: {} for name in GROUPS}
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                found[_kind(module, name)][f"{prefix}.{name}".lstrip(".")] = parameter
    return found


def tell(optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    """Set the learning rates and momentum of the next update."""
    for name, options in zip(GROUPS, optimizer.param_groups, strict=True):
        options["lr"] = setting.bias_rate if name == "biases" else setting.rate
        options["momentum"] = setting.momentum


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the present learning rate of each group."""
    return {
        name: float(options["lr"])
        for name, options in zip(GROUPS, optimizer.param_groups, strict=True)
    }


def _kind(module: nn.Module, name: str) -> str:
    if name == "bias":
        return "biases"
    kernel = isinstance(module, (nn.Conv2d, nn.Linear)) and name == "weight"
    return "weights" if kernel else "scales"
