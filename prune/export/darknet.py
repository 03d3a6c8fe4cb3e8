"""Write a network back as Darknet .cfg and .weights, or as the public PyTorch code's pair."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from prune import checkpoint
from prune.checkpoint.foreign.weights import write_weights
from prune.common.files import together
from prune.common.size import Sides, Size
from prune.errors import InputError
from prune.export.darknet_check import ReadBack, read_back
from prune.export.darknet_form import darknet_form
from prune.models.darknet import Darknet
from prune.models.image_size import USUAL
from prune.models.keys import KEYS, anything, numbers, positive
from prune.models.sections import Section, heads, option, with_options, write
from prune.models.windows import step, window

Files = tuple[Path, Path]


class Written(NamedTuple):
    """Darknet's pair of files, and how they were read back."""

    cfg: Path
    weights: Path
    check: ReadBack


_OURS = frozenset({"order"})  # of a [reorg]; YOLOR's order is written as a convolution

# What the public PyTorch code reads in a section; it refuses other keys, or passes over them.
_YOLOR_KEYS = frozenset(
    (
        *("batch_normalize", "filters", "size", "stride", "stride_x", "stride_y", "pad", "groups"),
        *("activation", "layers", "from", "mask", "anchors", "classes", "num", "scale_x_y"),
        "weights_type",
    )
)
_YOLOR_KINDS = frozenset(KEYS) - {"avgpool", "dropout", "region", "reorg3d", "sam"}
_YOLOR_ACTIVATIONS = frozenset({"linear", "leaky", "mish", "silu", "swish", "logistic"})
# Keys without meaning there: what they set here is the rule there, which `_check_yolor` checks.
_YOLOR_IMPLIED = frozenset({"new_coords", "weights_normalization", "atoms", "order", "scale_wh"})
# What that code computes otherwise without a word: a kind, which of its sections, what it does.
_YOLOR_OTHERWISE: tuple[tuple[str, Callable[[Section], bool], str], ...] = (
    ("maxpool", lambda s: _is_even(s), "pads a [maxpool] of even size at stride 1 otherwise"),
    ("maxpool", lambda s: len(set(step(s))) > 1, "has one stride for both ways of a [maxpool]"),
    ("route", lambda s: option(s, "groups", positive, 1) > 1, "ignores the groups of a [route]"),
    ("reorg", lambda s: option(s, "stride", positive, 2) != 2, "takes 2 for a [reorg]'s stride"),
    ("reorg", lambda s: s.options.get("order") == "darknet", "has another order in a [reorg]"),
)
# It does not follow strides through the cfg: heads have these, in cfg order.
_YOLOR_STRIDES = (8, 16, 32, 64, 128)
_YOLOR_REVERSED = (32, 16, 8)  # where the path of the cfg holds one of these words
_YOLOR_REVERSING = ("yolov4-tiny", "fpn", "yolov3")


def write_darknet(net: Darknet, target: Path, *, imgsz: Sides | None = None) -> Written:
    """Write Darknet's own pair of files, whole or not at all.

    Implicit layers are folded, and YOLOR's [reorg] becomes a convolution. What was written is read
    back and compared before it takes its place.

    Args:
        net: the network; it is not changed.
        target: a path whose suffix is replaced by .cfg and .weights.
        imgsz: as in `write_yolor`.

    Raises:
        InputError: Darknet cannot express the network, or the target cannot be written.
        ExportError: what was written computes something else.
    """
    plain = darknet_form(net)
    cfg, weights = _beside(target, ".cfg"), _beside(target, ".weights")
    sections = tuple(map(_in_darknets_keys, _sized(plain.sections, imgsz)))
    with together(cfg, weights) as (cfg_part, weights_part):
        cfg_part.write_text(write(sections), encoding="utf-8")
        write_weights(weights_part, plain.state_dict(), plain.sections)
        check = read_back(cfg_part, weights_part, plain)
    return Written(cfg, weights, check)


def write_yolor(
    net: Darknet, target: Path, names: Sequence[str], *, imgsz: Sides | None = None
) -> Files:
    """Write a cfg and a .pt that YOLOR's and Scaled-YOLOv4's own code reads.

    Args:
        net: the network; it is not changed.
        target: a path whose suffix is replaced by .cfg and .pt.
        names: the classes; they go into the .pt beside the weights.
        imgsz: the size that the cfg names, in pixels: the side of a square, or height and width;
            None: the network's own.

    Returns:
        The .cfg and the .pt, {"model": state dict, "names": list}.

    Raises:
        InputError: that code would compute something else, or the target cannot be written.
    """
    cfg, weights = _beside(target, ".cfg"), _beside(target, ".pt")
    _check_yolor(net)
    _check_yolor_strides(net, cfg)
    state = {name: tensor.detach().cpu().clone() for name, tensor in net.state_dict().items()}
    sections = _yolor_sections(_sized(net.sections, imgsz))
    with together(cfg, weights) as (cfg_part, weights_part):
        cfg_part.write_text(write(sections), encoding="utf-8")
        checkpoint.fill({"model": state, "names": list(names)}, weights_part)
    return cfg, weights


def _beside(target: Path, suffix: str) -> Path:
    known = target.suffix in (".cfg", ".weights", ".pt")
    return target.with_suffix(suffix) if known else target.with_name(target.name + suffix)


def _sized(sections: Sequence[Section], imgsz: Sides | None) -> tuple[Section, ...]:
    if imgsz is None:
        return tuple(sections)
    size, (first, *others) = Size.of(imgsz), sections
    return (with_options(first, width=size.width, height=size.height), *others)


def _in_darknets_keys(section: Section) -> Section:
    """Copy a section without the keys that are ours alone, and with what readers assume unlike us.

    Darknet ends a convolution in a sigmoid if it names no activation, takes 1 for the stride of a
    [reorg] and the number of anchors; OpenCV wants the size of every window.
    """
    usual = _SPELLED_OUT.get(section.kind, {})
    own = {k: v for k, v in section.options.items() if k not in _OURS}
    missing = {key: read(section) for key, read in usual.items() if key not in own}
    return with_options(replace(section, options=own), **missing)


def _pairs(head: Section) -> int:
    return len(option(head, "anchors", numbers)) // 2


# Keys that are always written, by kind: what they are where the cfg leaves them out.
_SPELLED_OUT: dict[str, dict[str, Callable[[Section], object]]] = {
    "net": {
        "width": lambda s: s.options.get("height", USUAL),
        "height": lambda s: s.options.get("width", USUAL),
        "channels": lambda _: 3,
    },
    "convolutional": {
        "size": lambda _: 1,
        "stride": lambda s: min(step(s)),
        "activation": lambda _: "linear",
    },
    "maxpool": {"size": lambda s: window(s)[0], "stride": lambda s: min(step(s))},
    "upsample": {"stride": lambda _: 2},
    "reorg": {"stride": lambda _: 2},
    "reorg3d": {"stride": lambda _: 2},
    "shortcut": {"activation": lambda _: "linear"},
    "yolo": {
        "mask": lambda s: ",".join(map(str, range(_pairs(s)))),
        "classes": lambda _: 20,
        "num": lambda s: _pairs(s),
    },
    "region": {"classes": lambda _: 20, "num": lambda s: _pairs(s)},
    "dropout": {"probability": lambda _: 0.5},
}


def _yolor_sections(sections: Sequence[Section]) -> tuple[Section, ...]:
    logits = set(heads(sections))  # index of the section before each head
    plain = [replace(sections[0], comments=())]
    for index, section in enumerate(sections[1:], start=1):
        options = {k: v for k, v in section.options.items() if k in _YOLOR_KEYS}
        if index in logits and section.kind == "convolutional":
            options["activation"] = "linear"  # the decoding's sigmoid, which is implied there
        elif section.kind != "convolutional":
            options.pop("activation", None)
        plain.append(replace(section, options=options, comments=()))
    return tuple(plain)


def _check_yolor(net: Darknet) -> None:
    for head in net.heads:
        if not head.new_coords or head.scale_x_y != 2.0:
            raise InputError(
                "the public PyTorch code decodes every head as xy = 2p - 0.5, wh = (2p)^2 anchor, "
                "and this network was trained with another decoding; use --format darknet"
            )
    logits = set(heads(net.sections))
    for index, section in enumerate(net.sections[1:], start=1):
        if problem := _foreign_to_yolor(section, decoded=index in logits):
            raise InputError(
                f"the public PyTorch code {problem} (layer {index - 1}); use --format darknet"
            )


def _check_yolor_strides(net: Darknet, cfg: Path) -> None:
    word = next((word for word in _YOLOR_REVERSING if word in str(cfg)), "")
    theirs = _YOLOR_REVERSED if word else _YOLOR_STRIDES
    own = tuple(head.stride for head in net.heads)
    if own != theirs[: len(own)]:
        cause = f" of a cfg whose path holds {word!r}" if word else ""
        remedy = "choose another --out" if word else "use --format darknet"
        raise InputError(
            f"the public PyTorch code takes {_listed(theirs)} for the strides of the heads{cause}, "
            f"and this network's are {_listed(own)}; {remedy}"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _foreign_to_yolor(section: Section, *, decoded: bool) -> str:
    """Say what that code would not compute as this section means it; "" if there is nothing."""
    for kind, differs, does in _YOLOR_OTHERWISE:
        if section.kind == kind and differs(section):
            return does
    unknown = _unknown_to_yolor(section, decoded=decoded)
    return f"does not know {unknown}" if unknown else ""


def _is_even(pool: Section) -> bool:
    """Return whether a [maxpool] has no middle and so pads more behind than before."""
    return window(pool)[0] % 2 == 0 and 1 in step(pool)


def _unknown_to_yolor(section: Section, *, decoded: bool) -> str:
    if section.kind not in _YOLOR_KINDS:
        return f"[{section.kind}]"
    for key, value in section.options.items():
        ignored = KEYS[section.kind].get(key) is anything
        if not ignored and key not in _YOLOR_KEYS | _YOLOR_IMPLIED:
            return f"[{section.kind}] {key}"
        if key == "weights_normalization" and value != "sigmoid":
            return f"[{section.kind}] {key}={value}"
        if key == "weights_type" and value == "per_channel":
            return f"[{section.kind}] {key}={value}"
        if key == "activation" and not decoded:
            known = _YOLOR_ACTIVATIONS if section.kind == "convolutional" else {"linear"}
            if value not in known:
                return f"[{section.kind}] {key}={value}"
    return ""
