"""Which layer reads which, how wide and at which stride: a cfg checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prune.common.dimensions import CHANNELS, KERNEL, LAYERS, STRIDE, WEIGHTS
from prune.errors import CfgError

from .keys import (
    HEADS,
    KEYS,
    activation,
    count,
    flag,
    numbers,
    one_of,
    positive,
    reorg_order,
    weights_type,
)
from .sections import Section, anchor_mask, fault, heads, option, references
from .windows import Strides, check_extent, check_grid, step, window

EVERYWHERE: Strides = (0, 0)  # one cell for the whole image: implicit layers, global average


@dataclass(frozen=True)
class LayerInfo:
    """One layer's place in the network.

    Attributes:
        index: its position in module_list.
        kind: its section's name.
        inputs: the layers it reads, in the order its module takes them; -1 is the image.
        in_channels: width of what it reads: of a route all inputs, of a sum or product one.
        out_channels: width of what it gives.
        strides: image pixels per cell, down and across; 0 where one cell stands for the image.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    in_channels: int
    out_channels: int
    strides: Strides

    @property
    def stride(self) -> int:
        """Image pixels per cell, down."""
        return self.strides[0]


def layout(sections: Sequence[Section]) -> tuple[LayerInfo, ...]:
    """Follow widths and strides through a cfg.

    Raises:
        CfgError: a reference to a layer that is not there, layers whose shapes do not fit, or what
            is above the limits of `prune.common.dimensions`.
    """
    if len(sections) - 1 > LAYERS:
        raise fault(sections[0], "", f"{len(sections) - 1:,} layers follow; at most {LAYERS:,} may")
    if not heads(sections):
        problem = "no [yolo] or [region] follows; a detector has at least one head"
        raise fault(sections[0], "", problem)
    channels = option(sections[0], "channels", positive, 3)
    done = {-1: LayerInfo(-1, "net", (), channels, channels, (1, 1))}
    for index, section in enumerate(sections[1:]):
        inputs = references(sections, index)
        sources = tuple(done[i] for i in inputs)
        for source in sources:
            if source.kind in HEADS:
                problem = f"layer {index} reads layer {source.index}, a [{source.kind}] head"
                raise fault(section, "", problem)
        width, strides = RULES[section.kind](section, sources)
        if width > CHANNELS:
            raise fault(section, "", f"gives {width:,} channels; at most {CHANNELS:,} are allowed")
        read = sources if section.kind == "route" else sources[:1]
        read_width = sum(source.out_channels for source in read)
        done[index] = LayerInfo(index, section.kind, inputs, read_width, width, strides)
    decoded_layers(sections)
    layers = tuple(done[index] for index in range(len(sections) - 1))
    _check_windows(sections, layers)
    _check_stride(sections, layers)
    _check_weights(sections, layers)
    return layers


def common_stride(layers: Iterable[LayerInfo]) -> int:
    """Return what every layer's stride divides; sides of an image must be multiples of it."""
    return math.lcm(*(stride for layer in layers for stride in layer.strides if stride))


def _check_stride(sections: Sequence[Section], layers: Sequence[LayerInfo]) -> None:
    stride = 1
    for layer in layers:
        stride = math.lcm(stride, common_stride([layer]))
        if stride > STRIDE:
            problem = f"makes the network's stride {stride:,}; at most {STRIDE:,} are allowed"
            raise fault(sections[layer.index + 1], "", problem)


def _check_weights(sections: Sequence[Section], layers: Sequence[LayerInfo]) -> None:
    pairs = zip(sections[1:], layers, strict=True)
    total = sum(_weights(s, layer) for s, layer in pairs if layer.kind == "convolutional")
    if total > WEIGHTS:
        problem = f"its convolutions have {total:,} weights; at most {WEIGHTS:,} are allowed"
        raise fault(sections[0], "", problem)


def _weights(section: Section, layer: LayerInfo) -> int:
    groups = option(section, "groups", positive, 1)
    return layer.out_channels * layer.in_channels // groups * window(section)[0] ** 2


def _check_windows(sections: Sequence[Section], layers: Sequence[LayerInfo]) -> None:
    """Check the windows that a head, or a layer with several inputs, looks through."""
    gridded: set[int] = set()
    for layer in reversed(layers):
        counts = layer.kind in (*HEADS, "reorg", "reorg3d") or len(layer.inputs) > 1
        if counts or (layer.index in gridded and layer.kind != "avgpool"):
            gridded.update(layer.inputs)
    for layer in layers:
        one_cell = layer.strides == EVERYWHERE
        if layer.kind in ("convolutional", "maxpool") and (one_cell or layer.index in gridded):
            check_grid(sections[layer.index + 1], one_cell=one_cell)


# A rule gives a layer's width and strides from its section and from what it reads.
Rule = Callable[[Section, Sequence[LayerInfo]], tuple[int, Strides]]


def _convolutional(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    filters = option(section, "filters", positive)
    groups = option(section, "groups", positive, 1)
    width = sources[0].out_channels
    if width % groups or filters % groups:
        problem = f"{groups} must divide {width} channels in and {filters} filters"
        raise fault(section, "groups", problem)
    option(section, "activation", activation)
    weights = filters * width // groups * window(section)[0] ** 2
    if weights > KERNEL:
        problem = f"{filters} from {width} channels take {weights:,} weights; at most"
        raise fault(section, "filters", f"{problem} {KERNEL:,} go into one layer")
    return filters, _down(section, sources[0])


def _maxpool(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    return sources[0].out_channels, _down(section, sources[0])


def _down(section: Section, source: LayerInfo) -> Strides:
    check_extent(section)
    down, across = step(section)
    return source.strides[0] * down, source.strides[1] * across


def _upsample(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    factor = option(section, "stride", positive, 2)
    down, across = _cells(section, sources[0])
    if down % factor or across % factor:
        raise fault(section, "stride", f"{factor} makes {_shape(sources[0])} finer than pixels")
    return sources[0].out_channels, (down // factor, across // factor)


def _cells(section: Section, source: LayerInfo) -> Strides:
    """Take the strides of a map that is more than one cell."""
    if source.strides == EVERYWHERE:
        came = f"layer {source.index}, whose one cell stands for the whole image"
        raise fault(section, "", f"reads {came}; leave it out, or read a map")
    return source.strides


def _route(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    groups = option(section, "groups", positive, 1)
    if option(section, "group_id", count, 0) >= groups:
        raise fault(section, "group_id", f"must be below groups={groups}")
    for source in sources:
        if source.out_channels % groups:
            raise fault(section, "groups", f"{groups} does not divide {_shape(source)}")
        if source.strides != sources[0].strides:
            raise _unequal(section, "layers", sources[0], source)
    return sum(source.out_channels // groups for source in sources), sources[0].strides


def _shortcut(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    """Add layers up; of unequal widths the first channels of both, as Darknet does.

    The width is that of the layer before. Of maps of unequal sizes the versions of Darknet add
    different cells.
    """
    first = sources[0]
    for source in sources[1:]:
        if source.strides != first.strides:
            problem = f"{_shape(first)} do not fit {_shape(source)}; what is added must have"
            raise fault(section, "from", f"{problem} equal height and width")
        if source.out_channels != first.out_channels and _weighs_channels(section):
            widths = f"{first.out_channels} and {source.out_channels} channels"
            problem = f"is per_channel, and the layers have {widths}; both must be equal"
            raise fault(section, "weights_type", problem)
    return first.out_channels, first.strides


def _weighs_channels(section: Section) -> bool:
    return option(section, "weights_type", weights_type, "none") == "per_channel"


def _product(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    """Multiply two maps of one shape."""
    if len(sources) != 2:
        raise fault(section, "from", f"names {len(sources) - 1} layers; it must name one")
    first, second = sources
    if (first.out_channels, first.strides) != (second.out_channels, second.strides):
        raise _unequal(section, "from", first, second)
    return first.out_channels, first.strides


def _broadcast(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    """Let one value per channel (the second input) meet a map (the first)."""
    if len(sources) != 2:
        raise fault(section, "from", f"names {len(sources) - 1} layers; it must name one")
    first, second = sources
    fits = second.strides in (EVERYWHERE, first.strides)
    if first.out_channels != second.out_channels or not fits:
        raise _unequal(section, "from", first, second)
    return first.out_channels, first.strides


def _scale_channels(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    """Squeeze-and-excitation: the layer before holds the scales, `from` the map."""
    return _broadcast(section, sources[::-1])


def _average(_: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    return sources[0].out_channels, EVERYWHERE


def _reorg(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    factor = option(section, "stride", positive, 2)
    down, across = _cells(section, sources[0])
    width = sources[0].out_channels
    if option(section, "order", reorg_order, "yolor") == "darknet" and width % factor**2:
        problem = f"is {factor}, whose square does not divide {_shape(sources[0])}"
        remedy = "write order=yolor if the public PyTorch code's order is meant"
        raise fault(section, "stride", f"{problem}; {remedy}")
    return width * factor * factor, (down * factor, across * factor)


def _implicit(section: Section, _: Sequence[LayerInfo]) -> tuple[int, Strides]:
    return option(section, "filters", positive), EVERYWHERE


def _same(_: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    return sources[0].out_channels, sources[0].strides


def _region(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    option(section, "softmax", one_of("1"))  # without it, versions of Darknet differ
    return _yolo(section, sources)


def _yolo(section: Section, sources: Sequence[LayerInfo]) -> tuple[int, Strides]:
    source = sources[0]
    outputs = _check_anchors(section) * (5 + option(section, "classes", positive, 20))
    if source.out_channels != outputs:
        problem = f"anchors x (5 + classes) is {outputs}, but the head reads {_shape(source)}"
        raise fault(section, "classes", problem)
    if source.strides[0] != source.strides[1] or source.strides[0] < 1:
        down, across = source.strides
        problem = "expects equal vertical and horizontal strides"
        raise fault(section, "", f"{problem}; layer {source.index} has {down} and {across}")
    return outputs, source.strides


def _check_anchors(section: Section) -> int:
    """Count the anchors per head uses."""
    values = len(option(section, "anchors", numbers))
    pairs, mask = values // 2, anchor_mask(section)
    wanted = option(section, "num", positive, pairs)
    if values % 2 or wanted != pairs:
        problem = f"lists {values} numbers; num={wanted} asks for {2 * wanted}, two per anchor"
        raise fault(section, "anchors", problem)
    if not all(0 <= i < pairs for i in mask):
        raise fault(section, "mask", f"is {mask}; the anchors are 0 to {pairs - 1}")
    return len(mask)


RULES: Mapping[str, Rule] = {
    "convolutional": _convolutional,
    "maxpool": _maxpool,
    "upsample": _upsample,
    "route": _route,
    "shortcut": _shortcut,
    "scale_channels": _scale_channels,
    "sam": _product,
    "avgpool": _average,
    "reorg": _reorg,
    "reorg3d": _reorg,
    "implicit_add": _implicit,
    "implicit_mul": _implicit,
    "shift_channels": _broadcast,
    "control_channels": _broadcast,
    "dropout": _same,
    "yolo": _yolo,
    "region": _region,
}


def decoded_layers(sections: Sequence[Section]) -> frozenset[int]:
    """List the layers whose activation=logistic belongs to the decoding of the head behind them.

    A new_coords=1 head takes probabilities in Darknet, so the layer before it ends in a sigmoid
    there. Here maps are logits: the builder leaves that sigmoid out, the head applies it when it
    decodes.

    Raises:
        CfgError: a new_coords=1 head without it, or another layer that reads the same output.
    """
    found = frozenset(
        head - 1
        for head in heads(sections)
        if option(sections[head + 1], "new_coords", flag, 0) and _is_logistic(sections, head)
    )
    for index, section in enumerate(sections[1:]):
        shared = found.intersection(references(sections, index))
        if shared and section.kind not in HEADS:
            raise fault(section, "", f"reads layer {min(shared)}, whose output belongs to a head")
    return found


def _is_logistic(sections: Sequence[Section], head: int) -> bool:
    before = sections[head]
    if before.options.get("activation") == "logistic" and "activation" in KEYS[before.kind]:
        return True
    wanted = f"write activation=logistic into the [{before.kind}] of line {before.line}"
    raise fault(sections[head + 1], "new_coords", f"is 1, which takes probabilities: {wanted}")


def _shape(layer: LayerInfo) -> str:
    return f"{layer.out_channels} channels at stride {layer.stride} of layer {layer.index}"


def _unequal(section: Section, key: str, first: LayerInfo, second: LayerInfo) -> CfgError:
    return fault(section, key, f"{_shape(first)} do not fit {_shape(second)}")
