"""What an ONNX graph contains: its opset, its sides, the sizes of its convolutions."""

from collections import Counter
from collections.abc import Iterator, Mapping

import onnx

from prune.errors import ExportError
from prune.export.exporters import Shape
from prune.models.darknet import Darknet
from prune.models.keys import positive
from prune.models.sections import option, references
from prune.models.windows import window

Sizes = tuple[int, ...]


def opset(model: onnx.ModelProto) -> int:
    """Read the version of the ONNX operators."""
    return next(int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx"))


def shapes(values: Iterator[onnx.ValueInfoProto]) -> dict[str, Shape]:
    """Read the shapes of inputs or outputs by name; an open side is a name too."""
    return {value.name: tuple(map(_side, value.type.tensor_type.shape.dim)) for value in values}


def _side(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_param or int(dim.dim_value)


def name_sides(graph: onnx.GraphProto, sides: Mapping[str, Shape]) -> None:
    """Call open sides what a user calls them, not what the exporter computed (`63*s18*s30`)."""
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        for dim, side in zip(dims, sides.get(value.name, ()), strict=False):
            if isinstance(side, str):
                dim.dim_param = side
            else:
                dim.dim_value = side
    if sides:
        del graph.value_info[:]  # inner sides are spelled in the exporter's own symbols


def check_widths(model: onnx.ModelProto, net: Darknet) -> None:
    """Compare the kernels and biases of a file with the widths that the network's cfg has now.

    Args:
        model: convolutions with normalisation folded in.
        net: what it was made from.

    Raises:
        ExportError: the file has other ones.
    """
    expected, found = Counter(_by_cfg(net)), Counter(_by_file(model.graph))
    if expected != found:
        raise ExportError(
            "the file's convolutions are not those of the cfg: it lacks "
            f"{_listed(expected - found)} and has {_listed(found - expected)} (kernel, bias)"
        )


def _listed(sizes: Counter[tuple[Sizes, Sizes]]) -> str:
    return ", ".join(f"{list(kernel)} {list(bias)}" for kernel, bias in sizes) or "none"


def _by_cfg(net: Darknet) -> Iterator[tuple[Sizes, Sizes]]:
    """Give kernel and bias of every convolution that a head depends on."""
    sections = net.sections
    waiting, needed = list(net.map_layers), set[int]()
    while waiting:
        layer = waiting.pop()
        if layer >= 0 and layer not in needed:
            needed.add(layer)
            waiting.extend(references(sections, layer))
    for info in net.layers:
        if info.kind == "convolutional" and info.index in needed:
            section = sections[info.index + 1]
            groups, (size, _) = option(section, "groups", positive, 1), window(section)
            yield (info.out_channels, info.in_channels // groups, size, size), (info.out_channels,)


def _by_file(graph: onnx.GraphProto) -> Iterator[tuple[Sizes, Sizes]]:
    stored = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in stored:  # of a weight in half precision
            stored[node.output[0]] = stored[node.input[0]]
    for node in graph.node:
        if node.op_type == "Conv":
            kernel, bias = (stored.get(name, ()) for name in (*node.input[1:3], "")[:2])
            yield kernel, bias or kernel[:1]  # an exporter may leave out one of zeros
