"""The optimiser's groups: every parameter in exactly one, decay where it belongs."""

import torch
from reference import CFG
from torch import nn

from prune.common.hyperparameters import ADAMW, CHOICES, SCRATCH
from prune.models.darknet import Darknet
from prune.models.sections import parse
from prune.train.optim import GROUPS, Setting, apply_setting, build_optimizer, group_parameters


def yolor() -> Darknet:
    """YOLOR has all kinds: kernels, BatchNorm, biases of heads, implicit layers."""
    with torch.device("meta"):
        return Darknet(parse((CFG / "yolor_csp_n.cfg").read_text()))


def test_every_parameter_is_in_one_group() -> None:
    net = yolor()
    grouped = [name for members in group_parameters(net).values() for name in members]
    assert sorted(grouped) == sorted(dict(net.named_parameters()))


def test_groups_hold_what_their_names_say() -> None:
    groups = group_parameters(yolor())
    assert {name.split(".", 2)[2] for name in groups["weights", 1.0]} == {"Conv2d.weight"}
    assert {name.split(".", 2)[2] for name in groups["biases", 1.0]} == {
        "Conv2d.bias",
        "BatchNorm2d.bias",
    }
    assert {name.split(".", 2)[2] for name in groups["scales", 1.0]} == {
        "BatchNorm2d.weight",
        "implicit",
    }


def test_frozen_parameters_are_left_out() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
    net[0].requires_grad_(False)
    assert list(group_parameters(net)["weights", 1.0]) == ["1.weight"]


def test_only_kernels_decay_and_by_the_batch_share() -> None:
    optimizer = build_optimizer(yolor(), SCRATCH, decay_factor=0.75)
    decays = dict(zip(GROUPS, (g["weight_decay"] for g in optimizer.param_groups), strict=True))
    assert decays == {"weights": 0.000375, "scales": 0.0, "biases": 0.0}


def test_biases_have_a_rate_of_their_own() -> None:
    optimizer = build_optimizer(yolor(), SCRATCH, decay_factor=1)
    apply_setting(optimizer, Setting(rate=0.1, bias_rate=0.2, momentum=0.3))
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1, 0.2]
    assert {g["momentum"] for g in optimizer.param_groups} == {0.3}


def test_layers_with_a_factor_go_slower() -> None:
    net, factors = yolor(), {0: 0.5, 1: 0.5, 3: 0.25}
    optimizer = build_optimizer(net, SCRATCH, decay_factor=1, factors=factors)
    apply_setting(optimizer, Setting(rate=0.1, bias_rate=0.2, momentum=0.3))
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in net.named_parameters():
        rate = 0.2 if name.endswith("bias") else 0.1
        assert rates[id(parameter)] == rate * factors.get(int(name.split(".")[1]), 1)
    decays = {g["weight_decay"] for g in optimizer.param_groups if g["kind"] == "weights"}
    assert decays == {0.0005}


def test_adamw_takes_the_same_groups_rates_and_decay() -> None:
    net, recipe = yolor(), {**SCRATCH, "optimizer": CHOICES["optimizer"].index("adamw")}
    sgd, adamw = (build_optimizer(net, each, decay_factor=0.75) for each in (SCRATCH, recipe))
    for optimizer in (sgd, adamw):
        apply_setting(optimizer, Setting(rate=0.1, bias_rate=0.2, momentum=0.3))
    for key in ("params", "lr", "weight_decay", "kind", "factor", "l1"):
        assert [g[key] for g in adamw.param_groups] == [g[key] for g in sgd.param_groups]
    assert {g["betas"] for g in adamw.param_groups} == {(0.3, 0.999)}


def test_adamw_steps_as_its_paper_says() -> None:
    """The first step is the learning rate, whatever the gradient; decay is apart from it."""
    layer = nn.Conv2d(1, 1, 1)
    kernel = layer.weight.detach().clone()
    recipe = {**SCRATCH, **ADAMW, "optimizer": CHOICES["optimizer"].index("adamw")}
    optimizer = build_optimizer(layer, recipe, decay_factor=1)
    apply_setting(optimizer, Setting(rate=0.01, bias_rate=0.01, momentum=0.9))
    layer.weight.grad = torch.full_like(layer.weight, 1e3)
    optimizer.step()
    torch.testing.assert_close(layer.weight, kernel * (1 - 0.01 * ADAMW["weight_decay"]) - 0.01)
