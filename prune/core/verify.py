"""Verify a cut: the pruned network computes what the original does with removed channels at zero.

This is a numerical comparison on random inputs, within a tolerance. The zeros are put where a
removed channel is read, in front of each consumer, so that the comparison is exact for every
activation and normalisation, also those that make something else of zero. A channel that is used in
any other way, or a coupling that is off by one, makes the two networks differ. Every layer is
compared, not the outputs alone: where the weights let signals die away, nothing shows there.

Layers that were removed are skipped in the original: there a sum passes on only one of its terms.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from prune.core.masking import Skip, channel_axis, masked, skipped
from prune.core.plan import Plan, Removed, removed
from prune.core.trace.groups import Group
from prune.core.trace.meta import tensors_in
from prune.errors import VerificationError

RELATIVE = 1e-3  # of a layer's largest value: how far rounding may take it in float32


def verify(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[Group],
    plan: Plan,
    *,
    shape: tuple[int, ...],
    skip: Skip | None = None,
    tolerance: float = 1e-4,
    seed: int = 0,
) -> float:
    """Compare the two networks on a random input.

    Args:
        original: the network the plan was made for, in eval mode.
        pruned: what `apply_plan` made of it.
        groups: of the original.
        plan: the cut.
        shape: of the input, e.g. (1, 3, 64, 64); values are uniform in [0, 1).
        skip: the layers that were removed; None for none.
        tolerance: largest absolute difference that passes. Outputs far from 1 can differ by more
            through the rounding of float32 alone: then both networks run again in float64, where
            the difference has to be a thousand times smaller.
        seed: of the input.

    Returns:
        The largest absolute difference of any output, in the networks' own precision.

    Raises:
        VerificationError: the outputs differ, have other shapes or are not finite, or the pruned
            network does not run.
    """
    weight = next(original.parameters())
    image = torch.rand(shape, generator=Generator().manual_seed(seed))
    given = [image.to(weight)]  # its device and precision
    return verify_on(original, pruned, groups, plan, inputs=given, skip=skip, tolerance=tolerance)


def verify_on(
    original: nn.Module,
    pruned: nn.Module,
    groups: Sequence[Group],
    plan: Plan,
    *,
    inputs: Sequence[Tensor],
    skip: Skip | None = None,
    tolerance: float = 1e-4,
) -> float:
    """Compare the two networks on given inputs; the rest is as with `verify`."""
    change = _Change(removed(groups, plan), skip)
    first = _compare(original, pruned, change, inputs)
    if first.outputs <= tolerance and first.layers <= RELATIVE:
        return first.outputs
    exact, cut = copy.deepcopy(original).double(), copy.deepcopy(pruned).double()
    finer = [value.double() if value.is_floating_point() else value for value in inputs]
    second = _compare(exact, cut, change, finer)
    if second.outputs > tolerance / 1000 or second.layers > RELATIVE / 1000:
        raise VerificationError(
            f"the pruned network differs from the masked original by {first.outputs:.3g} "
            f"(allowed: {tolerance:g}), a layer by {first.layers:.3g} of its largest value "
            f"(allowed: {RELATIVE:g}); the first layer to differ is "
            f"{second.parting or 'none, only what follows the last one'}"
        )
    return first.outputs


@dataclass(frozen=True)
class _Change:
    """What was removed from the original: channels, and layers."""

    gone: Removed
    skip: Skip | None


@dataclass(frozen=True)
class _Comparison:
    """How far two networks are apart.

    Attributes:
        outputs: largest absolute difference.
        layers: largest difference as a fraction of the layer's largest value.
        parting: the first layer that differs, "" for none.
    """

    outputs: float
    layers: float
    parting: str


def _compare(
    original: nn.Module, pruned: nn.Module, change: _Change, inputs: Sequence[Tensor]
) -> _Comparison:
    """Run both networks and compare their outputs and every layer between."""
    gone, skip = change.gone, change.skip
    with (
        torch.inference_mode(),
        masked(original, gone),
        skipped(original, skip.passes if skip else {}),
        _recorded(original, gone) as layers,
    ):
        expected = tensors_in(original(*inputs))
    with torch.inference_mode(), _recorded(pruned, {}) as pruned_layers:
        try:
            found = tensors_in(pruned(*inputs))
        except RuntimeError as error:
            raise VerificationError(f"the pruned network does not run: {error}") from error
    _check_shapes(expected, found)
    for name, outputs in (("masked original", expected), ("pruned network", found)):
        if not all(tensor.isfinite().all() for tensor in outputs):
            raise VerificationError(
                f"the {name} returns values that are NaN or infinite; check the weights"
            )
    names = _partners(layers, pruned_layers, skip)
    relative = {name: _relative(layers[name], pruned_layers[new]) for name, new in names.items()}
    largest = max(relative.values(), default=0.0)
    return _Comparison(
        outputs=max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0),
        layers=largest,
        parting=next((name for name, own in relative.items() if own > largest / 100), ""),
    )


def _partners(
    layers: Mapping[str, Tensor], pruned_layers: Mapping[str, Tensor], skip: Skip | None
) -> dict[str, str]:
    """Return the name in the pruned network of each layer of the original that is still there."""
    stay = skip.names if skip else dict(zip(layers, layers, strict=True))
    names = {name: stay[name] for name in layers if name in stay}
    if strays := set(names.values()).symmetric_difference(pruned_layers):
        raise VerificationError(
            f"{min(strays)} is in one of the two networks only, or did not run in one"
        )
    return names


def _check_shapes(expected: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    before, after = ([list(t.shape) for t in tensors] for tensors in (expected, found))
    if before != after:
        raise VerificationError(f"the outputs had shapes {before}, after the cut {after}")


def _relative(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference as a fraction of the largest value; 1 where shapes differ."""
    if expected.shape != found.shape:
        return 1.0
    scale = expected.abs().max().item() if expected.numel() else 0.0
    difference = _difference(expected, found)
    return difference / scale if scale else difference


def _difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape, whatever they hold."""
    if not expected.is_floating_point():
        expected, found = expected.double(), found.double()
    return (expected - found).abs().max().item() if expected.numel() else 0.0


@contextmanager
def _recorded(net: nn.Module, gone: Removed) -> Iterator[dict[str, Tensor]]:
    """Collect what each convolution and linear layer returns, less the removed channels."""
    outputs: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        leaving = set(gone.get((name, "out"), ()))

        def keep(module: nn.Module, _: object, output: Tensor) -> None:
            axis = channel_axis(module)
            left = [i for i in range(output.shape[axis]) if i not in leaving]
            index = torch.tensor(left, device=output.device)
            # A copy in any case: an activation behind it may work in place.
            outputs[name] = output.index_select(axis, index) if leaving else output.clone()

        return keep

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in net.named_modules()
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
