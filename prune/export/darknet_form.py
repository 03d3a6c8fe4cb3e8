"""A network in Darknet's own sections: what YOLOR added is folded, or written as convolutions.

Implicit layers go into the convolutions around them. Where they cannot, one value per channel is
added or multiplied by a convolution of one group per channel; YOLOR's [reorg], whose order of
channels Darknet's does not have, is a convolution of zeros and ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from prune.common.wording import few
from prune.errors import InputError
from prune.export.fold import FOLDS, Fold, Plain, assembled, implicit, in_float64, reduced, unread
from prune.models.darknet import Darknet
from prune.models.keys import positive
from prune.models.layers import NORMALIZATIONS
from prune.models.layout import layout
from prune.models.sections import Section, option, references, with_options

# Our activations -> Darknet's words for them; what is missing Darknet does not have.
ACTIVATIONS = {
    "linear": "linear",
    "leaky": "leaky",
    "relu": "relu",
    "relu6": "relu6",
    "mish": "mish",
    "silu": "swish",
    "swish": "swish",
    "logistic": "logistic",
}
_IMPLICIT = ("implicit_add", "implicit_mul")
_BROADCASTS = ("shift_channels", "control_channels")


def darknet_form(net: Darknet) -> Darknet:
    """Copy a network, in eval mode on the CPU, so that its sections are Darknet's own.

    Batch normalisation stays, so that Darknet can train the network further.

    Raises:
        InputError: layers that Darknet cannot express, each with the reason.
        ExportError: the copy computes something else, in float64.
    """
    original = in_float64(net)
    _expect_expressible(original.sections)
    plain = Plain(original.sections, dict(original.state_dict()))
    plain = reduced(reduced(plain, FOLDS), SPELLED_OUT)
    return assembled(replace(plain, sections=tuple(map(_in_its_words, plain.sections))), original)


def _expect_expressible(sections: Sequence[Section]) -> None:
    """Refuse a network with layers that Darknet cannot express.

    Raises:
        InputError: there are some; the message names them and the reason.
    """
    reasons: dict[str, list[int]] = {}
    for layer, section in enumerate(sections[1:]):
        if reason := _inexpressible(sections, layer, section):
            reasons.setdefault(reason, []).append(layer)
    if reasons:
        listed = "; ".join(f"{_layers(layers)} {reason}" for reason, layers in reasons.items())
        raise InputError(f"Darknet cannot express this network: {listed}")


def _inexpressible(sections: Sequence[Section], layer: int, section: Section) -> str:
    """Say why Darknet has no such layer; "" if it has."""
    activation = section.options.get("activation", "linear")
    if activation not in ACTIVATIONS:
        words = f"activation={activation}, which Darknet does not have"
        return f"has {words}; train with another --activation, e.g. relu"
    if section.kind in _BROADCASTS:
        giver = references(sections, layer)[1]
        if sections[giver + 1].kind not in _IMPLICIT:
            return f"is [{section.kind}] by layer {giver}, which is not an implicit layer"
    if section.kind in _IMPLICIT:
        for reader in range(layer + 1, len(sections) - 1):
            other = sections[reader + 1]
            by_value = other.kind in _BROADCASTS and references(sections, reader)[0] != layer
            if layer in references(sections, reader) and not by_value:
                return f"is [{section.kind}], which layer {reader}, a [{other.kind}], reads"
    return ""


def _layers(numbers: Sequence[int]) -> str:
    shown = few(numbers)
    return f"layer {shown}" if len(numbers) == 1 else f"each of the layers {shown}"


def _in_its_words(section: Section) -> Section:
    activation = section.options.get("activation")
    if activation is None or ACTIVATIONS[activation] == activation:
        return section
    return with_options(section, activation=ACTIVATIONS[activation])


def _shift(plain: Plain, layer: int) -> Plain | None:
    """Add one value per channel as the bias of a convolution that changes nothing else."""
    values = implicit(plain, layer)
    if values is None:
        return None
    return _per_channel(plain, layer, scale=torch.ones_like(values), bias=values)


def _control(plain: Plain, layer: int) -> Plain | None:
    """Multiply by one value per channel in a convolution."""
    values = implicit(plain, layer)
    if values is None:
        return None
    return _per_channel(plain, layer, scale=values, bias=torch.zeros_like(values))


def _per_channel(plain: Plain, layer: int, *, scale: Tensor, bias: Tensor) -> Plain:
    """Put a convolution of one group per channel into a layer's place; both are [1, C, 1, 1]."""
    channels = scale.shape[1]
    activation = plain.section(layer).options.get("activation", "linear")
    section = _convolution(filters=channels, size=1, stride=1, groups=channels)
    kernel = scale.view(channels, 1, 1, 1)
    section = replace(section, comments=plain.section(layer).comments)
    return plain.with_layer(
        layer,
        with_options(section, activation=activation),
        {"Conv2d.weight": kernel, "Conv2d.bias": bias.flatten()},
    )


def _reorg(plain: Plain, layer: int) -> Plain | None:
    """Sort cells into channels by a kernel of zeros and ones, in YOLOR's order: down first."""
    section = plain.section(layer)
    if section.options.get("order", "yolor") != "yolor":
        return None
    stride, channels = option(section, "stride", positive, 2), _width_before(plain, layer)
    kernel = torch.zeros(stride * stride * channels, channels, stride, stride, dtype=torch.float64)
    for row in range(stride):
        for column in range(stride):
            first = (column * stride + row) * channels
            kernel[range(first, first + channels), range(channels), row, column] = 1
    made = _convolution(filters=len(kernel), size=stride, stride=stride, groups=1)
    return plain.with_layer(
        layer,
        replace(made, comments=section.comments),
        {"Conv2d.weight": kernel, "Conv2d.bias": torch.zeros(len(kernel), dtype=torch.float64)},
    )


def _width_before(plain: Plain, layer: int) -> int:
    return layout(plain.sections)[layer].in_channels


def _convolution(*, filters: int, size: int, stride: int, groups: int) -> Section:
    options = {
        **{"batch_normalize": "0", "filters": str(filters), "size": str(size)},
        **{"stride": str(stride), "pad": "0", "groups": str(groups), "activation": "linear"},
    }
    return Section("convolutional", options)


def _weighted(plain: Plain, layer: int) -> Plain | None:
    """Weigh a sum by 2 sigmoid(w) / n, a rule that Darknet does not know, as plain weights."""
    section = plain.section(layer)
    if section.options.get("weights_normalization") != "sigmoid":
        return None
    w = plain.weights[f"module_list.{layer}.w"]
    section = with_options(section, weights_normalization="none")
    return plain.with_layer(layer, section, {"w": NORMALIZATIONS["sigmoid"](w)})


SPELLED_OUT: dict[str, Fold] = {
    "shift_channels": _shift,
    "control_channels": _control,
    "reorg": _reorg,
    "shortcut": _weighted,
    **dict.fromkeys(_IMPLICIT, unread),
}
