"""Each kind of layer against a plain torch computation, written here a second time."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from prune.models.darknet import build
from prune.models.layers import LAYERS, Convolution, WeightedShortcut
from prune.models.layout import LayerInfo
from prune.models.sections import Section

HEAD = "[convolutional]\nfilters=6\nactivation=linear\n[yolo]\nanchors=9,9\nclasses=1\n"
CONV = "[convolutional]\nactivation=linear\nfilters="


def module_of(body: str, index: int = 0, *, channels: int = 4) -> torch.nn.Module:
    """Build the layer `index` of a cfg body; a head is put behind it."""
    module = build(f"[net]\nchannels={channels}\n{body}\n{HEAD}").module_list[index]
    return module.eval()


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: x,
    "leaky": lambda x: torch.where(x > 0, x, 0.1 * x),
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(min=0, max=6),
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "swish": lambda x: x / (1 + torch.exp(-x)),
    "hardswish": lambda x: x * (x + 3).clamp(min=0, max=6) / 6,
    "logistic": lambda x: 1 / (1 + torch.exp(-x)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_is_its_formula(name: str) -> None:
    module = module_of(f"{CONV}4\n{CONV}4\n[shortcut]\nfrom=0\nactivation={name}", 2)
    x, y = maps(1, 4, 5, 5), maps(1, 4, 5, 5, seed=1)
    torch.testing.assert_close(module(x, y), ACTIVATIONS[name](x + y))


# Alone, a convolution may have a window that fits no network; no cfg has such a one.
CONVOLUTIONS = {
    "pad": ({"size": 3, "pad": 1}, 1, 1, 1),
    "pad rounds down": ({"size": 4, "pad": 1}, 1, 2, 1),
    "padding": ({"size": 3, "padding": 2}, 1, 2, 1),
    "pad wins over padding": ({"size": 5, "pad": 1, "padding": 9}, 1, 2, 1),
    "none": ({"size": 3}, 1, 0, 1),
    "stride": ({"size": 3, "stride": 2, "pad": 1}, 2, 1, 1),
    "groups": ({"size": 1, "groups": 2}, 1, 0, 2),
}


@pytest.mark.parametrize(
    ("keys", "stride", "padding", "groups"), CONVOLUTIONS.values(), ids=CONVOLUTIONS
)
def test_convolution_is_torchs(
    keys: dict[str, int], stride: int, padding: int, groups: int
) -> None:
    options = {"activation": "relu", **{key: str(value) for key, value in keys.items()}}
    info = LayerInfo(0, "convolutional", (-1,), 4, 6, (stride, stride))
    module = LAYERS["convolutional"](Section("convolutional", options), info)
    assert isinstance(module, Convolution)
    x, weight, bias = maps(2, 4, 9, 12), module.Conv2d.weight, module.Conv2d.bias
    wanted = functional.conv2d(x, weight, bias, stride, padding, groups=groups)
    torch.testing.assert_close(module(x), wanted.clamp(min=0))


def test_strides_may_differ_down_and_across() -> None:
    body = f"{CONV}4\nstride_y=2\n[maxpool]\nsize=1\nstride_x=2\nstride_y=1"
    x = maps(1, 4, 8, 12)
    first = module_of(body)
    assert isinstance(first, Convolution)
    wanted = functional.conv2d(x, first.Conv2d.weight, first.Conv2d.bias, (2, 1))
    torch.testing.assert_close(first(x), wanted)
    torch.testing.assert_close(module_of(body, 1)(x), x[..., ::2])


def test_normalisation_uses_darknets_constants() -> None:
    module = module_of(f"{CONV}4\nbatch_normalize=1")
    assert isinstance(module, Convolution)
    assert isinstance(module.BatchNorm2d, torch.nn.BatchNorm2d)
    assert module.Conv2d.bias is None
    assert (module.BatchNorm2d.eps, module.BatchNorm2d.momentum) == (1e-4, 0.03)
    x = maps(2, 4, 3, 3)
    torch.testing.assert_close(module(x), module.Conv2d(x) / math.sqrt(1 + 1e-4))


def windows(x: Tensor, *, size: int, stride: tuple[int, int], padding: int) -> Tensor:
    """Take maxima cell by cell, as Darknet's loops do: offset -padding // 2, outside is -inf."""
    height, width = x.shape[-2:]
    rows, columns = (
        (n + padding - size) // s + 1 for n, s in zip((height, width), stride, strict=True)
    )
    out = torch.empty(*x.shape[:2], rows, columns)
    for i in range(rows):
        for j in range(columns):
            top, left = i * stride[0] - padding // 2, j * stride[1] - padding // 2
            inside = x[..., max(top, 0) : top + size, max(left, 0) : left + size]
            out[..., i, j] = inside.amax(dim=(-2, -1))
    return out


POOLS = [
    ("size=2\nstride=2", 2, 2, 1, (4, 6)),
    ("size=2\nstride=1", 2, 1, 1, (8, 11)),
    ("size=3\nstride=2", 3, 2, 2, (4, 6)),
    ("size=5\nstride=1", 5, 1, 4, (8, 11)),
    ("size=13\nstride=1", 13, 1, 12, (8, 11)),
    ("size=2\nstride=2\npadding=0", 2, 2, 0, (4, 5)),
    ("size=3\nstride=3\npadding=1", 3, 3, 1, (3, 4)),
    ("stride=2", 2, 2, 1, (4, 6)),
]


@pytest.mark.parametrize(("keys", "size", "stride", "padding", "cells"), POOLS)
def test_maxpool_pads_as_darknet(
    keys: str, size: int, stride: int, padding: int, cells: tuple[int, int]
) -> None:
    module = module_of(f"[maxpool]\n{keys}")
    x = maps(1, 4, 8, 11)
    out = module(x)
    assert out.shape[-2:] == cells
    wanted = windows(x, size=size, stride=(stride, stride), padding=padding)
    torch.testing.assert_close(out, wanted)


def test_upsample_repeats_cells() -> None:
    module = module_of(f"{CONV}4\nstride=2\n[upsample]\nstride=2\n", 1)
    x = maps(1, 4, 2, 3)
    wanted = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(module(x), wanted)


@pytest.mark.parametrize("share", [0, 1])
def test_route_takes_its_share_of_each_input(share: int) -> None:
    body = f"{CONV}4\n{CONV}8\n[route]\nlayers=0,-1\ngroups=2\ngroup_id={share}"
    module = module_of(body, 2)
    x, y = maps(1, 4, 3, 3), maps(1, 8, 3, 3, seed=1)
    wanted = torch.cat((x[:, 2 * share :][:, :2], y[:, 4 * share :][:, :4]), dim=1)
    torch.testing.assert_close(module(x, y), wanted)


def test_route_joins_in_the_order_given() -> None:
    module = module_of(f"{CONV}4\n{CONV}8\n[route]\nlayers=-1,0", 2)
    x, y = maps(1, 8, 3, 3), maps(1, 4, 3, 3, seed=1)
    torch.testing.assert_close(module(x, y), torch.cat((x, y), dim=1))


def test_shortcut_adds_several() -> None:
    module = module_of(f"{CONV}4\n{CONV}4\n{CONV}4\n[shortcut]\nfrom=-2,-3", 3)
    x, y, z = maps(1, 4, 3, 3), maps(1, 4, 3, 3, seed=1), maps(1, 4, 3, 3, seed=2)
    torch.testing.assert_close(module(x, y, z), x + y + z)


def relu_share(weights: list[float]) -> list[float]:
    kept = [max(w, 0.001) for w in weights]
    return [w / (0.0001 + sum(kept)) for w in kept]


def softmax_share(weights: list[float]) -> list[float]:
    powers = [math.exp(w - max(weights)) for w in weights]
    return [p / (0.0001 + sum(powers)) for p in powers]


SHARES: dict[str, Callable[[list[float]], list[float]]] = {
    "none": lambda weights: weights,
    "relu": relu_share,
    "avg_relu": relu_share,
    "softmax": softmax_share,
    "sigmoid": lambda weights: [2 / len(weights) / (1 + math.exp(-w)) for w in weights],
}


@pytest.mark.parametrize("normalization", SHARES)
@pytest.mark.parametrize("weights_type", ["per_feature", "per_layer", "per_channel"])
def test_weighted_shortcut_normalises_as_darknet(weights_type: str, normalization: str) -> None:
    options = f"weights_type={weights_type}\nweights_normalization={normalization}"
    module = module_of(f"{CONV}2\n{CONV}2\n{CONV}2\n[shortcut]\nfrom=-2,0\n{options}", 3)
    assert isinstance(module, WeightedShortcut)
    assert module.w.shape == ((3, 2) if weights_type == "per_channel" else (3,))
    torch.nn.init.normal_(module.w, generator=torch.Generator().manual_seed(3))
    inputs = [maps(1, 2, 3, 3, seed=seed) for seed in range(3)]
    per_channel = module.w.reshape(3, -1).expand(3, 2)
    wanted = torch.zeros(1, 2, 3, 3)
    for channel in range(2):
        shares = SHARES[normalization](per_channel[:, channel].tolist())
        for share, x in zip(shares, inputs, strict=True):
            wanted[:, channel] += share * x[:, channel]
    torch.testing.assert_close(module(*inputs), wanted)


def test_squeeze_and_excitation_scales_channels() -> None:
    body = (
        f"{CONV}4\n[avgpool]\n[convolutional]\nfilters=4\nactivation=logistic\n"
        "[scale_channels]\nfrom=0\n"
    )
    net = build(f"[net]\nchannels=4\n{body}{HEAD}").eval()
    first, pool, squeeze, scale = list(net.module_list)[:4]
    x = first(maps(2, 4, 3, 5))  # [2, 4, 3, 5]
    mean = x.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(pool(x), mean)
    wanted = x * squeeze(mean).expand_as(x)
    torch.testing.assert_close(scale(squeeze(pool(x)), x), wanted)
    assert [layer.stride for layer in net.layers[:4]] == [1, 0, 0, 1]
    torch.testing.assert_close(net(maps(2, 4, 3, 5))[0], net.module_list[4](wanted))


def test_reorg_takes_phases_down_then_across() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    out = module_of("[reorg]", channels=1)(x)
    assert out[0, :, 0, 0].tolist() == [0, 4, 1, 5]
    assert out.shape == (1, 4, 2, 2)


def test_implicit_layers_add_and_multiply_one_value_a_channel() -> None:
    body = (
        f"{CONV}4\n[implicit_add]\nfilters=4\n[implicit_mul]\nfilters=4\n"
        "[route]\nlayers=0\n[shift_channels]\nfrom=1\n[control_channels]\nfrom=2\n"
    )
    net = build(f"[net]\nchannels=4\n{body}{HEAD}")
    _, add, mul, _, shift, control = list(net.module_list)[:6]
    assert [name for name in net.state_dict() if "implicit" in name] == [
        "module_list.1.implicit",
        "module_list.2.implicit",
    ]
    x = maps(2, 4, 3, 3)
    values = add().flatten().tolist()
    wanted = torch.stack([x[:, i] + value for i, value in enumerate(values)], dim=1)
    torch.testing.assert_close(shift(x, add()), wanted)
    values = mul().flatten().tolist()
    wanted = torch.stack([x[:, i] * value for i, value in enumerate(values)], dim=1)
    torch.testing.assert_close(control(x, mul()), wanted)


def test_implicit_layers_begin_near_no_effect() -> None:
    net = build(
        f"[net]\n{CONV}4\n[implicit_add]\nfilters=999\n[implicit_mul]\nfilters=999\n"
        f"[route]\nlayers=0\n{HEAD}"
    )
    for index, mean in ((1, 0.0), (2, 1.0)):
        values = net.module_list[index]()
        assert abs(values.mean() - mean) < 0.01
        assert abs(values.std() - 0.02) < 0.005


def test_dropout_passes_everything_on_when_it_does_not_train() -> None:
    x = maps(1, 4, 3, 3)
    assert module_of("[dropout]\nprobability=.9")(x) is x
