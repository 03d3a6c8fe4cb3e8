"""A network with less in it that computes the same: what can be folded into convolutions is.

Batch normalisation scales and shifts what a convolution gives, YOLOR's implicit layers add to what
one reads and multiply what one gives. Without images to depend on, all of it goes into kernels
and biases: the cfg of the result has no such sections, so nothing of them is left to trace.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from prune import checkpoint
from prune.errors import ExportError
from prune.models.darknet import Darknet
from prune.models.layers import Convolution
from prune.models.sections import Section, references, with_options
from prune.models.splice import renumbered, spliced
from prune.models.windows import window

TOLERANCE = 1e-9  # relative; float64 through a hundred layers differs by 1e-14 to 1e-12


def folded(net: Darknet) -> Darknet:
    """Copy a network, float32 on the CPU and in eval mode, with all folded that can be.

    An implicit layer is folded where a shift by it is read by a 1x1 convolution without padding
    alone, or where it controls a linear convolution that nothing else reads; others stay.

    Args:
        net: the network, on any device; it is not changed.

    Raises:
        ExportError: the copy computes something else on a random image, in float64.
    """
    original = in_float64(net)
    return assembled(reduced(_without_normalization(original), FOLDS), original)


def in_float64(net: Darknet) -> Darknet:
    """Copy a network to float64 on the CPU, in eval mode."""
    return copy.deepcopy(net).cpu().double().eval().requires_grad_(False)


def reduced(plain: Plain, folds: Mapping[str, Fold]) -> Plain:
    """Fold layer after layer until no fold of the table applies any more."""
    while fewer := _once(plain, folds):
        plain = fewer
    return plain


def assembled(plain: Plain, original: Darknet) -> Darknet:
    """Build the network in float32 and compare it with the one it was made from, in float64.

    Raises:
        ExportError: they differ.
    """
    found = checkpoint.assemble(plain.sections, plain.weights)
    _prove(found, original)
    return found.float().requires_grad_(False)


@torch.no_grad()
def _prove(found: Darknet, original: Darknet) -> None:
    random = torch.Generator().manual_seed(0)
    image = torch.rand(original.small_image, generator=random, dtype=torch.float64)
    for own, expected in zip(found(image), original(image), strict=True):  # [1, A*no, ny, nx]
        worst = float((own - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
        if not worst <= TOLERANCE:
            raise ExportError(
                f"folding changes what the network computes by {worst:.2g} relative; at most "
                f"{TOLERANCE:g} is allowed, so nothing is written"
            )


@dataclass(frozen=True)
class Plain:
    """A cfg and its state dict in float64, between one network and the other."""

    sections: tuple[Section, ...]
    weights: dict[str, Tensor]

    def section(self, layer: int) -> Section:
        """Return a layer's section."""
        return self.sections[layer + 1]

    def weight(self, layer: int, name: str) -> Tensor | None:
        """Return one of a layer's tensors, None where it has none of that name."""
        return self.weights.get(f"module_list.{layer}.{name}")

    def readers(self, layer: int) -> list[int]:
        """List the layers that read a layer."""
        return [
            index
            for index in range(len(self.sections) - 1)
            if layer in references(self.sections, index)
        ]

    def with_layer(self, layer: int, section: Section, weights: Mapping[str, Tensor]) -> Plain:
        """Exchange a layer's section and some of its weights, or add weights to it."""
        changed = {f"module_list.{layer}.{name}": value for name, value in weights.items()}
        before, after = self.sections[: layer + 1], self.sections[layer + 2 :]
        return replace(
            self, sections=(*before, section, *after), weights={**self.weights, **changed}
        )

    def without(self, layer: int, *, instead: int | None) -> Plain:
        """Take a layer out; who reads it reads `instead`."""
        moved = renumbered(len(self.sections) - 1, {layer})
        remaining = {}
        for name, value in self.weights.items():
            prefix, index, rest = name.split(".", 2)
            if int(index) in moved:
                remaining[f"{prefix}.{moved[int(index)]}.{rest}"] = value
        return Plain(spliced(self.sections, {layer: instead}), remaining)


def _without_normalization(net: Darknet) -> Plain:
    """Fold every batch normalisation; `net` is in float64."""
    weights = net.state_dict()
    sections = [net.sections[0]]
    for index, (section, module) in enumerate(zip(net.sections[1:], net.module_list, strict=True)):
        if isinstance(module, Convolution) and isinstance(module.BatchNorm2d, torch.nn.BatchNorm2d):
            weights |= _normalized(module.Conv2d.weight, module.BatchNorm2d, index)
            section = with_options(section, batch_normalize=0)
        sections.append(section)
    left = {name: value for name, value in weights.items() if ".BatchNorm2d." not in name}
    return Plain(tuple(sections), left)


def _normalized(
    kernel: Tensor, normalization: torch.nn.BatchNorm2d, layer: int
) -> dict[str, Tensor]:
    """Scale and shift a kernel, [out, in, kh, kw], as its normalisation would its output."""
    mean, variance = normalization.running_mean, normalization.running_var
    assert mean is not None and variance is not None  # none of ours goes without statistics
    scale = normalization.weight / (variance + normalization.eps).sqrt()  # [out]
    prefix = f"module_list.{layer}.Conv2d"
    return {
        f"{prefix}.weight": kernel * scale[:, None, None, None],
        f"{prefix}.bias": normalization.bias - mean * scale,
    }


def _once(plain: Plain, folds: Mapping[str, Fold]) -> Plain | None:
    """Fold the first layer that can be, or drop an implicit one that nothing reads any more."""
    for layer, section in enumerate(plain.sections[1:]):
        if section.kind in folds and (fewer := folds[section.kind](plain, layer)):
            return fewer
    return None


def unread(plain: Plain, layer: int) -> Plain | None:
    """Drop a layer that nothing reads."""
    return None if plain.readers(layer) else plain.without(layer, instead=None)


def _shift(plain: Plain, layer: int) -> Plain | None:
    """Give W (x + shift) + b as W x + (W shift + b): one value per channel, wherever W looks.

    Before a normalisation, W x + W shift is what it takes a lower mean from.
    """
    source, _ = references(plain.sections, layer)
    values, readers = implicit(plain, layer), plain.readers(layer)
    if not (
        values is not None
        and _is_linear(plain.section(layer))
        and readers
        and all(_sees_one_cell(plain.section(reader)) for reader in readers)
    ):
        return None
    for reader in readers:
        kernel = plain.weights[f"module_list.{reader}.Conv2d.weight"]  # [out, in / groups, 1, 1]
        groups = values.shape[1] // kernel.shape[1]
        moved = functional.conv2d(values, kernel, groups=groups).flatten()  # [out]
        name, sign = "Conv2d.bias", 1
        if plain.weight(reader, name) is None:
            name, sign = "BatchNorm2d.running_mean", -1
        before = plain.weights[f"module_list.{reader}.{name}"]
        plain = plain.with_layer(reader, plain.section(reader), {name: before + sign * moved})
    return plain.without(layer, instead=source)


def _control(plain: Plain, layer: int) -> Plain | None:
    """Give control (W x + b) as (control W) x + control b; its activation becomes the sum's.

    Where a normalisation scales and shifts W x, that takes the control.
    """
    source, _ = references(plain.sections, layer)
    section, values = plain.section(source), implicit(plain, layer)
    if not (
        values is not None
        and section.kind == "convolutional"
        and _is_linear(section)
        and plain.readers(source) == [layer]
    ):
        return None
    scaled = {}
    normalized = plain.weight(source, "BatchNorm2d.weight") is not None
    for name in ("BatchNorm2d.weight", "BatchNorm2d.bias") if normalized else _AFFINE:
        before = plain.weights[f"module_list.{source}.{name}"]  # [out, ...]
        scaled[name] = before * values.view(-1, *[1] * (before.dim() - 1))
    activation = plain.section(layer).options.get("activation", "linear")
    section = with_options(section, activation=activation)
    return plain.with_layer(source, section, scaled).without(layer, instead=source)


def implicit(plain: Plain, layer: int) -> Tensor | None:
    """Return what a layer shifts or controls by, [1, C, 1, 1], if an implicit layer gives it."""
    _, giver = references(plain.sections, layer)
    return plain.weight(giver, "implicit")


_AFFINE = ("Conv2d.weight", "Conv2d.bias")
_IMPLICIT = ("implicit_add", "implicit_mul")

Fold = Callable[[Plain, int], "Plain | None"]
"""Remove a layer, or return false if it has to stay; batch normalisation is folded by then."""

FOLDS: dict[str, Fold] = {
    "shift_channels": _shift,
    "control_channels": _control,
    **dict.fromkeys(_IMPLICIT, unread),
}


def _is_linear(section: Section) -> bool:
    return section.options.get("activation", "linear") == "linear"


def _sees_one_cell(section: Section) -> bool:
    return section.kind == "convolutional" and window(section) == (1, 0)
