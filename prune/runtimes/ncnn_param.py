"""The content of ncnn's .param text: inputs and outputs of a network, values of its layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prune.common.inputs import read_text
from prune.errors import InputError

MAGIC = "7767517"  # the first line of every .param file
_CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise", "Deconvolution", "DeconvolutionDepthWise")
_WIDTH, _HEIGHT, _CHANNELS = "0", "1", "2"  # parameters of an Input layer
_INT8 = "8"  # a convolution's parameter: which scales of 8-bit arithmetic it has; 0: none


@dataclass(frozen=True)
class Graph:
    """What there is to know before a network runs.

    Attributes:
        input: the blob that images go into.
        outputs: the blobs that no layer reads.
        sides: channels, height, width of the input; 0 where the text leaves them open.
        int8: convolutions in 8-bit arithmetic.
        floats: the others.
    """

    input: str
    outputs: tuple[str, ...]
    sides: tuple[int, int, int]
    int8: int
    floats: int


@dataclass(frozen=True)
class _Layer:
    kind: str
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    options: dict[str, str]


def read(path: Path) -> Graph:
    """Read a .param file.

    Raises:
        InputError: there is none, it is none, or it was cut short.
    """
    text = read_text(path, called="ncnn's")
    try:
        return _graph(_layers(text, path))
    except (ValueError, IndexError, StopIteration) as error:
        raise InputError(f"{path} is no .param file of ncnn with an Input layer") from error


def _layers(text: str, path: Path) -> list[_Layer]:
    magic, counts, *lines = text.splitlines()
    if magic.strip() != MAGIC:
        raise ValueError
    count, rows = int(counts.split()[0]), [line.split() for line in lines if line.strip()]
    if len(rows) < count:
        raise InputError(f"{path} is damaged: it says {count} layers and holds {len(rows)}")
    return [_layer(words) for words in rows]


def _layer(words: list[str]) -> _Layer:
    """Read `kind name reads makes blobs... key=value...`."""
    reads, makes = int(words[2]), int(words[3])
    if min(reads, makes) < 0:
        raise ValueError
    blobs, options = words[4 : 4 + reads + makes], words[4 + reads + makes :]
    pairs = (word.partition("=") for word in options)
    return _Layer(
        words[0],
        tuple(blobs[:reads]),
        tuple(blobs[reads:]),
        {key: value for key, _, value in pairs},
    )


def _graph(layers: list[_Layer]) -> Graph:
    source = next(layer for layer in layers if layer.kind == "Input")
    read = {blob for layer in layers for blob in layer.reads}
    convolutions = [layer for layer in layers if layer.kind in _CONVOLUTIONS]
    int8 = sum(layer.options.get(_INT8, "0") != "0" for layer in convolutions)
    sides = (int(source.options.get(key, 0)) for key in (_CHANNELS, _HEIGHT, _WIDTH))
    channels, height, width = sides
    if min(channels, height, width) < 0:
        raise ValueError
    return Graph(
        input=source.makes[0],
        outputs=tuple(blob for layer in layers for blob in layer.makes if blob not in read),
        sides=(channels, height, width),
        int8=int8,
        floats=len(convolutions) - int8,
    )
