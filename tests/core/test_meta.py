"""Shapes without values: what the table answers is what torch computes."""

import subprocess
import sys
from collections.abc import Callable

import nets
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prune.core.trace.meta import Shapes, copied, on_meta

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": nn.Conv2d(6, 4, (3, 2), stride=2, padding=1, dilation=(1, 2), groups=2),
    "one axis": lambda x: nn.Conv1d(6, 4, 3)(x.flatten(2)),
    "transposed": nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
    "batch norm": nn.BatchNorm2d(6).eval(),
    "cat": lambda x: torch.cat((x, x[:, :2]), dim=1),
    "cat from behind": lambda x: torch.cat((x, x[..., :2]), dim=-1),
    "add": lambda x: x + x[:, :1, :1],
    "add a number": lambda x: x + 1,
    "add twice": lambda x: torch.add(x, x, alpha=2),
    "mul by fewer axes": lambda x: x * x[0, :, :1, :1],
    **{
        function.__name__: function
        for function in (
            *(functional.elu, functional.hardsigmoid, functional.hardswish, functional.relu6),
            *(functional.leaky_relu, functional.mish, functional.relu, torch.sigmoid),
            *(functional.silu, functional.softplus, torch.tanh),
        )
    },
    "max pool": nn.MaxPool2d(3, stride=2, padding=1),
    "max pool, ceiling": nn.MaxPool2d(2, ceil_mode=True),
    "max pool, dilated": nn.MaxPool2d(2, dilation=2),
    "upsample": nn.Upsample(scale_factor=2.0, mode="nearest"),
    "not in the table": torch.erf,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_shape_is_that_of_the_computed_result(name: str) -> None:
    operation = OPERATIONS[name]
    computed = operation(torch.rand(2, 6, 9, 7))
    on_shapes = on_meta(operation) if isinstance(operation, nn.Module) else operation
    with Shapes(), torch.device("meta"):
        result = on_shapes(torch.empty(2, 6, 9, 7, device="meta", requires_grad=True))
    assert result.shape == computed.shape
    assert result.is_meta
    assert result.grad_fn is not None


@pytest.mark.parametrize("name", nets.CASES)
def test_a_network_on_shapes_gives_the_shapes_it_computes(name: str) -> None:
    net, shape = nets.net(name), nets.CASES[name].shape
    with torch.no_grad():
        computed = net(torch.rand(shape).double())
    with Shapes(), torch.no_grad():
        found = on_meta(net)(torch.empty(shape, device="meta"))
    assert nets.shapes(found) == nets.shapes(computed)


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(nn.Conv2d(5, 4, 1), id="wrong width"),
        pytest.param(nn.Conv2d(6, 4, 20), id="kernel beyond the picture"),
        pytest.param(lambda x: x + x[:, :2], id="sum of unequal widths"),
        pytest.param(lambda x: torch.cat((x, x[..., :2]), dim=1), id="unequal sides joined"),
    ],
)
def test_what_cannot_be_computed_has_no_shape(operation: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(RuntimeError):
        operation(torch.rand(2, 6, 9, 7))
    on_shapes = on_meta(operation) if isinstance(operation, nn.Module) else operation
    with Shapes(), pytest.raises(RuntimeError):
        on_shapes(torch.empty(2, 6, 9, 7, device="meta"))


def test_a_copy_takes_new_tensors_and_keeps_what_was_one() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    net.get_submodule("1").register_parameter("weight", net.get_parameter("0.weight"))
    net.get_parameter("1.bias").requires_grad_(False)
    copy = copied(net, lambda tensor: tensor + 1)
    assert copy.get_parameter("0.weight") is copy.get_parameter("1.weight")
    for name, tensor in copy.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[name] + 1)
    trained = [parameter.requires_grad for parameter in net.parameters()]
    assert [parameter.requires_grad for parameter in copy.parameters()] == trained


def test_tracing_a_detector_imports_no_compiler() -> None:
    code = (
        "import pathlib, sys, prune.core.cost.macs as c, prune.core.trace.groups as g\n"
        "import prune.models.darknet as d\n"
        "net = d.build(pathlib.Path('cfg/yolor_csp_n.cfg').read_text())\n"
        "g.trace(net, (1, 3, 64, 64)), c.count(net, (1, 3, 64, 64))\n"
        "sys.exit(bool({'sympy', 'torch._dynamo'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
