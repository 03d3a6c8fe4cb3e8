"""The layers that read channels, in the order they run, and the normalisation behind each."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import UnionType
from typing import cast

import torch
from torch import Tensor, nn

from prune.common.eval_mode import evaluating

Layer = nn.modules.conv._ConvNd | nn.Linear
Norm = nn.modules.batchnorm._BatchNorm
Kinds = type[nn.Module] | tuple[type[nn.Module], ...] | UnionType
Watch = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer of a network.

    Attributes:
        name: its path.
        norm: path of the BatchNorm that takes its output as it is; None where none does, or where
            either of the two runs more than once.
        calls: how often it runs in one pass.
    """

    name: str
    norm: str | None
    calls: int


def readers(net: nn.Module, image: Tensor) -> tuple[Reader, ...]:
    """Run a network once and list the layers that ran, in order.

    Args:
        net: any network; its weights and its mode do not change.
        image: one input, e.g. [1, 3, H, W].
    """
    calls: Counter[str] = Counter()  # keeps the order of first calls
    made: list[tuple[str, weakref.ref[Tensor]]] = []
    norms: dict[str, str] = {}  # layer -> norm

    def layer_done(name: str, output: Tensor) -> None:
        calls[name] += 1
        made.append((name, weakref.ref(output)))

    def norm_begins(name: str, value: Tensor) -> None:
        calls[name] += 1
        norms.update({layer: name for layer, output in made if output() is value})

    layers = watching(net, Layer, after=layer_done)
    with evaluating(net), layers, watching(net, Norm, before=norm_begins):
        net(image)
    once = {name for name, count in calls.items() if count == 1}
    return tuple(
        Reader(name, norms.get(name) if {name, norms.get(name)} <= once else None, count)
        for name, count in calls.items()
        if isinstance(net.get_submodule(name), Layer)
    )


def paired(
    pruned: nn.Module, image: Tensor, names: Mapping[str, str] | None
) -> tuple[tuple[str, Reader], ...]:
    """List the layers of a pruned network, in order, each with its name in the original.

    Args:
        pruned: it does not change.
        image: one input, e.g. [1, 3, H, W].
        names: the original's names -> the pruned one's; None where they are the same.
    """
    found = readers(pruned, image)
    if names is None:
        return tuple((reader.name, reader) for reader in found)
    before = {now: name for name, now in names.items()}
    return tuple((before[reader.name], reader) for reader in found)


@contextmanager
def watching(
    net: nn.Module,
    kinds: Kinds,
    *,
    names: Iterable[str] | None = None,
    before: Watch | None = None,
    after: Watch | None = None,
) -> Iterator[None]:
    """Call `before(name, input)` or `after(name, output)` at every module of some kinds."""
    chosen = None if names is None else set(names)
    hooks = []
    for name, module in net.named_modules():
        if not isinstance(module, kinds) or (chosen is not None and name not in chosen):
            continue
        if before is not None:
            hooks.append(module.register_forward_pre_hook(_before(name, before)))
        if after is not None:
            hooks.append(module.register_forward_hook(_after(name, after)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _before(name: str, watch: Watch) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _, inputs: watch(name, inputs[0])


def _after(name: str, watch: Watch) -> Callable[[nn.Module, object, Tensor], None]:
    return lambda _, __, output: watch(name, output)


def axis(layer: nn.Module) -> int:
    """Return the axis of channels in a layer's input and output."""
    return -1 if isinstance(layer, nn.Linear) else 1


def move_output(net: nn.Module, reader: Reader, offset: Tensor) -> bool:
    """Add a constant per channel, [out], to the output of a layer; return whether that is possible.

    It is added to the layer's bias or, without one, to the mean of the normalisation behind it.
    """
    layer = cast("nn.Conv2d", net.get_submodule(reader.name))
    with torch.no_grad():
        if layer.bias is not None:
            layer.bias += offset.to(layer.bias)
            return True
        mean = norm_mean(net, reader)
        if mean is not None:
            mean -= offset.to(mean)
    return mean is not None


def norm_mean(net: nn.Module, reader: Reader) -> Tensor | None:
    """Return the running mean behind a layer, [out]; None where there is none."""
    if reader.norm is None:
        return None
    return cast(Norm, net.get_submodule(reader.norm)).running_mean


def level(net: nn.Module, reader: Reader) -> Tensor:
    """Return the constant in a layer's output as counted from the mean behind it, [out]."""
    layer = cast("nn.Conv2d", net.get_submodule(reader.name))
    bias, mean = layer.bias, norm_mean(net, reader)
    outputs = getattr(layer, "out_channels", None) or cast("nn.Linear", layer).out_features
    zero = layer.weight.detach().new_zeros(outputs)
    return (zero if bias is None else bias.detach()) - (zero if mean is None else mean)
