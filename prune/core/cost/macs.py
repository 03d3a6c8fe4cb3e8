"""What a network costs: parameters and multiply-adds, counted on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from prune.core.trace.meta import Inputs, on_meta, run, specs


@dataclass(frozen=True)
class Cost:
    """What a network or one of its layers costs for one picture.

    Attributes:
        params: learned numbers.
        macs: multiply-adds of convolutions and linear layers.
        output: shape of what it returned last; () where that is no tensor.
    """

    params: int
    macs: int
    output: tuple[int, ...] = ()


def count(net: nn.Module, inputs: Inputs) -> Cost:
    """Count a whole network for its inputs, e.g. (1, 3, 640, 640).

    Raises:
        PlanError: the network cannot be run at these shapes.
    """
    costs = per_layer(net, inputs).values()
    params = sum(parameter.numel() for parameter in net.parameters())
    return Cost(params, sum(cost.macs for cost in costs))


def per_layer(net: nn.Module, inputs: Inputs) -> dict[str, Cost]:
    """Count every module that runs by what it holds itself; the parts add up to the whole.

    A module that runs several times costs its multiply-adds each time.

    Raises:
        PlanError: the network cannot be run at these shapes.
    """
    copy = on_meta(net).eval()
    names = {module: name for name, module in copy.named_modules()}
    costs: dict[str, Cost] = {}

    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        before = costs.get(names[module], Cost(0, 0))
        costs[names[module]] = Cost(
            params=sum(parameter.numel() for parameter in module.parameters(recurse=False)),
            macs=before.macs + _macs(module, inputs, output),
            output=tuple(output.shape) if isinstance(output, Tensor) else (),
        )

    hooks = [module.register_forward_hook(note) for module in names]
    with torch.no_grad():
        run(copy, [spec.on_meta() for spec in specs(inputs)])
    for hook in hooks:
        hook.remove()
    return costs


def _macs(module: nn.Module, inputs: tuple[object, ...], output: object) -> int:
    """Multiply each output of a convolution or linear layer by the inputs it reads."""
    if isinstance(module, nn.Linear) and isinstance(output, Tensor):
        return output.numel() * module.in_features
    if not isinstance(module, nn.modules.conv._ConvNd) or not isinstance(output, Tensor):
        return 0
    kernel = prod(module.kernel_size)
    if module.transposed:  # there every input is spread over the outputs of its group
        source = inputs[0]
        assert isinstance(source, Tensor)
        return source.numel() * module.out_channels // module.groups * kernel
    return output.numel() * module.in_channels // module.groups * kernel
