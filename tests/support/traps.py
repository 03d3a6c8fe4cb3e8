"""Tiny networks made to mislead a tracer: each hides a use of its channels, or looks like another.

What is wrong with them must be said, or their cut must be right.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, weight_norm

from prune.core.trace.meta import Spec

Forward = Callable[[Any, Tensor], Any]


class Made(nn.Module):
    """A network of a few layers and a function that runs them."""

    def __init__(self, run: Forward, **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        """Run the function."""
        return self.run(self, x)


@dataclass(frozen=True)
class Trap:
    """A network and what must be said of its first layer "a": a word of the reason, "" if free."""

    build: Callable[[], nn.Module]
    word: str
    shape: tuple[int, ...] = (2, 3, 6, 6)

    @property
    def inputs(self) -> tuple[Spec, ...]:
        """What it takes."""
        return (Spec(self.shape, "float64"),)


def conv(inputs: int = 3, outputs: int = 6, size: int = 1, **more: Any) -> nn.Conv2d:
    """Make a convolution that keeps the image's size."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **more)


def trap(
    run: Forward,
    word: str = "",
    shape: tuple[int, ...] = (2, 3, 6, 6),
    **layers: Callable[[], nn.Module | nn.Parameter],
) -> Trap:
    """Describe a network with layers "a" (3 to 6) and "end" (6 to 4) beside those given."""

    def build() -> nn.Module:
        made = {name: layer() for name, layer in layers.items()}
        return Made(run, **{"a": conv(), "end": conv(6, 4), **made})

    return Trap(build, word, shape)


class OwnForward(nn.Conv2d):
    """A convolution that is none: it also sums its channels."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the mean over channels."""
        x = super().forward(x)
        return x + x.mean(1, keepdim=True)


def _weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the old kind, which people still have
        return weight_norm(conv())


def _masked() -> nn.Module:
    layer = conv()
    prune.random_unstructured(layer, "weight", 0.3)  # type: ignore[no-untyped-call]  # torch's
    return layer


def _hooked() -> nn.Module:
    layer = conv()
    layer.register_forward_hook(lambda _, __, out: out - out.mean(1, keepdim=True))
    return layer


def _twins() -> nn.Module:
    net = Made(lambda s, x: s.end(s.two(s.a(x)) + s.a(x)), a=conv(), two=conv(6, 6), end=conv(6, 4))
    net.again = net.a
    return net


def _one_parameter_twice() -> nn.Module:
    def run(s: Any, x: Tensor) -> Tensor:
        x = s.left.scale * s.a(x)
        out: Tensor = s.end(s.b(s.right.scale * x))
        return out

    net = Made(run, a=conv(), b=conv(6, 6), end=conv(6, 4), left=nn.Module(), right=nn.Module())
    shared = nn.Parameter(torch.rand(6, 1, 1))
    for side in (net.left, net.right):
        assert isinstance(side, nn.Module)
        side.scale = shared
    return net


def _assigned(s: Any, x: Tensor) -> Tensor:
    x = s.a(x)
    x[:, :2] = 0
    out: Tensor = s.end(x)
    return out


def _sliced_buffer(s: Any, x: Tensor) -> Tensor:
    room = torch.zeros(x.shape[0], 6, 6, 6, dtype=x.dtype, device=x.device)
    room[:, :] = s.a(x)
    out: Tensor = s.end(room)
    return out


def _without_gradient(s: Any, x: Tensor) -> Tensor:
    x = s.a(x)
    with torch.no_grad():
        gate = s.gate(x).sigmoid()
    out: Tensor = s.end(x) * gate
    return out


def _by_width(s: Any, x: Tensor) -> Tensor:
    x = s.a(x)
    out: Tensor = s.end(x) if x.shape[1] == 6 else s.end(x).sum(1, keepdim=True)
    return out


def _dead_branch(s: Any, x: Tensor) -> Tensor:
    x = s.a(x)
    s.dead(x)
    out: Tensor = s.end(x)
    return out


def _parameter(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: nn.Parameter(torch.rand(shape))


_FLAT = (2, 6, 3)  # [N, T, C] for linear layers

TRAPS: dict[str, Trap] = {
    # What autograd does not see.
    "detached": trap(
        lambda s, x: s.end(y := s.a(x)) + s.g(y.detach()), "autograd", g=lambda: conv(6, 4)
    ),
    "no_grad": trap(_without_gradient, "autograd", gate=lambda: conv(6, 4)),
    "argmax": trap(lambda s, x: s.end(y := s.a(x)) * y.argmax(1, keepdim=True), "autograd"),
    "compared": trap(lambda s, x: s.end(s.a(x) * (s.a(x) > 0)), "constant"),
    "where": trap(lambda s, x: s.end((y := s.a(x)).where(y > 0, 0.1 * y)), "Where"),
    # Weights that are used elsewhere, or are no plain weights.
    "functional": trap(
        lambda s, x: s.end(s.a(x) + functional.conv2d(x.sin(), s.a.weight)),
        "joined with Convolution",
    ),
    "weight_norm": trap(lambda s, x: s.end(s.a(x)), "copied", a=_weight_normed),
    "parametrised": trap(
        lambda s, x: s.end(s.a(x)), "computed", a=lambda: parametrizations.weight_norm(conv())
    ),
    "masked_weight": trap(lambda s, x: s.end(s.a(x)), "copied", a=_masked),
    "own_forward": trap(lambda s, x: s.end(s.a(x)), "own forward", a=lambda: OwnForward(3, 6, 1)),
    "hooked": trap(lambda s, x: s.end(s.a(x)), "hooks", a=_hooked),
    "two_names": Trap(_twins, ""),
    "one_parameter_twice": Trap(_one_parameter_twice, "shared by left and right"),
    # Widths written into the code.
    "view": trap(lambda s, x: s.end(s.a(x).view(-1, 6, 6, 6)), "invalid"),
    "view_batch": trap(lambda s, x: s.end(s.a(x).reshape(2, 6, -1, 6)), "5 channels got"),
    "by_width": trap(_by_width, "other shapes"),
    "expanded": trap(
        lambda s, x: s.end(s.a(x) + s.b(x).expand(-1, 6, -1, -1)), "expanded", b=lambda: conv(3, 1)
    ),
    "padded": trap(
        lambda s, x: s.end(functional.pad(s.a(x), (0, 0, 0, 0, 1, 2))),
        "ConstantPadNd",
        end=lambda: conv(9, 4),
    ),
    "shifted": trap(
        lambda s, x: s.end(functional.pad(s.a(x), (0, 0, 0, 0, 1, -1))), "ConstantPadNd"
    ),
    "assigned": trap(_assigned, "CopySlices"),
    "buffer": trap(_sliced_buffer, "Copy"),
    "constant_joined": trap(
        lambda s, x: s.end(torch.cat((s.a(x), x.new_ones(2, 1, 6, 6)), 1)),
        "constant",
        end=lambda: conv(7, 4),
    ),
    "uneven_chunks": trap(lambda s, x: s.end(s.a(x).chunk(4, 1)[0]), "", end=lambda: conv(2, 4)),
    "uneven": trap(
        lambda s, x: s.end(s.a(x).chunk(2, 1)[0]),
        "fixed places",
        a=lambda: conv(3, 7),
        end=lambda: conv(4, 4),
    ),
    "unbound": trap(lambda s, x: s.end(torch.stack(s.a(x).unbind(1), 1)), "Unbind"),
    # Axes that have the right length by chance.
    "transposed": trap(lambda s, x: s.end(s.a(x).transpose(1, 2)), "which end mixes"),
    "columns": trap(
        lambda s, x: s.end(s.lin(s.a(x))), "which lin mixes", lin=lambda: nn.Linear(6, 6)
    ),
    "broadcast": trap(
        lambda s, x: s.end(s.a(x) * s.lin(x.mean((2, 3)))),
        "meet on axes [1, 3]",
        (6, 3, 6, 6),
        lin=lambda: nn.Linear(3, 6),
    ),
    "batch_as_channels": trap(lambda s, x: s.end(s.a(x).transpose(0, 1)), "mixes", (6, 3, 6, 6)),
    "no_batch": trap(lambda s, x: s.end(s.a(x)), "without a batch axis", (3, 6, 6)),
    "tokens": trap(
        lambda s, x: s.end(s.a(x).relu()),
        "",
        _FLAT,
        a=lambda: nn.Linear(3, 6),
        end=lambda: nn.Linear(6, 4),
    ),
    "tokens_as_channels": trap(
        lambda s, x: s.end(s.a(x)),
        "which end mixes",
        _FLAT,
        a=lambda: nn.Linear(3, 6),
        end=lambda: nn.Conv1d(6, 4, 1),
    ),
    "tokens_pooled": trap(
        lambda s, x: s.end(s.a(x).mean(1)),
        "",
        _FLAT,
        a=lambda: nn.Linear(3, 6),
        end=lambda: nn.Linear(6, 4),
    ),
    "channels_pooled": trap(
        lambda s, x: s.end(s.a(x).mean(2)),
        "Mean",
        _FLAT,
        a=lambda: nn.Linear(3, 6),
        end=lambda: nn.Linear(6, 4),
    ),
    "tokens_normed": trap(
        lambda s, x: s.end(s.n(s.a(x))),
        "which n mixes",
        _FLAT,
        a=lambda: nn.Linear(3, 6),
        n=lambda: nn.BatchNorm1d(6),
        end=lambda: nn.Linear(6, 4),
    ),
    "steps_flattened": trap(
        lambda s, x: s.end(s.a(x).reshape(2, -1)),
        "View",
        _FLAT,
        a=lambda: nn.Linear(3, 6),
        end=lambda: nn.Linear(36, 4),
    ),
    "batch_and_steps": trap(
        lambda s, x: s.end(s.a(x).view(12, -1)),
        "",
        _FLAT,
        a=lambda: nn.Linear(3, 6),
        end=lambda: nn.Linear(6, 4),
    ),
    # Channels that are mixed.
    "einsum": trap(lambda s, x: s.end(torch.einsum("nchw->nhcw", s.a(x))), "mixes"),
    "gram": trap(lambda s, x: s.end(s.a(x)).flatten(2).bmm(s.a(x).flatten(2).mT), "Bmm"),
    "normalised": trap(lambda s, x: s.end(functional.normalize(s.a(x))), "mix"),
    "sorted": trap(lambda s, x: s.end(s.a(x).sort(1)[0]), "Sort"),
    "maximum": trap(
        lambda s, x: s.end(s.a(x).max(1, keepdim=True)[0]), "Max", end=lambda: conv(1, 4)
    ),
    "flipped": trap(lambda s, x: s.end(s.a(x).flip(1)), "Flip"),
    "rolled": trap(lambda s, x: s.end(s.a(x).roll(1, 1)), "Roll"),
    "indexed": trap(lambda s, x: s.end(s.a(x)[:, [1, 0, 2, 3, 4, 5]]), "Index"),
    # Parameters.
    "softmax": trap(lambda s, x: s.end(s.a(x) * s.p.softmax(0)), "unclear", p=_parameter(6, 1, 1)),
    "reshaped": trap(
        lambda s, x: s.end(s.a(x) * s.p.view(2, 6)[0][:, None, None]), "unclear", p=_parameter(6, 2)
    ),
    "square": trap(
        lambda s, x: s.end(s.a(x) * s.p[0][:, None, None]), "unclear", p=_parameter(6, 6)
    ),
    "scaled": trap(
        lambda s, x: s.end(s.a(x) * (s.p * s.q).view(-1, 1, 1)),
        "",
        p=_parameter(6),
        q=_parameter(1),
    ),
    "also_joined": trap(
        lambda s, x: s.end(torch.cat((s.a(x) * s.p, s.p.expand(2, 6, 6, 6)), 1)),
        "joined in Cat",
        p=_parameter(1, 6, 1, 1),
        end=lambda: conv(12, 4),
    ),
    "columns_scaled": trap(lambda s, x: s.end(s.a(x) * s.p), "", p=_parameter(1, 1, 6)),
    # Layers met in unusual ways.
    "recursive": trap(lambda s, x: s.end(s.b(s.b(s.a(x)).relu())), "", b=lambda: conv(6, 6)),
    "picture_too": trap(
        lambda s, x: s.end(s.b(s.a(x)) + s.b(x)),
        "input",
        a=lambda: conv(3, 3),
        b=lambda: conv(3, 6),
    ),
    "by_name": trap(lambda s, x: s.end(s.b(input=s.a(x))), "Convolution", b=lambda: conv(6, 6)),
    "dead_branch": trap(_dead_branch, "", dead=lambda: conv(6, 3)),
    "circular": trap(
        lambda s, x: s.end(s.a(x)), "", end=lambda: conv(6, 4, 3, padding_mode="circular")
    ),
    "multiplied": trap(
        lambda s, x: s.end(s.b(s.a(x))),
        "only be removed together",
        b=lambda: conv(6, 12, groups=6),
        end=lambda: conv(12, 4),
    ),
    "narrowed": trap(
        lambda s, x: s.end(s.b(s.a(x))),
        "unequal",
        b=lambda: conv(6, 3, groups=3),
        end=lambda: conv(3, 4),
    ),
    "plain_norm": trap(
        lambda s, x: s.end(s.n(s.a(x))), "", n=lambda: nn.BatchNorm2d(6, affine=False)
    ),
    "batch_norm": trap(
        lambda s, x: s.end(s.n(s.a(x))), "", n=lambda: nn.BatchNorm2d(6, track_running_stats=False)
    ),
    "transposed_groups": trap(
        lambda s, x: s.end(s.b(s.a(x))),
        "transposed",
        b=lambda: nn.ConvTranspose2d(6, 6, 1, groups=2),
    ),
    "shared_norm": trap(
        lambda s, x: s.end(s.n(s.a(x)) - s.n(s.b(x))), "", b=conv, n=lambda: nn.BatchNorm2d(6)
    ),
}
