"""How the heads of a public PyTorch checkpoint decode: what is spelled out, else a table of rules.

Two families of PyTorch code share the tensor names `module_list.N.Conv2d` and read one cfg in two
ways. YOLOR and PyTorch_YOLOv4 from 2020-11 on take xy = 2p - 0.5 and wh = (2p)^2 anchor, whatever
the cfg says of scale_x_y. Ultralytics' YOLOv3 up to v9, its pruning forks and PyTorch_YOLOv4's
branch u3_preview take xy = p and wh = exp(t) anchor. Weights do not show which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from prune.checkpoint.foreign.contents import Contents
from prune.models.keys import KEYS, flag, number
from prune.models.sections import (
    REORG_ORDERS,
    Section,
    fault,
    heads,
    option,
    with_darknet_decoding,
    with_options,
    with_reorg_order,
)

SIGMOID, EXP = "sigmoid", "exp"
DECODINGS = (SIGMOID, EXP)
REQUESTED = "as --decoding says"

# What YOLOR's trainer and its relatives write beside the weights, and YOLOv3's do not.
_YOLOR_KEYS = frozenset({"wandb_id", *(f"best_fitness_{x}" for x in ("p", "r", "ap50", "ap", "f"))})


@dataclass(frozen=True)
class Decoded:
    """A cfg with its decoding spelled out, which that is and why."""

    sections: tuple[Section, ...]
    decoding: str
    reason: str

    @property
    def note(self) -> str:
        """Say what was chosen, why, and what can be done about it."""
        other = EXP if self.decoding == SIGMOID else SIGMOID
        way = "" if self.reason == REQUESTED else f"; if that is wrong, give --decoding {other}"
        return f"boxes decode by {self.decoding}{self._scale}, {self.reason}{way}"

    @property
    def _scale(self) -> str:
        """Name the scale of centres where it is none that goes without saying."""
        scales = [option(h, "scale_x_y", number, 1.0) for h in _yolo_heads(self.sections)]
        odd = sorted(set(scales) - {_SCALES[self.decoding]})
        return f" with scale_x_y={', '.join(f'{scale:g}' for scale in odd)}" if odd else ""


def decode_as_trained(
    sections: Sequence[Section], found: Contents, *, requested: str | None = None
) -> Decoded:
    """Write out what the code of a PyTorch checkpoint computes beyond its cfg.

    The heads decode as `requested`, as new_coords requires, or by the first of RULES that applies.
    Where the cfg sets no scale_x_y, it is the code's, which ignores it. All code of this
    kind weighs a shortcut by 2 sigmoid(w) / n, and has [reorg] in YOLOR's order.

    Args:
        sections: its cfg.
        found: its contents.
        requested: one of DECODINGS, if the user chose one.

    Raises:
        CfgError: a head that is none of [yolo], or that a nonlinear activation feeds.
    """
    for head in _heads(sections):
        if head.kind != "yolo":
            raise fault(head, "", "stands in Darknet's cfgs; read it beside .weights, not a .pt")
    plain = with_reorg_order(_with_torch_shortcuts(sections), REORG_ORDERS["torch"])
    if requested is not None:
        return Decoded(with_decoding_of(plain, requested, keep_scale=True), requested, REQUESTED)
    if any("new_coords" in head.options for head in _heads(sections)):
        return _as_the_cfg_says(plain)
    decoding, reason = next(rule for rule in RULES if rule[0](sections, found))[1:]
    heeded = found.honours_scale
    return Decoded(with_decoding_of(plain, decoding, keep_scale=heeded), decoding, reason)


def decode_as_darknet(sections: Sequence[Section], *, requested: str | None = None) -> Decoded:
    """Spell out how the heads of Darknet's .weights decode: exp() unless new_coords=1 is there.

    Raises:
        CfgError: a head whose convolution has another activation than the decoding takes.
    """
    spelled = with_darknet_decoding(sections)
    if requested is not None:
        return Decoded(with_decoding_of(spelled, requested, keep_scale=True), requested, REQUESTED)
    new = any(option(head, "new_coords", flag, 0) for head in _yolo_heads(sections))
    reason = "as its cfg has new_coords=1" if new else "as Darknet does without new_coords=1"
    return Decoded(spelled, SIGMOID if new else EXP, reason)


def with_decoding_of(
    sections: Sequence[Section], decoding: str, *, keep_scale: bool = False
) -> tuple[Section, ...]:
    """Copy a cfg whose heads all decode as one of DECODINGS.

    The scale of centres is that of the PyTorch code: 2 with sigmoid, 1 with exp; with `keep_scale`
    a head that means exp in the cfg keeps its own scale_x_y with exp.
    """
    changed = list(sections)
    for index in heads(sections):
        head = sections[index + 1]
        if head.kind == "yolo":
            own = keep_scale and decoding == EXP and not option(head, "new_coords", flag, 0)
            usual = _SCALES[decoding]
            scale = option(head, "scale_x_y", number, usual) if own else usual
            changed[index], changed[index + 1] = _spelled(changed[index], head, decoding, scale)
        elif decoding == SIGMOID:
            raise fault(head, "", "always decodes by exp; leave out --decoding")
    return tuple(changed)


def _as_the_cfg_says(sections: Sequence[Section]) -> Decoded:
    """Take new_coords, and scale_x_y beside it, from the cfg."""
    changed, new = list(sections), False
    for index in heads(sections):
        head = sections[index + 1]
        decoding = SIGMOID if option(head, "new_coords", flag, 0) else EXP
        scale = option(head, "scale_x_y", number, _SCALES[decoding])
        changed[index], changed[index + 1] = _spelled(changed[index], head, decoding, scale)
        new = new or decoding == SIGMOID
    reason = f"as the cfg has new_coords={int(new)}"
    return Decoded(tuple(changed), SIGMOID if new else EXP, reason)


_SCALES = {SIGMOID: 2.0, EXP: 1.0}
_ENDS_IN = {SIGMOID: "logistic", EXP: "linear"}


def _spelled(
    before: Section, head: Section, decoding: str, scale: float
) -> tuple[Section, Section]:
    """Copy a head and the layer before it with one decoding, which that layer's activation is of.

    Raises:
        CfgError: the layer before has a nonlinear activation of its own.
    """
    written = before.options.get("activation", "linear")
    if written not in _ENDS_IN.values():
        raise fault(before, "activation", f"is {written} before a head; it must be linear")
    if written != _ENDS_IN[decoding]:
        if "activation" not in KEYS[before.kind]:
            raise fault(before, "", "feeds a head and has no activation for its decoding")
        before = with_options(before, activation=_ENDS_IN[decoding])
    new = int(decoding == SIGMOID)
    return before, with_options(head, new_coords=new, scale_x_y=scale)


def _with_torch_shortcuts(sections: Sequence[Section]) -> tuple[Section, ...]:
    return tuple(
        with_options(section, weights_normalization="sigmoid")
        if section.options.get("weights_type", "none") != "none"
        else section
        for section in sections
    )


def _yolo_heads(sections: Sequence[Section]) -> list[Section]:
    return [head for head in _heads(sections) if head.kind == "yolo"]


def _heads(sections: Sequence[Section]) -> list[Section]:
    return [sections[head + 1] for head in heads(sections)]


# Rules: (does it hold?, decoding, reason); the first that holds decides.


def _has_implicit_layers(_: Sequence[Section], found: Contents) -> bool:
    return any(name.endswith(".implicit") for name in found.weights)


def _has_other_names(_: Sequence[Section], found: Contents) -> bool:
    return found.renamed


def _is_yolor_class(_: Sequence[Section], found: Contents) -> bool:
    return found.kind == "models.models.Darknet"


def _is_yolov3_class(_: Sequence[Section], found: Contents) -> bool:
    return found.kind == "models.Darknet"


def _has_yolor_keys(_: Sequence[Section], found: Contents) -> bool:
    return not _YOLOR_KEYS.isdisjoint(found.keys)


def _has_no_scale(sections: Sequence[Section], _: Contents) -> bool:
    return all(option(head, "scale_x_y", number, 1.0) == 1.0 for head in _heads(sections))


def _always(_: Sequence[Section], __: Contents) -> bool:
    return True


Rule = tuple[Callable[[Sequence[Section], Contents], bool], str, str]

RULES: tuple[Rule, ...] = (
    (_has_implicit_layers, SIGMOID, "as the implicit layers are those of YOLOR"),
    (_has_other_names, EXP, "as YOLOv3's code with such tensor names does"),
    (_is_yolor_class, SIGMOID, "as YOLOR's class models.models.Darknet does"),
    (_is_yolov3_class, EXP, "as the class models.Darknet of YOLOv3's code does"),
    (_has_yolor_keys, SIGMOID, "as the file has the keys of YOLOR's trainer"),
    (_has_no_scale, EXP, "as the cfg has no scale_x_y but 1, like those of YOLOv3"),
    (_always, SIGMOID, "as YOLOR and Scaled-YOLOv4 do; neither cfg nor file says so"),
)
