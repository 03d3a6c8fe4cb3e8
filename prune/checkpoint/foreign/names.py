"""What public code calls a layer's tensors -> what we call them.

Layer N of a cfg is `module_list.N` everywhere but in ports of marvis' code (`models.N.conv1`). What
is in it goes by what it is where its name is not ours: `conv_N`, `batch_norm_N`, `0`, `1`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from prune.errors import CheckpointError

# What stands before a layer's number, and what is in a layer; DataParallel and wrappers put more
# in front.
_OURS = re.compile(r"(?P<before>(?:.*\.)?)module_list\.(?P<layer>\d+)\.(?P<rest>.+)")
_PORTS = re.compile(r"(?P<before>(?:.*\.)?)models\.(?P<layer>\d+)\.(?P<rest>(?:conv|bn)\d+\..+)")
_NOT_RENAMED = ("Conv2d", "BatchNorm2d", "implicit", "w")
_ANCHORS = re.compile(r"yolo\w*\..+|anchors|anchor_grid|anchor_wh|anchor_vec|grid|grid_xy|ng")

# Tensor names of networks that no Darknet cfg describes -> whose they are.
_STRANGERS: dict[str, str] = {
    r"(module\.)?down\d\.conv\d\.conv\.\d": "Tianxiaomo's pytorch-YOLOv4, whose layers no cfg has",
    r"(module\.)?model\.\d+\.|(module\.)?model\.model\.": (
        "a network of YOLOv5, v7, v8, v9 or Scaled-YOLOv4's large models, described by YAML"
    ),
    r"(module\.)?backbone\.": "a network with a `backbone`, such as YOLOX's or mmdetection's",
}


@dataclass(frozen=True)
class Named:
    """Our name of each tensor by theirs, and what the names show.

    Attributes:
        names: theirs -> ours.
        renamed: whether layers hold other names than Conv2d and BatchNorm2d.
        port: whether they are those of a port of marvis' code.
        dropped: theirs that are left out: a head's anchors and grids, which the cfg has.
    """

    names: dict[str, str]
    renamed: bool = False
    port: bool = False
    dropped: tuple[str, ...] = ()


def by_our_names(stored: Mapping[str, Tensor]) -> Named:
    """Name the tensors of a Darknet network as we do; there are none where it is another network.

    Raises:
        CheckpointError: several networks are in it, or layers of several convolutions.
    """
    for pattern in (_OURS, _PORTS):
        matched = {name: m for name in stored if (m := pattern.fullmatch(name))}
        if matched:
            _expect_one(matched)
            return _named(stored, matched, port=pattern is _PORTS)
    return Named({})


def stranger(stored: Mapping[str, Tensor]) -> str:
    """Return whose network it is, by the names of its tensors; "" where they do not show it."""
    for pattern, whose in _STRANGERS.items():
        if any(re.match(pattern, name) for name in stored):
            return whose
    return ""


def _expect_one(matched: Mapping[str, re.Match[str]]) -> None:
    places = sorted({m["before"] for m in matched.values()})
    if len(places) > 1:
        raise CheckpointError(
            f"it holds {len(places)} networks, under {', '.join(map(repr, places))}; "
            "save one of them alone"
        )


def _named(
    stored: Mapping[str, Tensor], matched: Mapping[str, re.Match[str]], *, port: bool
) -> Named:
    roles = _roles(stored, matched)
    names, dropped, renamed = {}, [], False
    for name, m in matched.items():
        child, dot, leaf = m["rest"].partition(".")
        if _ANCHORS.fullmatch(m["rest"]):
            dropped.append(name)
            continue
        role = child if child in _NOT_RENAMED else roles.get((m["layer"], child), child)
        renamed = renamed or role != child
        names[name] = f"module_list.{int(m['layer'])}.{role}{dot}{leaf}"
    if len(set(names.values())) < len(names):
        raise CheckpointError(
            "a layer of it holds several convolutions or normalisations, which no cfg describes"
        )
    return Named(names, renamed, port, tuple(dropped))


def _roles(
    stored: Mapping[str, Tensor], matched: Mapping[str, re.Match[str]]
) -> dict[tuple[str, str], str]:
    """Tell by their tensors which parts of a layer are its convolution and its normalisation."""
    found = {}
    for name, m in matched.items():
        child, _, leaf = m["rest"].partition(".")
        if leaf == "running_var":
            found[m["layer"], child] = "BatchNorm2d"
        elif leaf == "weight" and stored[name].dim() == 4:
            found[m["layer"], child] = "Conv2d"
    return found
