"""Random networks, written as short programs that can be printed, shrunk and run again.

A step names an operation and three numbers; whatever the numbers are, the step means something:
they choose among the values there are. So every list of steps is a network.
"""

# ruff: noqa: D102  a network's forward is its definition

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 8  # of the images
PICTURES = (3, 4)  # channels of the two inputs


@dataclass(frozen=True)
class Step:
    """An operation, which values it takes, and a number it may need, such as a width."""

    name: str
    first: int
    second: int
    number: int


Function = Callable[..., Tensor]


def _alone(function: Function) -> Function:
    """Let a function of values alone take the network, too."""
    return lambda _, *values: function(*values)


class RandomNet(nn.Module):
    """Runs a program on two images; what nobody reads in the end is pooled and read by a head."""

    def __init__(self, program: tuple[Step, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.values = nn.ParameterList()
        self.program = program
        self.shapes: list[tuple[int, ...]] = [(c, SIDE, SIDE) for c in PICTURES]
        self.runs: list[tuple[Function, tuple[int, ...]]] = []
        self.read: set[int] = set()
        for number, width in enumerate((6, 4)):
            self.conv(number, width)
        for step in program:
            STEPS[step.name](self, step)
        self.ends = [i for i in range(len(self.shapes)) if i not in self.read]
        width = sum(self.shapes[i][0] for i in self.ends)
        self.head = nn.Linear(width, 3)

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, ...]:
        known = [one, two]
        for run, taken in self.runs:
            known.append(run(self, *(known[i] for i in taken)))
        flat = [known[i].flatten(2).mean(2) if known[i].dim() > 2 else known[i] for i in self.ends]
        out = self.head(torch.cat(flat, dim=1))
        return (out, known[-1]) if len(self.program) % 3 == 0 else (out,)

    def add(self, run: Function, taken: tuple[int, ...], shape: tuple[int, ...]) -> int:
        """Let a function make a value of others; return its number.

        Args:
            run: takes the network, so that a copy of it uses the copy's layers, and the values.
            taken: numbers of the values.
            shape: of the result, without the batch.
        """
        self.runs.append((run, taken))
        self.read.update(taken)
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def layer(self, module: nn.Module) -> Function:
        """Take a layer in; return what runs it."""
        number = len(self.layers)
        self.layers.append(module)
        return lambda net, x: net.layers[number](x)

    def value(self, *shape: int) -> Callable[[RandomNet], Tensor]:
        """Take a parameter in; return what finds it."""
        number = len(self.values)
        self.values.append(nn.Parameter(torch.rand(shape) + 0.5))
        return lambda net: net.values[number]

    def map(self, number: int) -> int:
        """Choose a value that is a map, the latest for 0."""
        maps = [i for i, shape in enumerate(self.shapes) if len(shape) == 3]
        return maps[-1 - number % len(maps)]

    def conv(self, source: int, width: int, size: int = 1, **more: Any) -> int:
        """Convolution, normalisation, an activation that makes something else of zero."""
        channels, side, _ = self.shapes[source]
        block = nn.Sequential(
            nn.Conv2d(channels, width, size, padding=size // 2, **more),
            nn.BatchNorm2d(width),
            nn.Softplus(),
        )
        return self.add(self.layer(block), (source,), (width, side, side))

    def fit(self, source: int, side: int) -> int:
        """Bring a map to another size."""
        channels, now, _ = self.shapes[source]
        if now == side:
            return source
        return self.add(
            lambda _, x: functional.interpolate(x, size=(side, side)),
            (source,),
            (channels, side, side),
        )


def _conv(net: RandomNet, step: Step) -> None:
    net.conv(net.map(step.first), 1 + step.number % 7, (1, 3)[step.second % 2])


def _plain_conv(net: RandomNet, step: Step) -> None:
    """A biased convolution with ReLU in place right behind it, as in VGG."""
    source, width = net.map(step.first), 1 + step.number % 7
    channels, side, _ = net.shapes[source]
    block = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True))
    net.add(net.layer(block), (source,), (width, side, side))


def _grouped(net: RandomNet, step: Step) -> None:
    source, shares = net.map(step.first), 2 + step.second % 2
    if net.shapes[source][0] % shares:
        source = net.conv(source, shares * (1 + step.number % 3))
    net.conv(source, shares * (1 + step.number % 4), 3, groups=shares)


def _depthwise(net: RandomNet, step: Step) -> None:
    source = net.map(step.first)
    channels = net.shapes[source][0]
    net.conv(source, channels * (1 + step.number % 7 // 6), 3, groups=channels)


def _transposed(net: RandomNet, step: Step) -> None:
    source, width = net.map(step.first), 1 + step.number % 6
    channels, side, _ = net.shapes[source]
    if side > SIDE:
        return
    up = net.layer(nn.ConvTranspose2d(channels, width, 2, stride=2))
    net.add(up, (source,), (width, 2 * side, 2 * side))


def _joined(net: RandomNet, step: Step) -> None:
    """Concatenate two or three maps; one may come twice."""
    first = net.map(step.first)
    side = net.shapes[first][1]
    taken = [first, net.map(step.second), net.map(step.number)][: 2 + step.number % 2]
    fitting = tuple(net.fit(i, side) for i in taken)
    total = sum(net.shapes[i][0] for i in fitting)
    net.add(lambda _, *maps: torch.cat(maps, dim=1), fitting, (total, side, side))


_PAIRS: tuple[Function, ...] = (
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    lambda a, b: a.clone().add_(b),
    lambda a, b: torch.lerp(a, b, 0.3),
)


def _combined(net: RandomNet, step: Step) -> None:
    """Add, multiply or compare two maps of one shape; a convolution brings the second to it."""
    first = net.map(step.first)
    channels, side, _ = net.shapes[first]
    second = net.fit(net.map(step.second), side)
    if net.shapes[second][0] != channels:
        second = net.conv(second, channels)
    net.add(_alone(_PAIRS[step.number % len(_PAIRS)]), (first, second), (channels, side, side))


def _chunked(net: RandomNet, step: Step) -> None:
    """Chunk a map; each part is read on its own."""
    source, count = net.map(step.first), 2 + step.second % 2
    channels, side, _ = net.shapes[source]
    if channels % count:
        channels = count * (1 + step.number % 3)
        source = net.conv(source, channels)
    part = channels // count

    def chosen(number: int) -> Function:
        return lambda _, x: x.chunk(count, dim=1)[number]

    for number in range(count):
        net.add(chosen(number), (source,), (part, side, side))


def _split(net: RandomNet, step: Step) -> None:
    """Split a map at a fixed place: its channels must stay."""
    source = net.map(step.first)
    channels, side, _ = net.shapes[source]
    if channels > 1:
        cut = 1 + step.number % (channels - 1)
        net.add(lambda _, x: x.split([cut, channels - cut], 1)[0], (source,), (cut, side, side))
        net.add(lambda _, x: x[:, cut:], (source,), (channels - cut, side, side))


_PASSES: tuple[Function, ...] = (
    lambda x: functional.max_pool2d(x, 3, 1, 1),
    lambda x: functional.avg_pool2d(x, 3, 1, 1),
    lambda x: functional.pad(x, (1, 0, 1, 0))[..., :-1, :-1],
    lambda x: x.tanh() * 2 - 0.5,
    lambda x: functional.hardswish(x, inplace=False),
    lambda x: x.flip(-1),
    lambda x: x / (1 + x.abs()),
    lambda x: x.softmax(dim=-1),
    lambda x: x - x.mean((2, 3), keepdim=True),
    lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    lambda x: x.flatten(2).view(x.shape),
    lambda x: x.amax(dim=2, keepdim=True) + x,
)


def _passed(net: RandomNet, step: Step) -> None:
    """Do something to every channel by itself."""
    source = net.map(step.first)
    net.add(_alone(_PASSES[step.number % len(_PASSES)]), (source,), net.shapes[source])


def _resized(net: RandomNet, step: Step) -> None:
    source = net.map(step.first)
    channels = net.shapes[source][0]
    new = (1, 2, 4, 8)[step.number % 4]
    ways: tuple[Function, ...] = (
        lambda x: functional.adaptive_avg_pool2d(x, new),
        lambda x: functional.interpolate(x, size=(new, new), mode="bilinear"),
        lambda x: functional.adaptive_max_pool2d(x, new),
    )
    net.add(_alone(ways[step.second % 3]), (source,), (channels, new, new))


def _normed(net: RandomNet, step: Step) -> None:
    source = net.map(step.first)
    channels = net.shapes[source][0]
    kinds: tuple[Callable[[], nn.Module], ...] = (
        lambda: nn.BatchNorm2d(channels),
        lambda: nn.BatchNorm2d(channels, affine=False),
        lambda: nn.PReLU(channels),
        lambda: nn.PReLU(),
        lambda: nn.GroupNorm(1, channels),
        lambda: nn.InstanceNorm2d(channels, affine=True),
    )
    chosen = step.number % len(kinds) if net.shapes[source][1] > 1 else 0  # a norm needs values
    net.add(net.layer(kinds[chosen]()), (source,), net.shapes[source])


def _valued(net: RandomNet, step: Step) -> None:
    """Add or multiply learned numbers: one a channel, one for all, one a column, mixed ones."""
    source = net.map(step.first)
    channels, side, _ = net.shapes[source]
    shape, run = _USES[step.number % len(_USES)]
    value = net.value(*(channels if n < 0 else side if n == 0 else n for n in shape))
    net.add(lambda net, x: run(x, value(net)), (source,), net.shapes[source])


# The shape of a parameter (-1: channels, 0: side), and what is made of it and a map.
_USES: tuple[tuple[tuple[int, ...], Function], ...] = (
    ((1, -1, 1, 1), lambda x, p: x + p),
    ((-1,), lambda x, p: p[:, None, None] * x),
    ((1,), lambda x, p: p.exp() * x),
    ((0,), lambda x, p: x * p),
    ((2, -1), lambda x, p: x * (p / p.sum(0, keepdim=True))[0].view(1, -1, 1, 1)),
    ((-1, 1, 1), lambda x, p: x * p.softmax(0)),
)


def _gated(net: RandomNet, step: Step) -> None:
    """Squeeze and excitation, by linear layers or convolutions, or one gate for all channels."""
    source = net.map(step.first)
    channels, side, _ = net.shapes[source]
    if step.number % 3 == 2:
        look = net.conv(source, 1, 3)
        net.add(lambda _, x, gate: x * gate.sigmoid(), (source, look), (channels, side, side))
        return
    hidden = 1 + step.second % 4
    pair: tuple[nn.Module, nn.Module] = (
        nn.Linear(channels, hidden),
        nn.Linear(hidden, channels),
    )
    if step.number % 3 == 0:
        pair = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)
    down, up = map(net.layer, pair)

    def gate(net: RandomNet, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3)) if step.number % 3 else functional.adaptive_avg_pool2d(x, 1)
        return up(net, down(net, pooled).relu()).sigmoid().view(x.shape[0], -1, 1, 1) * x

    net.add(gate, (source,), (channels, side, side))


def _shared(net: RandomNet, step: Step) -> None:
    """Run a layer that is there already on another map, which is brought to its width."""
    starts = [
        (number, block[0])
        for number, block in enumerate(net.layers)
        if isinstance(block, nn.Sequential) and isinstance(block[0], nn.Conv2d)
    ]
    if not starts:
        return
    number, first = starts[step.second % len(starts)]
    source = net.map(step.first)
    if net.shapes[source][0] != first.in_channels:
        source = net.conv(source, first.in_channels)
    side = net.shapes[source][1]
    net.add(lambda net, x: net.layers[number](x), (source,), (first.out_channels, side, side))


def _last(net: RandomNet, step: Step) -> None:
    """Read channels that lie last with linear layers, as ConvNeXt and transformers do."""
    source, hidden = net.map(step.first), 1 + step.number % 6
    channels, side, _ = net.shapes[source]
    wide, narrow = map(net.layer, (nn.Linear(channels, hidden), nn.Linear(hidden, channels)))

    def run(net: RandomNet, x: Tensor) -> Tensor:
        out = narrow(net, functional.gelu(wide(net, x.permute(0, 2, 3, 1))))
        return x + out.permute(0, 3, 1, 2)

    net.add(run, (source,), (channels, side, side))


def _flat(net: RandomNet, step: Step) -> None:
    """Flatten a map into a linear layer, and perhaps bend the result back to a map."""
    source, width = net.map(step.first), 1 + step.number % 6
    small = net.fit(source, 2) if step.second % 2 else source
    channels, side, _ = net.shapes[small]
    block = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, width), nn.ELU())
    flat = net.add(net.layer(block), (small,), (width,))
    if step.second % 3 == 0:
        net.add(lambda _, x: x[:, :, None, None].expand(-1, -1, 2, 2), (flat,), (width, 2, 2))


_MIXES: tuple[Function, ...] = (
    lambda x: x.softmax(dim=1),
    lambda x: x.roll(1, 1),
    lambda x: x * x.detach().sigmoid(),
    lambda x: x * x.sum(1, keepdim=True),
    lambda x: functional.normalize(x, dim=1),
    lambda x: x.flip(1),
    lambda x: torch.stack(x.unbind(1), 1),
    lambda x: x * torch.linspace(0, 1, x.shape[1], dtype=x.dtype, device=x.device)[:, None, None],
)


def _mixed(net: RandomNet, step: Step) -> None:
    """Do what cannot be followed."""
    source = net.map(step.first)
    net.add(_alone(_MIXES[step.number % len(_MIXES)]), (source,), net.shapes[source])


STEPS: dict[str, Callable[[RandomNet, Step], None]] = {
    "conv": _conv,
    "plain_conv": _plain_conv,
    "grouped": _grouped,
    "depthwise": _depthwise,
    "transposed": _transposed,
    "joined": _joined,
    "combined": _combined,
    "chunked": _chunked,
    "split": _split,
    "passed": _passed,
    "resized": _resized,
    "normed": _normed,
    "valued": _valued,
    "gated": _gated,
    "shared": _shared,
    "last": _last,
    "flat": _flat,
    "mixed": _mixed,
}
