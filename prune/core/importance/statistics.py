"""What only pictures tell of a layer's channels: gradients of a loss, and how active they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prune.common.eval_mode import evaluating
from prune.errors import PlanError

Loss = Callable[[object, object], Tensor]
"""(what the network returned, the batch's targets) -> a number."""


@dataclass(frozen=True)
class Evidence:
    """What was gathered, by the name of a convolution or linear layer.

    Attributes:
        change: weight times the loss's gradient over all pictures, in the weight's shape.
        gate: derivative of each picture's loss by a factor on an input, [inputs, pictures].
        activity: mean absolute value of an input, [inputs].
        images: how many pictures it is of.
    """

    change: Mapping[str, Tensor] = field(default_factory=dict)
    gate: Mapping[str, Tensor] = field(default_factory=dict)
    activity: Mapping[str, Tensor] = field(default_factory=dict)
    images: int = 0


def gather(
    net: nn.Module, batches: Iterable[tuple[Tensor, object]], loss: Loss, *, what: str
) -> Evidence:
    """Run pictures through a network in eval mode; weights and mode are left as they were.

    A picture's own gradient is exact where the loss of a batch is a sum over its pictures; one
    that divides by something all of them share weights the pictures of a batch alike.

    Args:
        net: takes pictures [N, C, H, W], or what else the batches hold first.
        batches: pictures and their targets.
        loss: see Loss; not called for activity.
        what: "change", "gate" or "activity".

    Raises:
        PlanError: no pictures, or a loss that is not finite.
    """
    layers = {name: m for name, m in net.named_modules() if _counts(m)}
    gather_one = _GATHERERS[what]
    learning = {parameter: parameter.requires_grad for parameter in net.parameters()}
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with evaluating(net), torch.enable_grad():
            return gather_one(net, layers, batches, loss)
    finally:
        for parameter, learns in learning.items():
            parameter.requires_grad_(learns)


def _counts(module: nn.Module) -> bool:
    return isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))


def _change(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, object]],
    loss: Loss,
) -> Evidence:
    weights = {name: _weight(layer).requires_grad_() for name, layer in layers.items()}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    images = 0
    for pictures, targets in batches:
        value = _finite(loss(net(pictures), targets))
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient
        images += len(pictures)
    _some(images)
    return Evidence(change={n: weights[n].detach() * sums[n] for n in weights}, images=images)


def _gates(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, object]],
    loss: Loss,
) -> Evidence:
    columns: dict[str, list[Tensor]] = defaultdict(list)
    images = 0
    for pictures, targets in batches:
        own: dict[str, Tensor] = {}

        def note(name: str, inputs: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            seen = inputs.view_as(inputs)  # what other readers of the same tensor do stays apart
            if not seen.requires_grad:
                seen.requires_grad_()
            values = inputs.detach()  # a hook that held `seen` itself would keep both for good

            def add(gradient: Tensor) -> None:
                rows = _by_channel(layers[name], values * gradient)  # [N, inputs]
                own[name] = own[name] + rows if name in own else rows

            seen.register_hook(add)  # type: ignore[no-untyped-call]  # torch has no types here
            return seen

        with _watching(layers, note):
            _finite(loss(net(pictures), targets)).backward()  # type: ignore[no-untyped-call]
        for name, rows in own.items():
            columns[name].append(rows)
        images += len(pictures)
    _some(images)
    return Evidence(gate={n: torch.cat(rows).T for n, rows in columns.items()}, images=images)


def _activity(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, object]],
    _: Loss,
) -> Evidence:
    sums: dict[str, Tensor] = {}
    places: dict[str, int] = defaultdict(int)

    def note(name: str, inputs: Tensor) -> Tensor:
        rows = _by_channel(layers[name], inputs.abs())  # [N, inputs]
        sums[name] = sums[name] + rows.sum(dim=0) if name in sums else rows.sum(dim=0)
        places[name] += inputs.numel() // rows.shape[1]
        return inputs

    images = 0
    with torch.no_grad(), _watching(layers, note):
        for pictures, _targets in batches:
            net(pictures)
            images += len(pictures)
    _some(images)
    return Evidence(activity={n: total / places[n] for n, total in sums.items()}, images=images)


_GATHERERS = {"change": _change, "gate": _gates, "activity": _activity}


@contextmanager
def _watching(
    layers: Mapping[str, nn.Module], note: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """Hand what each layer reads to `note`; the layer goes on with what that returns."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _, inputs: (note(name, inputs[0]), *inputs[1:])

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _by_channel(layer: nn.Module, values: Tensor) -> Tensor:
    """Sum what a layer reads over all but pictures and channels, [N, channels]."""
    axis = values.dim() - 1 if isinstance(layer, nn.Linear) else 1
    rest = [dim for dim in range(1, values.dim()) if dim != axis]
    return values.sum(dim=rest) if rest else values


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _finite(value: Tensor) -> Tensor:
    if not value.isfinite():
        raise PlanError(f"the loss is {value.item()}; the network or its pictures are broken")
    return value


def _some(images: int) -> None:
    if not images:
        raise PlanError("there are no pictures to rank channels by")
