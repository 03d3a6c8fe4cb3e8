"""The layer kinds of a cfg as modules, each called with the tensors it reads: module(*tensors)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .head import Yolo
from .keys import (
    activation,
    count,
    flag,
    number,
    numbers,
    positive,
    reorg_order,
    weights_normalization,
    weights_type,
)
from .layout import LayerInfo
from .sections import Section, anchor_mask, option, with_options
from .windows import dilation, step, window

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "mish": nn.Mish,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "hardswish": nn.Hardswish,
    "logistic": nn.Sigmoid,
}


def _activation(section: Section) -> nn.Module:
    return ACTIVATIONS[option(section, "activation", activation, "linear")]()


class Convolution(nn.Module):
    """Convolution, batch normalisation where the cfg asks for it, activation.

    The capital names are those of the public checkpoints.
    """

    def __init__(self, convolution: nn.Conv2d, *, normalize: bool, activation: nn.Module) -> None:
        super().__init__()
        self.Conv2d = convolution
        self.BatchNorm2d: nn.Module = nn.Identity()
        if normalize:
            self.BatchNorm2d = nn.BatchNorm2d(convolution.out_channels, eps=1e-4, momentum=0.03)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, in, H, W] to [N, out, H', W']."""
        out: Tensor = self.activation(self.BatchNorm2d(self.Conv2d(x)))
        return out


class MaxPool(nn.Module):
    """Darknet's maximum of a window: `padding` cells of -inf in all, the smaller half first.

    The output has (size in + padding - window) // stride + 1 cells.
    """

    def __init__(self, size: int, *, stride: tuple[int, int], padding: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride
        self.before, self.after = padding // 2, padding - padding // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C, H', W']."""
        if self.before == self.after and self.before <= self.size // 2:
            return functional.max_pool2d(x, self.size, self.stride, padding=self.before)
        edges = (self.before, self.after, self.before, self.after)
        padded = functional.pad(x, edges, value=-torch.inf)
        return functional.max_pool2d(padded, self.size, self.stride)


class Route(nn.Module):
    """Concatenation; with groups, of one share of each input's channels."""

    def __init__(self, groups: int = 1, group_id: int = 0) -> None:
        super().__init__()
        self.groups, self.group_id = groups, group_id

    def forward(self, *tensors: Tensor) -> Tensor:
        """Join [N, C_i, H, W] to [N, sum C_i / groups, H, W]."""
        if self.groups > 1:
            tensors = tuple(x.chunk(self.groups, dim=1)[self.group_id] for x in tensors)
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors, dim=1)


def add_leading(x: Tensor, other: Tensor) -> Tensor:
    """Add the first channels that both maps have; `x`, [N, C, H, W], keeps its width.

    Darknet's rule for a shortcut between layers of unequal widths.
    """
    width, room = other.shape[1], x.shape[1]
    if width == room:
        return x + other
    if width > room:
        return x + other[:, :room]
    return torch.cat((x[:, :width] + other, x[:, width:]), dim=1)


class Shortcut(nn.Module):
    """Sum of layers; of unequal widths the first channels of both, see `add_leading`."""

    slices_follow_widths = (
        True  # a cut moves where the shared channels end: see prune.core.trace.recorder
    )

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        """Add [N, C, H, W] up."""
        for other in others:
            x = add_leading(x, other)
        out: Tensor = self.activation(x)
        return out


# A normalisation turns the weights of a sum, [n] or [n, C], into the factors of its terms.


def _as_they_are(w: Tensor) -> Tensor:
    return w


def _relu_share(w: Tensor) -> Tensor:
    """Darknet's `relu`, as its GPU code trains it: w / sum(w), with no w below 0.001.

    It adds 0.0001 to the sum.
    """
    w = w.clamp(min=1e-3)
    return w / (w.sum(dim=0, keepdim=True) + 1e-4)


def _softmax_share(w: Tensor) -> Tensor:
    """Darknet's `softmax`, with its 0.0001 in the sum."""
    w = (w - w.amax(dim=0, keepdim=True)).exp()
    return w / (w.sum(dim=0, keepdim=True) + 1e-4)


def _sigmoid_share(w: Tensor) -> Tensor:
    """Weigh as the public PyTorch code does whatever its cfg says: 2 sigmoid(w) / n."""
    return w.sigmoid() * (2 / w.shape[0])


NORMALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": _as_they_are,
    "relu": _relu_share,
    "avg_relu": _relu_share,
    "softmax": _softmax_share,
    "sigmoid": _sigmoid_share,
}


class WeightedShortcut(nn.Module):
    """Sum with a learned weight for each input, or for each channel of each input.

    Attributes:
        w: the weights, the layer before first: [n], or [n, C] per channel.
    """

    slices_follow_widths = True  # as in Shortcut

    def __init__(
        self, shape: tuple[int, ...], *, normalization: str, activation: nn.Module
    ) -> None:
        super().__init__()
        start = 0.0 if normalization == "sigmoid" else 1.0
        self.w = nn.Parameter(torch.full(shape, start))
        self.normalization = normalization
        self.activation = activation

    def forward(self, *tensors: Tensor) -> Tensor:
        """Add [N, C, H, W] up, weighted."""
        weights = NORMALIZATIONS[self.normalization](self.w)
        weights = weights.reshape(weights.shape[0], -1, 1, 1)  # [n, 1 or C, 1, 1]
        total = tensors[0] * weights[0]
        for index, x in enumerate(tensors[1:], start=1):
            total = add_leading(total, x * weights[index])
        out: Tensor = self.activation(total)
        return out


class ScaleChannels(nn.Module):
    """Squeeze-and-excitation's last step: the layer before scales an earlier map."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, scales: Tensor, x: Tensor) -> Tensor:
        """Multiply [N, C, H, W] by [N, C, 1, 1]."""
        out: Tensor = self.activation(x * scales)
        return out


class Sam(nn.Module):
    """Spatial attention's last step: the layer before, a map of factors, times an earlier map."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, factors: Tensor, x: Tensor) -> Tensor:
        """Multiply two maps, [N, C, H, W]."""
        out: Tensor = self.activation(x * factors)
        return out


class Reorg(nn.Module):
    """Space to channels, YOLOR's order of phases: down first, then across."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C s s, H/s, W/s]."""
        s = self.stride
        phases = [x[..., row::s, column::s] for column in range(s) for row in range(s)]
        return torch.cat(phases, dim=1)


def _across_first(x: Tensor, s: int) -> Tensor:
    """Turn cells into channels, [N, C, H, W] -> [N, C s s, H/s, W/s], across before down."""
    phases = [x[..., row::s, column::s] for row in range(s) for column in range(s)]
    return torch.cat(phases, dim=1)


class Reorg3d(nn.Module):
    """Space to channels in the order of Darknet's [reorg3d]: across first, then down."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C s s, H/s, W/s]."""
        return _across_first(x, self.stride)


class DarknetReorg(nn.Module):
    """Space to channels as Darknet's [reorg] (and OpenCV's) does it.

    It reads the map's memory as if that were s s times as large with as many fewer channels, sorts
    that by phases, and calls the result C s s small channels. Where H is no multiple of s s, cells
    of two channels meet in one.
    """

    traced_as = "Darknet's [reorg]"  # what a group that reaches it is told

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, H, W] to [N, C s s, H/s, W/s]; s s divides C."""
        s = self.stride
        batch, channels, rows, columns = x.shape
        large = x.reshape(batch, channels // s**2, rows * s, columns * s)
        small = _across_first(large, s)
        return small.reshape(batch, channels * s**2, rows // s, columns // s)


class Implicit(nn.Module):
    """A learned value per channel that depends on no image (YOLOR, arXiv:2105.04206).

    Attributes:
        implicit: [1, C, 1, 1]; begins as N(mean, 0.02).
    """

    def __init__(self, channels: int, *, mean: float) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.empty(1, channels, 1, 1))
        nn.init.normal_(self.implicit, mean=mean, std=0.02)

    def forward(self) -> Tensor:
        """Give the values, [1, C, 1, 1]."""
        return self.implicit


class ShiftChannels(nn.Module):
    """Add one value per channel."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """Add [1 or N, C, 1, 1] to [N, C, H, W]."""
        out: Tensor = self.activation(x + shift)
        return out


class ControlChannels(nn.Module):
    """Multiply by one value per channel."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor, control: Tensor) -> Tensor:
        """Multiply [N, C, H, W] by [1 or N, C, 1, 1]."""
        out: Tensor = self.activation(x * control)
        return out


# A builder makes the module of a section; `info` has the widths and strides around it.
Build = Callable[[Section, LayerInfo], nn.Module]


def _convolutional(section: Section, info: LayerInfo) -> nn.Module:
    size, padding = window(section)
    normalize = bool(option(section, "batch_normalize", flag, 0))
    convolution = nn.Conv2d(
        info.in_channels,
        info.out_channels,
        size,
        stride=step(section),
        padding=padding // 2,
        dilation=dilation(section),
        groups=option(section, "groups", positive, 1),
        bias=not normalize,
    )
    return Convolution(convolution, normalize=normalize, activation=_activation(section))


def _maxpool(section: Section, _: LayerInfo) -> nn.Module:
    size, padding = window(section)
    return MaxPool(size, stride=step(section), padding=padding)


def _upsample(section: Section, _: LayerInfo) -> nn.Module:
    factor = option(section, "stride", positive, 2)
    return nn.Upsample(scale_factor=float(factor), mode="nearest")


def _route(section: Section, _: LayerInfo) -> nn.Module:
    return Route(option(section, "groups", positive, 1), option(section, "group_id", count, 0))


def _shortcut(section: Section, info: LayerInfo) -> nn.Module:
    weights = option(section, "weights_type", weights_type, "none")
    if weights == "none":
        return Shortcut(_activation(section))
    inputs = len(info.inputs)
    return WeightedShortcut(
        (inputs, info.out_channels) if weights == "per_channel" else (inputs,),
        normalization=option(section, "weights_normalization", weights_normalization, "none"),
        activation=_activation(section),
    )


def _reorg(section: Section, _: LayerInfo) -> nn.Module:
    made = REORGS[option(section, "order", reorg_order, "yolor")]
    return made(option(section, "stride", positive, 2))


REORGS: dict[str, Callable[[int], nn.Module]] = {"yolor": Reorg, "darknet": DarknetReorg}


def _region(section: Section, info: LayerInfo) -> nn.Module:
    pairs = torch.tensor(option(section, "anchors", numbers)).view(-1, 2)
    return Yolo(
        pairs * info.stride,  # written in cells
        stride=info.stride,
        classes=option(section, "classes", positive, 20),
        softmax=True,
    )


def _yolo(section: Section, info: LayerInfo) -> nn.Module:
    pairs = torch.tensor(option(section, "anchors", numbers)).view(-1, 2)
    return Yolo(
        pairs[list(anchor_mask(section))],
        stride=info.stride,
        classes=option(section, "classes", positive, 20),
        scale_x_y=option(section, "scale_x_y", number, 1.0),
        new_coords=bool(option(section, "new_coords", flag, 0)),
    )


LAYERS: dict[str, Build] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "upsample": _upsample,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": lambda section, _: ScaleChannels(_activation(section)),
    "avgpool": lambda *_: nn.AdaptiveAvgPool2d(1),
    "sam": lambda section, _: Sam(_activation(section)),
    "reorg": _reorg,
    "reorg3d": lambda section, _: Reorg3d(option(section, "stride", positive, 2)),
    "implicit_add": lambda _, info: Implicit(info.out_channels, mean=0.0),
    "implicit_mul": lambda _, info: Implicit(info.out_channels, mean=1.0),
    "shift_channels": lambda section, _: ShiftChannels(_activation(section)),
    "control_channels": lambda section, _: ControlChannels(_activation(section)),
    "dropout": lambda section, _: nn.Dropout(option(section, "probability", number, 0.5)),
    "yolo": _yolo,
    "region": _region,
}


def present(section: Section, module: nn.Module) -> Section:
    """Copy a section with the width its module has now, after pruning too."""
    if isinstance(module, Implicit):
        return with_options(section, filters=module.implicit.shape[1])
    if not isinstance(module, Convolution):
        return section
    section = with_options(section, filters=module.Conv2d.weight.shape[0])
    if module.Conv2d.groups != option(section, "groups", positive, 1):
        section = with_options(section, groups=module.Conv2d.groups)
    return section
