"""Darknet cfg text <-> sections, without torch.

A cfg is a list of `[kind]` sections with `key=value` lines. The first is [net]; section i + 1 is
layer i, and a layer names others by their index or, negative, counted back from itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from prune.common.inputs import shown
from prune.errors import CfgError

from .keys import (
    ALIASES,
    HEADS,
    KEYS,
    UnsupportedError,
    anything,
    integers,
    numbers,
    off,
    positive,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Section:
    """One section; equal to another with the same content, wherever it was read.

    Attributes:
        kind: the name between the brackets, e.g. "convolutional".
        options: key -> value as written.
        line: where its header stands, counted from 1; 0 for a section that was never text.
        comments: remarks above or inside it, without the leading `#`; written back above it.
        source: the file it was read from, for messages.
        repeated: its keys that stand there a second time, with their lines.
        unread: its keys that mean nothing, with their lines.
    """

    kind: str
    options: Mapping[str, str] = field(default_factory=dict)
    line: int = field(default=0, compare=False)
    comments: tuple[str, ...] = ()
    source: str = field(default="cfg", compare=False)
    repeated: tuple[str, ...] = field(default=(), compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)


def fault(section: Section, key: str, problem: str) -> CfgError:
    """Put the place of a mistake before what is wrong: `net.cfg, line 12, [route] layers: ...`."""
    place = f"{section.source}, line {section.line}, [{section.kind}]"
    return CfgError(f"{place} {key}: {problem}" if key else f"{place}: {problem}")


def option(section: Section, key: str, read: Callable[[str], T], default: T | None = None) -> T:
    """Read one value of a section.

    Raises:
        CfgError: the key is missing and has no default, or its text is not what `read` takes.
    """
    if key not in section.options:
        if default is None:
            raise fault(section, key, "is missing")
        return default
    try:
        return read(section.options[key])
    except ValueError as error:
        raise fault(section, key, f"is {shown(section.options[key])}; it must be {error}") from None


START = "a cfg starts with [net]"


def parse(text: str, *, source: str = "cfg") -> tuple[Section, ...]:
    """Read cfg text.

    A key that only steers training may stand twice in a section: the first counts, as in Darknet.
    See `remarks`.

    Args:
        text: the file's content; `#` and `;` start comments.
        source: the file's name, for messages.

    Raises:
        CfgError: sections, keys or values that no network here can have, all named at once; a key
            given twice with two meanings, a value of the wrong kind, or text that does not start
            with [net]; the message names source, line and key.
    """
    sections: list[Section] = []
    missing: list[_Missing] = []
    waiting: tuple[str, ...] = ()  # comments of the next header, or of this section's next key
    for line, raw in enumerate(text.lstrip("\ufeff").splitlines(), start=1):
        code, comments = _without_comment(raw)
        waiting += comments
        if code.startswith("["):
            sections.append(_header(code, line, source=source, comments=waiting))
            missing += _unknown_section(sections[-1])
        elif code and not sections:
            raise CfgError(f"{source}, line {line}: {shown(code)} before any section; {START}")
        elif code:
            sections[-1], lacking = _with_line(sections[-1], code, line, comments=waiting)
            missing += lacking
        waiting = () if code else waiting
    if not sections:
        raise CfgError(f"{source} holds no sections; {START}")
    if missing:
        raise _unsupported(missing, source)
    sections[-1] = replace(sections[-1], comments=sections[-1].comments + waiting)
    _check_order(sections)
    return tuple(sections)


@dataclass(frozen=True)
class _Missing:
    """Something that no network here can have.

    Attributes:
        what: a section, one of its keys, or a value.
        line: where it stands.
        allowed: what can be there; "" for a switch, which can be off.
    """

    what: str
    line: int
    allowed: str


_LINES_SHOWN = 4


def _unsupported(missing: Sequence[_Missing], source: str) -> CfgError:
    """Name everything that is missing at once, each with its lines."""
    lines: dict[str, list[int]] = {}
    for each in missing:
        lines.setdefault(each.what, []).append(each.line)
    named = ", ".join(f"{what} ({_at(places)})" for what, places in lines.items())
    allowed = dict.fromkeys(each.allowed for each in missing if each.allowed)
    return CfgError("; ".join((f"{source} needs what is not supported: {named}", *allowed)))


def _at(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_LINES_SHOWN]))
    more = f" and {len(lines) - _LINES_SHOWN} more" if len(lines) > _LINES_SHOWN else ""
    return f"{'line' if len(lines) == 1 else 'lines'} {shown}{more}"


def remarks(sections: Sequence[Section]) -> tuple[str, ...]:
    """Say what of a cfg was left out, one sentence for each reason; nothing for most cfgs."""
    repeated = [key for section in sections for key in section.repeated]
    unread = [key for section in sections for key in section.unread]
    return tuple(
        f"{reason}: {', '.join(keys)}"
        for reason, keys in (
            ("keys are given twice, and the first counts, as in Darknet", repeated),
            ("keys are not read, neither here nor by Darknet", unread),
        )
        if keys
    )


def _without_comment(raw: str) -> tuple[str, tuple[str, ...]]:
    """Split a line into its code and its comment, if there is one."""
    line = raw.strip()
    if line.startswith((";", "#")):
        return "", (line[1:].strip(),)
    code, sign, comment = line.partition("#")
    return code.strip(), (comment.strip(),) if sign else ()


def _header(code: str, line: int, *, source: str, comments: tuple[str, ...]) -> Section:
    if not code.endswith("]"):
        raise CfgError(f"{source}, line {line}: {shown(code)} is no section; write e.g. [net]")
    kind = code[1:-1].strip()
    kind, implied = ALIASES.get(kind, (kind, {}))
    return Section(kind, implied, line, comments, source)


def _unknown_section(section: Section) -> list[_Missing]:
    if section.kind in KEYS:
        return []
    known = ", ".join(f"[{kind}]" for kind in KEYS)
    return [_Missing(f"[{section.kind}]", section.line, f"supported sections are {known}")]


def _with_line(
    section: Section, code: str, line: int, *, comments: tuple[str, ...]
) -> tuple[Section, list[_Missing]]:
    """Add the key=value of one line to a section; say what of it is not supported."""
    here = replace(section, line=line)
    key, sign, value = (part.strip() for part in code.partition("="))
    if not sign:
        raise fault(here, "", f"{shown(code)} is not key=value")
    if section.kind not in KEYS:  # refused as a whole, once everything is read
        return section, []
    if key not in KEYS[section.kind]:
        return _with_unknown(section, key, line)
    read, place = KEYS[section.kind][key], f"[{section.kind}] {key}"
    if section.options.get(key, value) != value:
        # Darknet takes the first and other readers the last: no matter where no layer changes.
        if read is anything or section.kind == "net":
            return replace(section, repeated=(*section.repeated, f"{place} (line {line})")), []
        raise fault(here, key, f"is {value} here and {section.options[key]} above; keep one")
    found = replace(
        section,
        options={**section.options, key: value},
        comments=section.comments + comments,
    )
    try:
        read(value)
    except UnsupportedError as error:
        if not str(error):
            return found, [_Missing(place, line, "")]
        return found, [_Missing(f"{place}={value}", line, f"{place} must be {error}")]
    except ValueError as error:
        raise fault(here, key, f"is {shown(value)}; it must be {error}") from None
    return found, []


def _with_unknown(section: Section, key: str, line: int) -> tuple[Section, list[_Missing]]:
    """Pass over a key of [net], which describes no layer; refuse that of a layer."""
    place = f"[{section.kind}] {key}"
    if section.kind == "net":
        return replace(section, unread=(*section.unread, f"{place} (line {line})")), []
    known = ", ".join(
        key for key, read in KEYS[section.kind].items() if read not in (anything, off)
    )
    return section, [_Missing(place, line, f"[{section.kind}] has {known or 'no keys'}")]


def _check_order(sections: Sequence[Section]) -> None:
    if sections[0].kind != "net":
        raise fault(sections[0], "", f"is the first section; {START}")
    for section in sections[1:]:
        if section.kind == "net":
            raise fault(section, "", "is a second [net]; a cfg has one, at the top")


def write(sections: Iterable[Section]) -> str:
    """Write sections as cfg text; `parse` gives equal sections back."""
    return "\n".join(_text(section) for section in sections)


def _text(section: Section) -> str:
    comments = [f"# {comment}".rstrip() for comment in section.comments]
    options = [f"{key}={value}" for key, value in section.options.items()]
    return "\n".join([*comments, f"[{section.kind}]", *options, ""])


def with_options(section: Section, **changes: object) -> Section:
    """Copy a section with some values set; a key that was there keeps its place."""
    return replace(section, options={**section.options, **{k: str(v) for k, v in changes.items()}})


def with_activation(sections: Sequence[Section], name: str) -> tuple[Section, ...]:
    """Copy a cfg with another activation wherever a convolution has one that bends.

    Linear layers and gates (logistic) mean what they are, and stay.
    """

    def bends(section: Section) -> bool:
        now = section.options.get("activation", "linear")
        return section.kind == "convolutional" and now not in ("linear", "logistic")

    return tuple(with_options(s, activation=name) if bends(s) else s for s in sections)


def references(sections: Sequence[Section], index: int) -> tuple[int, ...]:
    """Name the layers that layer `index` reads, as its module takes them; -1 is the image.

    Raises:
        CfgError: a reference to a layer that is not before this one.
    """
    section = sections[index + 1]
    kind = section.kind
    if kind in ("implicit_add", "implicit_mul"):
        return ()
    if kind == "route":
        return _resolve(section, "layers", index)
    if kind in ("shortcut", "sam", "scale_channels", "shift_channels", "control_channels"):
        return (index - 1, *_resolve(section, "from", index))
    return (index - 1,)


def _resolve(section: Section, key: str, index: int) -> tuple[int, ...]:
    """Turn a list of layers, negative ones counted from here, into indexes."""
    found = []
    for value in option(section, key, integers):
        layer = index + value if value < 0 else value
        if not 0 <= layer < index:
            allowed = f"layers before it are 0 to {index - 1}" if index else "no layer is before it"
            raise fault(section, key, f"{value} is no layer before layer {index}; {allowed}")
        found.append(layer)
    return tuple(found)


def head_path(sections: Sequence[Section], index: int) -> tuple[int, ...]:
    """List the layers between a head and its convolution, from the head back to it.

    The convolution comes last; what its output is multiplied with or shifted by is on the way.

    Raises:
        CfgError: no convolution feeds the head, or several, or a share of one.
    """
    path: list[int] = []
    layer = index
    while True:
        sources = references(sections, layer)
        if sections[layer + 1].kind == "route" and not _is_one_layer(sections[layer + 1]):
            problem = f"feeds the head at layer {index}, which takes all of one convolution"
            raise fault(sections[layer + 1], "", problem)
        if not sources or sources[0] < 0 or sections[layer + 1].kind not in _PASSING:
            raise fault(sections[index + 1], "", f"no convolution feeds the head at layer {index}")
        path.extend(sources[1:])
        layer = sources[0]
        path.append(layer)
        if sections[layer + 1].kind == "convolutional":
            return tuple(path)


def _is_one_layer(route: Section) -> bool:
    several = len(option(route, "layers", integers)) > 1
    return not several and option(route, "groups", positive, 1) == 1


_PASSING = (*HEADS, "route", "shift_channels", "control_channels", "dropout")


def expect_rgb(sections: Sequence[Section]) -> None:
    """Check that a network takes images as every command reads them.

    Raises:
        CfgError: [net] asks for another number of channels than 3.
    """
    channels = option(sections[0], "channels", positive, 3)
    if channels != 3:
        raise fault(sections[0], "channels", f"is {channels}; images are RGB, so it must be 3")


def heads(sections: Sequence[Section]) -> tuple[int, ...]:
    """List the indexes of the detection heads, [yolo] or [region]."""
    return tuple(i for i, section in enumerate(sections[1:]) if section.kind in HEADS)


def anchor_mask(section: Section) -> tuple[int, ...]:
    """Name the anchors that a head uses; all of them without mask=."""
    pairs = len(option(section, "anchors", numbers)) // 2
    return option(section, "mask", integers, tuple(range(pairs)))


def with_classes(sections: Sequence[Section], classes: int) -> tuple[Section, ...]:
    """Copy a cfg for another number of classes: heads, their convolutions, their [implicit_mul].

    Raises:
        CfgError: `classes` below 1, or a head without a convolution.
    """
    if classes < 1:
        raise CfgError(f"classes is {classes}; a detector needs at least 1")
    changed = list(sections)
    for head in heads(sections):
        outputs = len(anchor_mask(sections[head + 1])) * (5 + classes)
        changed[head + 1] = with_options(changed[head + 1], classes=classes)
        for layer in head_path(sections, head):
            if "filters" in KEYS[changed[layer + 1].kind]:
                changed[layer + 1] = with_options(changed[layer + 1], filters=outputs)
    return tuple(changed)


def with_anchors(
    sections: Sequence[Section], anchors: Sequence[Sequence[tuple[float, float]]]
) -> tuple[Section, ...]:
    """Copy a cfg with other anchors.

    A [region] lists its own; every [yolo] lists those of all of them and picks its own by mask=.

    Args:
        sections: what `parse` gave.
        anchors: widths and heights as the cfg has them, in pixels or, of a [region], in cells; one
            list per head in cfg order, each as long as the head's own.
    """
    layers = heads(sections)
    order = sorted(range(len(layers)), key=lambda head: anchor_mask(sections[layers[head] + 1]))
    changed = list(sections)
    for head, layer in enumerate(layers):
        if sections[layer + 1].kind == "region":
            own = _listed(anchors[head])
            changed[layer + 1] = with_options(changed[layer + 1], anchors=own)
            order.remove(head)
    pairs = [pair for head in order for pair in anchors[head]]
    listed, first = _listed(pairs), 0
    for head in order:  # that of the masks, so that as a rule these stay
        place, count = layers[head] + 1, len(anchors[head])
        mask = ",".join(map(str, range(first, first + count)))
        changed[place] = with_options(changed[place], mask=mask, anchors=listed, num=len(pairs))
        first += count
    return tuple(changed)


def _listed(pairs: Sequence[tuple[float, float]]) -> str:
    return ", ".join(f"{width:g},{height:g}" for width, height in pairs)


def with_darknet_decoding(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Copy a cfg with Darknet's decoding spelled out: exp() unless new_coords=1 is there.

    What the public PyTorch code makes of a cfg is in `prune.checkpoint.foreign.decoding`.
    """
    spelled = (
        with_options(
            section,
            new_coords=section.options.get("new_coords", "0"),
            scale_x_y=section.options.get("scale_x_y", "1.0"),
        )
        if section.kind == "yolo"
        else section
        for section in sections
    )
    return with_reorg_order(tuple(spelled), REORG_ORDERS["darknet"])


def with_own_reorg(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Copy a cfg that no weights came with: beside a [region] head, [reorg] is Darknet's."""
    old = any(section.kind == "region" for section in sections)
    return with_reorg_order(sections, REORG_ORDERS["darknet" if old else "torch"])


def with_reorg_order(sections: Sequence[Section], order: str) -> tuple[Section, ...]:
    """Copy a cfg with the order of phases spelled out in every [reorg] that does not say it."""
    return tuple(
        with_options(section, order=section.options.get("order", order))
        if section.kind == "reorg"
        else section
        for section in sections
    )


# Whose code a cfg is for -> the order of phases that it means by [reorg].
REORG_ORDERS = {"torch": "yolor", "darknet": "darknet"}
