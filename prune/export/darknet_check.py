"""Darknet files read back before they are called written: by OpenCV, and by our own reader."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from torch import Tensor, nn

from prune import checkpoint
from prune.checkpoint.foreign.epsilon import DARKNET_EPS, EPS
from prune.checkpoint.foreign.source import from_darknet
from prune.errors import CfgError, CheckpointError, ExportError
from prune.models.darknet import Darknet
from prune.models.keys import integers
from prune.models.sections import Section, option

TOLERANCE = 1e-3  # relative; float32 through a hundred layers differs by 1e-6 to 1e-4
_HEAD_NAMES = {"yolo": "yolo_{}", "region": "detection_out"}  # OpenCV's, of layer {}
OPENCV_EPS = 1e-6  # what OpenCV adds to a variance; Darknet adds 1e-5


@dataclass(frozen=True)
class ReadBack:
    """How files were checked.

    Attributes:
        reader: who read them, "OpenCV" or "our own reader".
        lacking: what OpenCV does not read, for people; "" where it reads all.
        difference: the largest relative difference of what the heads give.
    """

    reader: str
    lacking: str
    difference: float


def read_back(cfg: Path, weights: Path, net: Darknet) -> ReadBack:
    """Read a pair of Darknet files and compare what it computes with the network, on random input.

    Raises:
        ExportError: it cannot be read, or computes something else.
    """
    random = torch.Generator().manual_seed(0)
    _, _, rows, columns = net.small_image
    images = torch.rand((1, 3, rows, columns + net.stride), generator=random)
    worst = _by_our_reader(cfg, weights, net, images)
    reader, lacking = "our own reader", lacking_in_opencv(net.sections)
    if not lacking:
        reader, worst = "OpenCV", max(worst, _by_opencv(cfg, weights, net, images))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"the files that were written compute something else: {reader} differs by {worst:.2g} "
            f"relative and at most {TOLERANCE:g} is allowed; nothing is written"
        )
    return ReadBack(reader, lacking, worst)


@torch.no_grad()
def _by_our_reader(cfg: Path, weights: Path, net: Darknet, images: Tensor) -> float:
    """Return the largest difference of the head maps, relative to each map's largest value."""
    try:
        source = from_darknet(weights, cfg=cfg)
        back = checkpoint.assemble(source.sections, source.weights)
    except (CfgError, CheckpointError) as error:
        raise ExportError(f"the files that were written cannot be read back: {error}") from error
    pairs = zip(back(images), net(images), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in pairs)


@torch.no_grad()
def _by_opencv(cfg: Path, weights: Path, net: Darknet, images: Tensor) -> float:
    """Return the largest difference of boxes, objectness and class scores, relative to 1 or more.

    OpenCV normalises with another epsilon, and so does the copy of the network it is compared with.
    """
    own = _with_opencvs_eps(net)
    try:
        there = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
        there.setInput(images.numpy())
        found = there.forward(
            [_HEAD_NAMES[net.sections[layer + 1].kind].format(layer) for layer in net.map_layers]
        )
    except cv2.error as error:
        raise ExportError(f"OpenCV cannot read the files that were written: {error}") from error
    return max(
        _difference(torch.from_numpy(rows), _as_opencv(own, head, images))
        for head, rows in enumerate(found)
    )


def _with_opencvs_eps(net: Darknet) -> Darknet:
    own = copy.deepcopy(net)
    for module in own.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var += EPS - DARKNET_EPS  # as it stands in the file
            module.eps = OPENCV_EPS
    return own


def _as_opencv(net: Darknet, head: int, images: Tensor) -> Tensor:
    """Decode one head's map as OpenCV writes it, [ny * nx * A, 5 + classes].

    Boxes are fractions of the image, class scores are multiplied by objectness, and the order is
    row, column, anchor.
    """
    values = net.heads[head].decode(net(images)[head])[0]  # [A * ny * nx, 5 + classes]
    anchors = len(net.heads[head].anchors)
    values = values.view(anchors, -1, values.shape[1]).transpose(0, 1).flatten(0, 1)
    rows, columns = images.shape[2:]
    boxes = values[:, :4] / torch.tensor([columns, rows, columns, rows])
    return torch.cat((boxes, values[:, 4:5], values[:, 5:] * values[:, 4:5]), dim=1)


def _difference(rows: Tensor, expected: Tensor) -> float:
    """Return the largest difference; below its threshold OpenCV sets a class score to zero."""
    rows = rows.view(-1, expected.shape[1])
    if rows.shape != expected.shape:
        return float("inf")
    shown = torch.cat((torch.ones_like(rows[:, :5], dtype=torch.bool), rows[:, 5:] != 0), dim=1)
    return float(((rows - expected).abs() / expected.abs().clamp(min=1))[shown].max())


def lacking_in_opencv(sections: Sequence[Section]) -> str:
    """Say what of a Darknet cfg OpenCV does not read, or reads otherwise; "" where it reads all."""
    if sum(section.kind == "region" for section in sections) > 1:
        return "two [region] heads"
    for layer, section in enumerate(sections[1:]):
        for kind, lacks, what in _OPENCV_LACKS:
            if kind in (section.kind, "") and lacks(section):
                return f"{what.format(kind=section.kind)} (layer {layer})"
    return ""


# What OpenCV 4 lacks: a kind ("" for all), which of its sections, what that is.
_OPENCV_LACKS: tuple[tuple[str, Callable[[Section], bool], str], ...] = (
    ("", lambda s: s.options.get("activation") == "relu6", "activation=relu6"),
    ("", lambda s: "stride_x" in s.options or "stride_y" in s.options, "stride_x and stride_y"),
    ("", lambda s: s.options.get("dilation", "1") != "1", "dilation"),
    ("reorg3d", lambda _: True, "[reorg3d]"),
    ("shortcut", lambda s: len(option(s, "from", integers)) > 1, "[shortcut] of several layers"),
    (
        "shortcut",
        lambda s: s.options.get("weights_type", "none") != "none",
        "weights of a [shortcut]",
    ),
    (
        "route",
        lambda s: s.options.get("groups", "1") != "1" and len(option(s, "layers", integers)) > 1,
        "groups of several layers in a [route]",
    ),
)
