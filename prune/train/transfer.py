"""Transfer: a checkpoint's weights as the start of a network with other classes or layers.

A layer is taken over completely or not at all: BatchNorm statistics are meaningless beside another
kernel. In a head's layers every output row has a meaning of its own, so rows are taken over one by
one: boxes and objectness always, a class where the checkpoint has a row for it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prune.models.darknet import Darknet
from prune.models.head import Yolo
from prune.models.keys import KEYS
from prune.models.sections import Section, anchor_mask, head_path, heads, with_options

BOX_ROWS = 5  # x, y, width, height, objectness: the rows of an anchor that come before its classes
_DECODING = {"new_coords": "0", "scale_x_y": "1.0"}  # of a [yolo] section, with Darknet's defaults


@dataclass(frozen=True)
class Transferred:
    """The result of a transfer.

    Attributes:
        net: the network, with the weights that fit.
        taken: the layers with parameters of the checkpoint; of a head, with all its box rows.
        fresh: the layers with parameters that start fresh.
        heads: number of detection heads that kept their box and objectness rows.
        fraction: of the parameters, those in `taken`.
    """

    net: Darknet
    taken: tuple[int, ...]
    fresh: tuple[int, ...]
    heads: int
    fraction: float


def transfer(
    given: Darknet,
    sections: Sequence[Section],
    *,
    rows: Mapping[int, int],
    seed: int,
    layers: Container[int] | None = None,
) -> Transferred:
    """Build a network and take over the weights of another that fit.

    Args:
        given: the network to take from.
        sections: the cfg of the network to build, with its number of classes.
        rows: new class -> class of `given` whose row it takes; the others start fresh, predicting
            the class prior everywhere.
        seed: of the weights that start fresh.
        layers: the layers of `given` that have weights; None if all do.
    """
    torch.manual_seed(seed)
    net = Darknet(with_decoding_like(sections, given.sections))
    before, after = _head_layers(given), _head_layers(net)
    taken: list[int] = []
    fresh: list[int] = []
    for layer, module in enumerate(net.module_list):
        own = module.state_dict()
        if not own:
            continue
        held = layer < len(given.module_list) and (layers is None or layer in layers)
        theirs = given.module_list[layer].state_dict() if held else {}
        if layer in before and layer in after:
            fits = _take_rows(own, theirs, after[layer], before[layer], rows)
        else:
            fits = layer not in before and _take_all(own, theirs)
        (taken if fits else fresh).append(layer)
    sizes = [sum(value.numel() for value in module.parameters()) for module in net.module_list]
    return Transferred(
        net=net,
        taken=tuple(taken),
        fresh=tuple(fresh),
        heads=len({id(after[layer]) for layer in taken if layer in after}),
        fraction=sum(sizes[layer] for layer in taken) / sum(sizes),
    )


def class_rows(own: Sequence[str], names: Sequence[str], *, keep: bool) -> dict[int, int]:
    """Find for each class of the data the checkpoint's row that it starts from.

    Names are compared without case and without the characters that join their words. A checkpoint
    whose classes are numbers has no names; its classes count as the data's if they are as many.

    Args:
        own: the checkpoint's class names.
        names: the data's.
        keep: the data's names are other words for the checkpoint's classes, in their order.

    Returns:
        Number of a class in `names` -> its number in `own`, for the classes that have one.
    """
    unnamed = list(own) == [str(number) for number in range(len(own))]
    if len(own) == len(names) and (keep or unnamed):
        return {number: number for number in range(len(own))}
    known = {} if unnamed else {_plain(name): i for i, name in reversed(list(enumerate(own)))}
    return {i: known[_plain(name)] for i, name in enumerate(names) if _plain(name) in known}


def with_decoding_like(
    sections: Sequence[Section], given: Sequence[Section]
) -> tuple[Section, ...]:
    """Copy a cfg whose heads decode as those of another, as its box rows were learned that way.

    A head also gets the anchors of a head at the same layer that has as many.
    """
    theirs, changed = heads(given), list(sections)
    for head in heads(sections):
        same_place = head in theirs
        source = given[(head if same_place else theirs[0]) + 1]
        own = changed[head + 1]
        if source.kind != own.kind:
            continue
        if own.kind == "yolo":
            own = with_options(
                own, **{k: source.options.get(k, usual) for k, usual in _DECODING.items()}
            )
            ends_in_sigmoid = own.options["new_coords"] != "0"
            if "activation" in KEYS[changed[head].kind]:
                activation = "logistic" if ends_in_sigmoid else "linear"
                changed[head] = with_options(changed[head], activation=activation)
        if same_place and len(anchor_mask(source)) == len(anchor_mask(own)):
            kept = {k: source.options[k] for k in ("mask", "anchors", "num") if k in source.options}
            own = with_options(own, **kept)
        changed[head + 1] = own
    return tuple(changed)


def _plain(name: str) -> str:
    """Normalize a class name: Traffic-Light, traffic_light and "traffic light" are one."""
    return re.sub(r"[\s_-]+", " ", name.strip()).casefold()


def _head_layers(net: Darknet) -> dict[int, Yolo]:
    """Return the layers whose outputs are rows of a head, with that head.

    These are its convolution and the implicit layers that scale or shift its output.
    """
    sections = net.sections
    found = {}
    for index, head in zip(heads(sections), net.heads, strict=True):
        for layer in head_path(sections, index):
            found[layer] = head
    return found


def _take_all(own: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Copy a layer's tensors if all fit by name and shape; return whether they did."""
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in theirs.items()}:
        return False
    for name, tensor in own.items():
        tensor.copy_(theirs[name])
    return True


def _take_rows(
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    head: Yolo,
    before: Yolo,
    rows: Mapping[int, int],
) -> bool:
    """Copy the rows of a head's layer that have the same meaning; return whether the layers fit."""
    mine = {name: _by_anchor(name, tensor, head) for name, tensor in own.items()}
    given = {name: _by_anchor(name, tensor, before) for name, tensor in theirs.items()}
    if {k: _apart_from_rows(v) for k, v in mine.items()} != {
        k: _apart_from_rows(v) for k, v in given.items()
    }:
        return False
    for name, tensor in mine.items():
        if not tensor.dim():  # BatchNorm's counter
            tensor.copy_(given[name])
            continue
        tensor[:, :BOX_ROWS] = given[name][:, :BOX_ROWS]
        for new in range(head.classes):
            if new in rows:
                tensor[:, BOX_ROWS + new] = given[name][:, BOX_ROWS + rows[new]]
            elif name == "Conv2d.weight":  # random weights would only disturb the prior in the bias
                tensor[:, BOX_ROWS + new] = 0
    return True


def _by_anchor(name: str, tensor: Tensor, head: Yolo) -> Tensor:
    """View a tensor of a head's layer by anchor and by prediction, [A, 5 + classes, ...]."""
    if not tensor.dim():
        return tensor
    rows = tensor.movedim(1, 0) if name == "implicit" else tensor  # [A * (5 + classes), ...]
    return rows.view(head.anchors.shape[0], BOX_ROWS + head.classes, *rows.shape[1:])


def _apart_from_rows(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape [A, 5 + classes, ...] without the axis of classes."""
    return tuple(size for place, size in enumerate(tensor.shape) if place != 1)
