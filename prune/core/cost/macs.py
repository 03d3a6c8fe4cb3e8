"""Count the parameters and MACs of a network on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from prune.core.trace.meta import Inputs, on_meta, run, specs


@dataclass(frozen=True)
class Cost:
    """The cost of a network or of one of its layers for one image.

    Attributes:
        params: number of parameters.
        macs: multiply-accumulate operations of convolutions and linear layers.
        output: shape of its last output; () where that is no tensor.
    """

    params: int
    macs: int
    output: tuple[int, ...] = ()

    def total(self, metric: str) -> int:
        """Return one of both costs: "macs" or "params"."""
        return {"macs": self.macs, "params": self.params}[metric]


def count(net: nn.Module, inputs: Inputs) -> Cost:
    """Count a whole network for its inputs, e.g. (1, 3, 640, 640).

    Raises:
        PlanError: the network cannot be run at these shapes.
    """
    costs = per_layer(net, inputs).values()
    params = sum(parameter.numel() for parameter in net.parameters())
    return Cost(params, sum(cost.macs for cost in costs))


def per_layer(net: nn.Module, inputs: Inputs) -> dict[str, Cost]:
    """Count every module that runs by what belongs to it alone; the parts add up to the whole.

    The MACs of a module that runs several times count each time.

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
    """Count one operation per output of a convolution or linear layer and input it reads."""
    if isinstance(module, nn.Linear) and isinstance(output, Tensor):
        return output.numel() * module.in_features
    if not isinstance(module, nn.modules.conv._ConvNd) or not isinstance(output, Tensor):
        return 0
    kernel = prod(module.kernel_size)
    if module.transposed:  # every input contributes to all outputs of its group
        source = inputs[0]
        assert isinstance(source, Tensor)
        return source.numel() * module.out_channels // module.groups * kernel
    return output.numel() * module.in_channels // module.groups * kernel
