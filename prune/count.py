"""What a network costs: parameters and multiply-adds, counted on shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from prune.errors import PlanError
from prune.shapes import Shapes, on_meta


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


def count(net: nn.Module, shape: tuple[int, ...]) -> Cost:
    """Count a whole network for an input of `shape`, e.g. (1, 3, 640, 640).

    Raises:
        PlanError: the network cannot be run at this shape.
    """
    costs = per_layer(net, shape).values()
    params = sum(parameter.numel() for parameter in net.parameters())
    return Cost(params, sum(cost.macs for cost in costs))


def per_layer(net: nn.Module, shape: tuple[int, ...]) -> dict[str, Cost]:
    """Count every module that runs by what it holds itself; the parts add up to the whole.

    A module that runs several times costs its multiply-adds each time.

    Raises:
        PlanError: the network cannot be run at this shape.
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
    try:
        with Shapes(), torch.no_grad():
            copy(torch.empty(shape, device="meta"))
    except RuntimeError as error:
        raise PlanError(f"the network cannot be run with {shape}: {error}") from error
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
