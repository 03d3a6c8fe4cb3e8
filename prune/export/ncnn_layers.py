"""The layers of a folded network as ncnn's, one small function a kind.

ncnn numbers the options of its layers; its documentation lists them by kind ("operators").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prune.errors import InputError
from prune.models import layers
from prune.models.darknet import Darknet
from prune.models.head import Yolo
from prune.models.sections import references

INPUT = "images"

Array = NDArray[np.float32]
Options = dict[int, int | float | str | tuple[int, ...]]


@dataclass(frozen=True)
class Op:
    """One layer of a .param: blobs it reads and gives, options, what it has in the .bin."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    options: Options = field(default_factory=dict)
    weights: tuple[NDArray[np.generic], ...] = ()

    @property
    def line(self) -> str:
        """Write it as .param text."""
        options = " ".join(_option(key, value) for key, value in self.options.items())
        names = " ".join((*self.inputs, *self.outputs))
        counts = f"{len(self.inputs)} {len(self.outputs)}"
        return f"{self.kind} {self.name} {counts} {names} {options}".rstrip()


def _option(key: int, value: float | str | tuple[int, ...]) -> str:
    if isinstance(value, str):
        return f'{key}="{value}"'
    if isinstance(value, tuple):
        return f"{-23300 - key}={len(value)},{','.join(map(str, value))}"
    return f"{key}={value:.9g}" if isinstance(value, float) else f"{key}={value}"


class Writer:
    """Collects layers; each method returns the name of the blob that comes out."""

    def __init__(self) -> None:
        self.ops = [Op("Input", INPUT, (), (INPUT,))]
        self.widths: dict[str, int] = {}  # channels of the blobs that layers give

    def add(
        self,
        kind: str,
        *inputs: str,
        options: Options | None = None,
        weights: Iterable[NDArray[np.generic]] = (),
    ) -> str:
        """Add one layer that reads these blobs."""
        name = f"{kind.lower()}{len(self.ops)}"
        self.ops.append(Op(kind, name, inputs, (name,), options or {}, tuple(weights)))
        return name

    def activated(self, source: str, activation: nn.Module) -> str:
        """Add an activation, unless it is none.

        Raises:
            InputError: ncnn has no such activation.
        """
        if isinstance(activation, nn.Identity):
            return source
        if type(activation) not in ACTIVATIONS:
            known = ", ".join(each.__name__ for each in ACTIVATIONS)
            raise InputError(f"ncnn files can have {known}, not {type(activation).__name__}")
        kind, options = ACTIVATIONS[type(activation)]
        return self.add(kind, source, options=dict(options))


def translated(net: Darknet) -> list[Op]:
    """Turn each layer into ncnn's, heads into outputs; layers that no head needs stay in.

    Raises:
        InputError: ncnn has not an activation of the network.
    """
    writer, sections = Writer(), net.sections
    blobs = {-1: INPUT}
    widths = [layer.out_channels for layer in net.layers]
    writer.widths[INPUT] = 3
    for index, module in enumerate(net.module_list):
        sources = [blobs[layer] for layer in references(sections, index)]
        blobs[index] = LAYERS[type(module)](writer, module, sources)
        writer.widths[blobs[index]] = widths[index]
    outputs = [
        Op("Noop", f"head{number}", (blobs[layer],), (f"head{number}",))
        for number, layer in enumerate(net.map_layers)
    ]
    return [*writer.ops, *outputs]


ACTIVATIONS: dict[type[nn.Module], tuple[str, dict[int, float]]] = {
    nn.SiLU: ("Swish", {}),
    nn.Mish: ("Mish", {}),
    nn.LeakyReLU: ("ReLU", {0: 0.1}),
    nn.ReLU: ("ReLU", {}),
    nn.ReLU6: ("Clip", {0: 0.0, 1: 6.0}),
    nn.Sigmoid: ("Sigmoid", {}),
    nn.Hardswish: ("HardSwish", {0: 1 / 6, 1: 0.5}),  # x clip(x / 6 + 0.5, 0, 1)
}

ADD, MULTIPLY = 0, 2  # of BinaryOp
SHAPE = 6  # of Reshape: width, height and channels as expressions of the input's
RAW = np.zeros(1, dtype=np.uint32)  # before a kernel: float32 follows


def _numbers(tensor: Tensor) -> Array:
    return np.ascontiguousarray(tensor.detach().numpy(), dtype=np.float32)


def _convolution(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    assert isinstance(module, layers.Convolution)
    own = module.Conv2d
    assert own.bias is not None and not isinstance(own.padding, str)  # folded; always numbers
    options: Options = {
        0: own.out_channels,
        1: own.kernel_size[1],
        11: own.kernel_size[0],
        3: own.stride[1],
        13: own.stride[0],
        4: own.padding[1],
        14: own.padding[0],
        5: 1,  # a bias follows
        6: own.weight.numel(),
        2: own.dilation[1],
        12: own.dilation[0],
    }
    if own.groups > 1:
        options[7] = own.groups
    kind = "ConvolutionDepthWise" if own.groups > 1 else "Convolution"
    weights = (RAW, _numbers(own.weight), _numbers(own.bias))
    return writer.activated(
        writer.add(kind, sources[0], options=options, weights=weights), module.activation
    )


def _maxpool(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    assert isinstance(module, layers.MaxPool)
    before, after = module.before, module.after
    options: Options = {
        1: module.size,
        11: module.size,
        2: module.stride[1],
        12: module.stride[0],
        3: before,
        13: before,
        14: after,
        15: after,
        5: 1,  # no cells beyond the padding
    }
    return writer.add("Pooling", sources[0], options=options)


def _average(writer: Writer, _: nn.Module, sources: Sequence[str]) -> str:
    flat = writer.add("Pooling", sources[0], options={0: 1, 4: 1})
    return writer.add("Reshape", flat, options={0: 1, 1: 1, 2: -1})  # [C] -> [C, 1, 1]


def _upsample(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    assert isinstance(module, nn.Upsample)
    scale = float(module.scale_factor)  # type: ignore[arg-type]  # the builder gives one number
    return writer.add("Interp", sources[0], options={0: 1, 1: scale, 2: scale})


def _route(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    assert isinstance(module, layers.Route)
    if module.groups > 1:
        sources = [_share(writer, source, module) for source in sources]
    return writer.add("Concat", *sources, options={0: 0}) if len(sources) > 1 else sources[0]


def _share(writer: Writer, source: str, module: layers.Route) -> str:
    """Take one of equal parts of a map's channels: Slice gives all, the others go unread."""
    shares = tuple(f"{source}_share{i}_{len(writer.ops)}" for i in range(module.groups))
    even = (-233,) * module.groups
    writer.ops.append(Op("Slice", f"slice{len(writer.ops)}", (source,), shares, {0: even, 1: 0}))
    return shares[module.group_id]


def _shortcut(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    assert isinstance(module, layers.Shortcut)
    widths = [writer.widths[source] for source in sources]
    return writer.activated(_sum(writer, sources, widths), module.activation)


def _sum(writer: Writer, sources: Sequence[str], widths: Sequence[int]) -> str:
    """Add blobs up, of unequal widths the first channels as in `layers.add_leading`."""
    total, room = sources[0], widths[0]
    for source, width in zip(sources[1:], widths[1:], strict=True):
        if width > room:
            source, _ = _split(writer, source, room)
        rest = ""
        if width < room:
            total, rest = _split(writer, total, width)
        total = writer.add("BinaryOp", total, source, options={0: ADD})
        if rest:
            total = writer.add("Concat", total, rest, options={0: 0})
    return total


def _split(writer: Writer, source: str, first: int) -> tuple[str, str]:
    """Part a map after its first channels."""
    name = f"slice{len(writer.ops)}"
    parts = (f"{name}_first", f"{name}_rest")
    writer.ops.append(Op("Slice", name, (source,), parts, {0: (first, -233), 1: 0}))
    return parts


def _weighted(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    assert isinstance(module, layers.WeightedShortcut)
    shares = layers.NORMALIZATIONS[module.normalization](module.w)  # [n] or [n, C]
    scaled = [
        _times(writer, source, share.reshape(-1))
        for source, share in zip(sources, shares, strict=True)
    ]
    widths = [writer.widths[source] for source in sources]
    return writer.activated(_sum(writer, scaled, widths), module.activation)


def _times(writer: Writer, source: str, values: Tensor) -> str:
    """Multiply a map by one value, or by one per channel."""
    if len(values) == 1:
        return writer.add("BinaryOp", source, options={0: MULTIPLY, 1: 1, 2: float(values)})
    return writer.add("Scale", source, options={0: len(values)}, weights=[_numbers(values)])


def _reorg(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    """Ours puts columns' phases outside and rows' inside, ncnn's the other way: turn, then back."""
    assert isinstance(module, layers.Reorg)
    turned = writer.add("Permute", sources[0], options={0: 1})
    phases = writer.add("Reorg", turned, options={0: module.stride, 1: 1})
    return writer.add("Permute", phases, options={0: 1})


def _reorg3d(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    assert isinstance(module, layers.Reorg3d)
    return writer.add("Reorg", sources[0], options={0: module.stride, 1: 1})


def _darknet_reorg(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
    """Read the map as a larger one, sort that, read the result as a smaller one.

    The sizes are computed from those of the image, which takes an ncnn of 2025 or newer.
    """
    assert isinstance(module, layers.DarknetReorg)
    s, square = module.stride, module.stride**2
    larger: Options = {SHAPE: f"*(0w,{s}),*(0h,{s}),//(0c,{square})"}
    smaller: Options = {SHAPE: f"//(0w,{s}),//(0h,{s}),*(0c,{square})"}
    large = writer.add("Reshape", sources[0], options=larger)
    phases = writer.add("Reorg", large, options={0: s, 1: 1})  # [C, h, w] again
    return writer.add("Reshape", phases, options=smaller)


def _implicit(writer: Writer, module: nn.Module, _: Sequence[str]) -> str:
    assert isinstance(module, layers.Implicit)
    values = _numbers(module.implicit)
    return writer.add("MemoryData", options={0: 1, 1: 1, 2: values.size}, weights=[values])


def _broadcast(operation: int) -> Layer:
    """Combine a map with one value per channel, or with another map."""

    def add(writer: Writer, module: nn.Module, sources: Sequence[str]) -> str:
        assert isinstance(module.activation, nn.Module)
        joined = writer.add("BinaryOp", *sources, options={0: operation})
        return writer.activated(joined, module.activation)

    return add


def _same(_writer: Writer, _: nn.Module, sources: Sequence[str]) -> str:
    return sources[0]


Layer = Callable[[Writer, nn.Module, Sequence[str]], str]
"""(writer, module, blobs it reads) -> blob it gives."""

LAYERS: dict[type[nn.Module], Layer] = {
    layers.Convolution: _convolution,
    layers.MaxPool: _maxpool,
    nn.AdaptiveAvgPool2d: _average,
    nn.Upsample: _upsample,
    layers.Route: _route,
    layers.Shortcut: _shortcut,
    layers.WeightedShortcut: _weighted,
    layers.ScaleChannels: _broadcast(MULTIPLY),
    layers.Sam: _broadcast(MULTIPLY),
    layers.Reorg: _reorg,
    layers.Reorg3d: _reorg3d,
    layers.DarknetReorg: _darknet_reorg,
    layers.Implicit: _implicit,
    layers.ShiftChannels: _broadcast(ADD),
    layers.ControlChannels: _broadcast(MULTIPLY),
    nn.Dropout: _same,
    Yolo: _same,
}
