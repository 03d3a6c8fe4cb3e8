"""Tiny networks, each with why it exists; weights are random and every channel matters."""

# ruff: noqa: D102  a network's forward is its definition

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


def outputs(layer: nn.Module) -> int:
    """Return how many channels a convolution or linear layer makes."""
    assert isinstance(layer, (nn.Linear, *CONVOLUTIONS))
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def conv(
    inputs: int, outputs: int, size: int = 1, *, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution, normalisation, and an activation that makes something else of zero."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.Softplus(),
    )


class Chain(nn.Module):
    """Nothing but layers in a row: every group is one producer and one reader."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 6, 3), conv(6, 8, 3, stride=2), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c(self.b(self.a(x)))
        return out


class Residual(nn.Module):
    """A trunk that two blocks add to: three producers whose channels leave together."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.end = conv(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.in1, self.out1 = conv(6, 5), conv(5, 6, 3)
        self.in2, self.out2 = conv(6, 5), conv(5, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.out1(self.in1(x))
        x = x + self.out2(self.in2(x))
        out: Tensor = self.end(x)
        return out


class Concat(nn.Module):
    """Unequal branches and the image joined: positions are shifted by what stands before."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 4), conv(3, 5), conv(5, 3)
        self.norm, self.end = nn.BatchNorm2d(15), nn.Conv2d(15, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        b = self.b(x)
        joined = torch.cat((b, x, self.a(x), self.c(b)), dim=1)
        out: Tensor = self.end(self.norm(joined).sigmoid())
        return out


class SelfConcat(nn.Module):
    """One map twice in a concatenation, four times in a reorg: a channel has several positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.end = conv(3, 4), conv(8, 3), nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(torch.cat((a, a), dim=1))
        phases = [b[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
        out: Tensor = self.end(torch.cat(phases, dim=1))
        return out


class ConcatPlus(nn.Module):
    """A concatenation added to a wide map: the wide layer's channels fall into two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.a, self.b = conv(3, 7), conv(3, 3), conv(3, 4)
        self.end = nn.Conv2d(7, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.wide(x) + torch.cat((self.a(x), self.b(x)), dim=1))
        return out


class Csp(nn.Module):
    """The cross-stage block of YOLOR: two branches, residual blocks on one, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv(3, 8, 3, stride=2), conv(8, 4), conv(8, 4)
        self.in1, self.out1, self.after = conv(4, 4), conv(4, 4, 3), conv(4, 4)
        self.join, self.end = conv(8, 6), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        right = self.right(x)
        right = self.after(right + self.out1(self.in1(right)))
        out: Tensor = self.end(self.join(torch.cat((right, self.left(x)), dim=1)))
        return out


class Depthwise(nn.Module):
    """MobileNet's pair: the depthwise convolution passes on what the one before makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = conv(3, 6), conv(6, 6, 3, groups=6)
        self.point, self.end = conv(6, 5), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.point(self.depth(self.stem(x))))
        return out


class Grouped(nn.Module):
    """A convolution in two and in three shares: every share has to lose equally many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.two = conv(3, 6), conv(6, 12, 3, groups=2)
        self.three, self.end = conv(12, 9, groups=3), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.three(self.two(self.stem(x))))
        return out


class Gate(nn.Module):
    """Squeeze and excitation, by convolutions and linear: [N, C, 1, 1] times [N, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = conv(3, 6), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.next, self.down2, self.up2 = conv(6, 5), nn.Linear(5, 3), nn.Linear(3, 5)
        self.end = nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        squeezed = self.down(functional.adaptive_avg_pool2d(x, 1)).relu()
        x = self.next(x * self.up(squeezed).sigmoid())
        scale = self.up2(self.down2(x.mean((2, 3))).relu()).sigmoid()
        out: Tensor = self.end(x * scale.view(x.shape[0], -1, 1, 1))
        return out


class Implicit(nn.Module):
    """YOLOR's learned values a channel: added in front of a layer, multiplied behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.end = conv(3, 6), conv(6, 5), nn.Conv2d(5, 4, 1)
        self.shift = nn.Parameter(torch.randn(1, 6, 1, 1))
        self.control = nn.Parameter(torch.randn(5, 1, 1))
        self.scale = nn.Parameter(torch.randn(1))
        self.last = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.stem(x) + self.shift) * self.control * self.scale
        out: Tensor = self.end(x) * self.last
        return out


class WeightedSum(nn.Module):
    """Darknet's weighted shortcut: a weight a map, [n], and a weight a map and channel, [n, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.end = conv(3, 5), conv(5, 5), nn.Conv2d(5, 4, 1)
        self.each = nn.Parameter(torch.randn(2))
        self.channel = nn.Parameter(torch.randn(2, 5))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        share = self.each.softmax(0).reshape(2, -1, 1, 1)
        c = a * share[0] + b * share[1]
        wide = self.channel.clamp(min=0.1)
        wide = (wide / wide.sum(dim=0, keepdim=True)).reshape(2, -1, 1, 1)
        out: Tensor = self.end(c * wide[0] + b * wide[1])
        return out


class PoolUp(nn.Module):
    """Pooling of every kind, padding, both ways up, a transposed convolution: channels stay."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 5), conv(15, 6), conv(6, 6)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.end = nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        pools = [functional.max_pool2d(a, size, 1, size // 2) for size in (3, 5)]
        b = self.b(torch.cat((a, *pools), dim=1))
        small = self.c(functional.avg_pool2d(functional.pad(b, (1, 1, 1, 1)), 2)[..., :4, :4])
        bigger = functional.interpolate(small, scale_factor=2, mode="nearest")
        bilinear = functional.interpolate(small, scale_factor=2, mode="bilinear")
        out: Tensor = self.end(torch.cat((self.up(small), bigger + bilinear), dim=1))
        return out


class Chunk(nn.Module):
    """YOLOv8's C2f and YOLOv4-tiny's half route: chunks, one of them read twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv(3, 8), conv(4, 4, 3)
        self.join, self.part, self.end = conv(12, 6), conv(3, 5), nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.stem(x).chunk(2, dim=1)
        x = self.join(torch.cat((first, second, second + self.inner(second)), dim=1))
        part = self.part(x.chunk(2, dim=1)[1])
        out: Tensor = self.end(torch.cat((part, x), dim=1))
        return out


class Flat(nn.Module):
    """A image flattened into a linear layer: one channel is a block of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 5, 3, stride=2), conv(5, 4, 3, stride=2)
        self.hidden, self.act, self.end = nn.Linear(4 * 4, 7), nn.PReLU(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x)).flatten(1)
        out: Tensor = self.end(self.act(self.hidden(x)))
        return out


class TwoOutputs(nn.Module):
    """Heads at two depths, and a map that is an output as well as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 5), conv(5, 6), conv(6, 4)
        self.first, self.second = nn.Conv2d(6, 2, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        b = self.b(self.a(x))
        c = self.c(b)
        return {"heads": [self.first(b), self.second(c)], "features": c}


class Shared(nn.Module):
    """One layer at two places: what both places feed it leaves together."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(3, 5), conv(3, 5)
        self.tower, self.end = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.end(self.tower(self.a(x)).tanh()), self.end(self.tower(self.b(x)).tanh())


class Attention(nn.Module):
    """One channel that meets all of another map's: broadcasting is no coupling."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.look, self.end = conv(3, 5), nn.Conv2d(5, 1, 1), nn.Conv2d(5, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        out: Tensor = self.end(a * self.look(a).sigmoid())
        return out


class Refused(nn.Module):
    """Everything that cannot be followed; each branch has its reason and must keep its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.shuffled, self.mixed, self.normed, self.split = (
            conv(3, 6),
            conv(3, 6),
            conv(3, 6),
            conv(3, 6),
        )
        self.image, self.constant, self.summed, self.sliced = (
            conv(3, 3),
            conv(3, 6),
            conv(3, 6),
            conv(3, 6),
        )
        self.tied, self.twin = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1)
        self.twin.weight = self.tied.weight
        self.norm = nn.GroupNorm(2, 6)
        self.register_buffer("fixed", torch.randn(1, 6, 1, 1))
        self.fixed: Tensor
        self.free, self.end = conv(3, 6), nn.Conv2d(6 * 8 + 3 + 1 + 2 + 1, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        shuffled = self.shuffled(x).view(n, 2, 3, h, w).transpose(1, 2).reshape(n, 6, h, w)
        first, _ = self.split(x).split([2, 4], dim=1)
        parts = (
            shuffled,
            self.mixed(x).softmax(dim=1),
            self.norm(self.normed(x)),
            first,
            x + self.image(x),
            self.constant(x) * self.fixed,
            self.summed(x).sum(dim=1, keepdim=True),
            self.sliced(x)[:, 1:2],
            self.tied(x),
            self.twin(x),
            self.tied(x) - self.twin(x),
            self.free(x),
        )
        out: Tensor = self.end(torch.cat(parts, dim=1))
        return out


@dataclass(frozen=True)
class Case:
    """A network, its input, and the roots whose channels must stay with a word of the reason."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (2, 3, 8, 8)
    kept: dict[str, str] = field(default_factory=dict)


_END = {"end": "output"}

CASES: dict[str, Case] = {
    "chain": Case(Chain, kept={"c": "output"}),
    "residual": Case(Residual, kept=_END),
    "concat": Case(Concat, kept=_END),
    "self_concat": Case(SelfConcat, kept=_END),
    "concat_plus": Case(ConcatPlus, kept=_END),
    "csp": Case(Csp, kept=_END),
    "depthwise": Case(Depthwise, kept=_END),
    "grouped": Case(Grouped, kept=_END),
    "gate": Case(Gate, kept=_END),
    "implicit": Case(Implicit, kept=_END),
    "weighted_sum": Case(WeightedSum, kept=_END),
    "pool_up": Case(PoolUp, kept=_END),
    "chunk": Case(Chunk, kept=_END),
    "flat": Case(Flat, kept=_END),
    "two_outputs": Case(TwoOutputs, kept={"first": "output", "second": "output", "c.0": "output"}),
    "shared": Case(Shared, kept=_END),
    "attention": Case(Attention, kept=_END),
    "refused": Case(
        Refused,
        kept={
            "end": "output",
            "shuffled.0": "View",
            "mixed.0": "Softmax",
            "normed.0": "GroupNorm",
            "split.0": "fixed places",
            "image.0": "network's input",
            "constant.0": "constant tensor",
            "summed.0": "Sum",
            "sliced.0": "fixed places",
            "tied": "shared by",
        },
    ),
}


def shapes(output: object) -> object:
    """Replace every tensor in an output by its shape."""
    if isinstance(output, Tensor):
        return list(output.shape)
    if isinstance(output, dict):
        return {key: shapes(value) for key, value in output.items()}
    return [shapes(value) for value in output] if isinstance(output, (list, tuple)) else output


def net(name: str, *, seed: int = 0) -> nn.Module:
    """Build one in eval mode and float64, with statistics that make every channel differ."""
    return settled(CASES[name].build, seed=seed)


def settled(build: Callable[[], nn.Module], *, seed: int = 0) -> nn.Module:
    """Build a network in eval mode and float64, with statistics that make every channel differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = build().double().eval()
        for module in built.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                _settle(module)
            elif isinstance(module, nn.PReLU):
                nn.init.uniform_(module.weight, 0.1, 0.9)
    return built


def _settle(norm: nn.modules.batchnorm._BatchNorm) -> None:
    if norm.affine:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    if norm.track_running_stats:
        norm.running_mean = torch.randn(norm.num_features).double()
        norm.running_var = torch.rand(norm.num_features).double() + 0.5
