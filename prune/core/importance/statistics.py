"""Statistics of images about the channels of layers: gradients of a loss, and activations."""

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
"""(outputs of the network, targets of the batch) -> a number."""


@dataclass(frozen=True)
class Statistics:
    """What was gathered, by the name of a convolution or linear layer.

    Attributes:
        change: weight times the gradient of the loss over all images, in the weight's shape.
        gate: gradient of the per-image loss with respect to a gate on each input channel,
            [inputs, images].
        activity: mean absolute value of an input, [inputs].
        images: number of images.
    """

    change: Mapping[str, Tensor] = field(default_factory=dict)
    gate: Mapping[str, Tensor] = field(default_factory=dict)
    activity: Mapping[str, Tensor] = field(default_factory=dict)
    images: int = 0


def gather(
    net: nn.Module, batches: Iterable[tuple[Tensor, object]], loss: Loss, *, what: str
) -> Statistics:
    """Run images through a network in eval mode; its weights and mode do not change.

    The gradient per image is exact where the loss of a batch is a sum over its images; a loss that
    is divided by something all of them have in common weights the images of a batch alike.

    Args:
        net: takes images [N, C, H, W], or whatever the batches contain first.
        batches: images and their targets.
        loss: see Loss; not called for activity.
        what: "change", "gate" or "activity".

    Raises:
        PlanError: no images, or a loss that is not finite.
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
) -> Statistics:
    weights = {name: _weight(layer).requires_grad_() for name, layer in layers.items()}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    images = 0
    for batch, targets in batches:
        value = _finite(loss(net(batch), targets))
        gradients = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
        for total, gradient in zip(sums.values(), gradients, strict=True):
            if gradient is not None:
                total += gradient
        images += len(batch)
    _some(images)
    return Statistics(change={n: weights[n].detach() * sums[n] for n in weights}, images=images)


def _gates(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, object]],
    loss: Loss,
) -> Statistics:
    columns: dict[str, list[Tensor]] = defaultdict(list)
    images = 0
    for batch, targets in batches:
        own: dict[str, Tensor] = {}

        def note(name: str, inputs: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            seen = inputs.view_as(inputs)  # other readers of the same tensor stay separate
            if not seen.requires_grad:
                seen.requires_grad_()
            values = inputs.detach()  # a hook that referred to `seen` would never let go of both

            def add(gradient: Tensor) -> None:
                rows = _by_channel(layers[name], values * gradient)  # [N, inputs]
                own[name] = own[name] + rows if name in own else rows

            seen.register_hook(add)  # type: ignore[no-untyped-call]  # torch has no types here
            return seen

        with _watching(layers, note):
            _finite(loss(net(batch), targets)).backward()  # type: ignore[no-untyped-call]
        for name, rows in own.items():
            columns[name].append(rows)
        images += len(batch)
    _some(images)
    return Statistics(gate={n: torch.cat(rows).T for n, rows in columns.items()}, images=images)


def _activity(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, object]],
    _: Loss,
) -> Statistics:
    sums: dict[str, Tensor] = {}
    places: dict[str, int] = defaultdict(int)

    def note(name: str, inputs: Tensor) -> Tensor:
        rows = _by_channel(layers[name], inputs.abs())  # [N, inputs]
        sums[name] = sums[name] + rows.sum(dim=0) if name in sums else rows.sum(dim=0)
        places[name] += inputs.numel() // rows.shape[1]
        return inputs

    images = 0
    with torch.no_grad(), _watching(layers, note):
        for batch, _targets in batches:
            net(batch)
            images += len(batch)
    _some(images)
    return Statistics(activity={n: total / places[n] for n, total in sums.items()}, images=images)


_GATHERERS = {"change": _change, "gate": _gates, "activity": _activity}


@contextmanager
def _watching(
    layers: Mapping[str, nn.Module], note: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """Pass the input of each layer to `note`; the layer continues with what that returns."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        return lambda _, inputs: (note(name, inputs[0]), *inputs[1:])

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _by_channel(layer: nn.Module, values: Tensor) -> Tensor:
    """Sum the input of a layer over all axes but images and channels, [N, channels]."""
    axis = values.dim() - 1 if isinstance(layer, nn.Linear) else 1
    rest = [dim for dim in range(1, values.dim()) if dim != axis]
    return values.sum(dim=rest) if rest else values


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _finite(value: Tensor) -> Tensor:
    if not value.isfinite():
        raise PlanError(f"the loss is {value.item()}; the network or its images are broken")
    return value


def _some(images: int) -> None:
    if not images:
        raise PlanError("there are no images to compute the importance of channels from")
