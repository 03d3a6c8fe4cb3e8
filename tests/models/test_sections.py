"""Darknet text: what is read, what is written back, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from public import with_torch_decoding
from reference import CFG, GOLDEN

from prune.errors import CfgError
from prune.models.darknet import build
from prune.models.keys import KEYS, anchors, anything, fraction, integers, off, scale_x_y
from prune.models.layout import layout
from prune.models.sections import (
    Section,
    parse,
    references,
    with_classes,
    with_darknet_decoding,
    with_options,
    write,
)

SHIPPED = sorted(CFG.glob("*.cfg"))

TINY = """
# the picture
[net]
channels = 3  # red, green, blue

; an edge
[convolutional]
filters = 18
# a bias, no normalisation
size=3
pad=1
activation=linear

[yolo]
anchors = 10,13,  16,30,
mask = 0, 1
classes=4
jitter=.3
# the end
"""


def test_text_is_read_section_by_section() -> None:
    assert parse(TINY) == (
        Section("net", {"channels": "3"}, comments=("the picture", "red, green, blue")),
        Section(
            "convolutional",
            {"filters": "18", "size": "3", "pad": "1", "activation": "linear"},
            comments=("an edge", "a bias, no normalisation"),
        ),
        Section(
            "yolo",
            {"anchors": "10,13,  16,30,", "mask": "0, 1", "classes": "4", "jitter": ".3"},
            comments=("the end",),
        ),
    )


def test_sections_know_their_lines() -> None:
    assert [section.line for section in parse(TINY)] == [3, 7, 14]


def test_darknets_short_names_are_understood() -> None:
    kinds = [section.kind for section in parse("[network]\n[conv]\n[max]\n[avg]\n")]
    assert kinds == ["net", "convolutional", "maxpool", "avgpool"]


@pytest.mark.parametrize("path", [*SHIPPED, GOLDEN / "eighth.cfg"], ids=lambda path: path.stem)
def test_written_text_reads_as_the_same_sections(path: Path) -> None:
    sections = parse(path.read_text())
    assert parse(write(sections)) == sections
    assert write(parse(write(sections))) == write(sections)


PLAIN = st.text("abcXYZ0189._-, ", max_size=12).map(str.strip)
LISTS = st.lists(st.integers(-9, 99), min_size=1, max_size=5).map(lambda v: ",".join(map(str, v)))
WORDS = {
    "activation": st.sampled_from(["linear", "leaky", "mish", "logistic"]),
    "weights_type": st.sampled_from(["none", "per_feature", "per_channel"]),
    "weights_normalization": st.sampled_from(["none", "relu", "softmax", "sigmoid"]),
    "coords": st.just("4"),
    "softmax": st.just("1"),
    "order": st.sampled_from(["yolor", "darknet"]),
    "atoms": st.just("1"),
}
READ: dict[object, st.SearchStrategy[str]] = {
    anything: PLAIN,
    integers: LISTS,
    anchors: st.lists(st.integers(1, 99), min_size=1).map(lambda v: ",".join(map(str, v))),
    fraction: st.floats(0, 1).map(str),
    scale_x_y: st.floats(0.1, 9).map(str),
    off: st.just("0"),
}
WHOLE = st.integers(1, 4096).map(str)


@st.composite
def section_of(draw: st.DrawFn, kinds: list[str]) -> Section:
    kind = draw(st.sampled_from(kinds))
    keys = draw(st.lists(st.sampled_from(sorted(KEYS[kind])), unique=True, max_size=6))
    values = {key: WORDS[key] if key in WORDS else READ.get(KEYS[kind][key], WHOLE) for key in keys}
    options = {key: draw(value) for key, value in values.items()}
    return Section(kind, options, comments=tuple(draw(st.lists(PLAIN, max_size=3))))


@settings(max_examples=100, deadline=None)
@given(section_of(["net"]), st.lists(section_of(sorted(KEYS.keys() - {"net"})), max_size=6))
def test_any_sections_survive_writing_and_reading(net: Section, layers: list[Section]) -> None:
    sections = (net, *layers)
    assert parse(write(sections)) == sections


REFUSED = {
    "unknown section": ("[net]\n\n[crnn]\n", ["line 3", "[crnn]", "convolutional"]),
    "unknown key": ("[net]\n[route]\nlayer=-1\n", ["line 3", "[route]", "layer", "layers"]),
    "bad whole number": ("[net]\n[convolutional]\nfilters=many", ["line 3", "filters", "'many'"]),
    "too small": ("[net]\nwidth=0", ["line 2", "width", "'0'", "at least 1"]),
    "too large": ("[net]\n[conv]\nfilters=1" + 12 * "0", ["line 3", "filters", "at most 1000000"]),
    "bad list": ("[net]\n[route]\nlayers=-1;-2", ["line 3", "layers", "-1,-4"]),
    "bad number": ("[net]\n[yolo]\nscale_x_y=nan", ["line 3", "scale_x_y", "a number"]),
    "an anchor of no width": (
        "[net]\n[yolo]\nanchors=10,13, 0,30",
        ["line 3", "anchors", "above 0"],
    ),
    "an anchor below zero": ("[net]\n[region]\nanchors=-1,3", ["line 3", "anchors", "above 0"]),
    "an infinite anchor": ("[net]\n[yolo]\nanchors=1e39,3", ["line 3", "anchors", "at most 65536"]),
    "offsets of no room": ("[net]\n[yolo]\nscale_x_y=0", ["line 3", "scale_x_y", "above 0"]),
    "offsets turned round": ("[net]\n[yolo]\nscale_x_y=-3", ["line 3", "scale_x_y", "above 0"]),
    "offsets beyond a float": ("[net]\n[yolo]\nscale_x_y=1e300", ["scale_x_y", "at most 100"]),
    "no probability": ("[net]\n[dropout]\nprobability=1.5", ["line 3", "from 0 to 1"]),
    "bad word": ("[net]\n[shortcut]\nactivation=gelu", ["line 3", "activation", "leaky, relu"]),
    "two values": ("[net]\n[conv]\nsize=1\nsize=3", ["line 4", "size", "1 above"]),
    "no equals sign": ("[net]\nwidth 3", ["line 2", "'width 3'"]),
    "broken header": ("[net\n", ["line 1", "[net"]),
    "no net": ("[route]\nlayers=1", ["line 1", "[net]"]),
    "net twice": ("[net]\n[net]", ["line 2", "second"]),
    "key first": ("width=3", ["line 1", "[net]"]),
    "nothing": ("# only words\n", ["x.cfg", "[net]"]),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_named_with_its_place(text: str, said: list[str]) -> None:
    with pytest.raises(CfgError) as caught:
        parse(text, source="x.cfg")
    assert "x.cfg" in str(caught.value)
    for part in said:
        assert part in str(caught.value)


def test_the_same_value_twice_is_no_mistake() -> None:
    assert parse("[net]\nwidth=3\nwidth=3")[0].options == {"width": "3"}


def test_references_count_back_or_name_a_layer() -> None:
    body = "[convolutional]\nfilters=4\nactivation=linear\n" * 3
    text = f"[net]\n{body}[route]\nlayers=-1,0\n[shortcut]\nfrom=-3\n[implicit_add]\nfilters=4\n"
    sections = parse(text)
    assert [references(sections, i) for i in (0, 3, 4, 5)] == [(-1,), (2, 0), (3, 1), ()]


HEAD = "[convolutional]\nfilters=12\nactivation=linear\n[yolo]\nanchors=1,1,2,2\nclasses=1\n"
CONV = "[convolutional]\nactivation=linear\nfilters="
MISFITS = {
    "no head": (f"{CONV}12", ["line 1", "[yolo]"]),
    "behind the picture": (f"[route]\nlayers=-1\n{HEAD}", ["line 2", "layers", "-1", "layer 0"]),
    "ahead": (f"{CONV}4\n[shortcut]\nfrom=1\n{HEAD}", ["line 5", "from", "0 to 0"]),
    "weighted sum of widths": (
        f"{CONV}4\n{CONV}8\n[shortcut]\nfrom=-2\nweights_type=per_channel\n{HEAD}",
        ["line 8", "weights_type", "8 and 4 channels"],
    ),
    "product of widths": (
        f"{CONV}4\n{CONV}8\n[sam]\nfrom=-2\n{HEAD}",
        ["line 8", "[sam] from", "8 channels", "4 channels", "layer 0"],
    ),
    "a quarter of few channels": (
        f"{CONV}6\n[reorg]\norder=darknet\n{HEAD}",
        ["line 5", "stride", "6 channels"],
    ),
    "no softmax": (
        HEAD.replace("[yolo]", "[region]"),
        ["[region] softmax", "missing"],
    ),
    "sum of strides": (
        f"{CONV}4\n{CONV}4\nstride=2\n[shortcut]\nfrom=-2\n{HEAD}",
        ["[shortcut]", "stride 2", "stride 1", "equal height and width"],
    ),
    "route of strides": (
        f"{CONV}4\n{CONV}4\nstride=2\n[route]\nlayers=0,1\n{HEAD}",
        ["[route]", "layers", "stride 2", "stride 1"],
    ),
    "odd halves": (f"{CONV}5\n[route]\nlayers=0\ngroups=2\n{HEAD}", ["groups", "5 channels"]),
    "no such share": (
        f"{CONV}4\n[route]\nlayers=0\ngroups=2\ngroup_id=2\n{HEAD}",
        ["group_id", "groups=2"],
    ),
    "groups": (f"{CONV}8\ngroups=2\n{HEAD}", ["groups", "3 channels", "8 filters"]),
    "finer than pixels": (f"[upsample]\nstride=2\n{HEAD}", ["[upsample]", "stride", "pixels"]),
    "multiplied by a wrong width": (
        f"[implicit_mul]\nfilters=4\n{CONV}8\n[control_channels]\nfrom=0\n{HEAD}",
        ["[control_channels]", "8 channels", "4 channels"],
    ),
    "shifted by two": (
        f"{CONV}8\n{CONV}8\n[shift_channels]\nfrom=0,0\n{HEAD}",
        ["[shift_channels]", "from", "one"],
    ),
    "head of a wrong width": (f"{HEAD}mask=0\n", ["line 5", "classes", "is 6", "12 channels"]),
    "odd anchors": (f"{CONV}12\n[yolo]\nanchors=1,1,2", ["line 5", "anchors", "3 numbers"]),
    "fewer anchors than num": (f"{HEAD}num=3\n", ["line 5", "anchors", "num="]),
    "mask outside": (f"{HEAD}mask=1,2\n", ["line 5", "mask", "0 to 1"]),
    "oblong cells": (
        "[maxpool]\nsize=2\nstride_x=2\nstride_y=1\n" + HEAD,
        ["[yolo]", "equal vertical and horizontal strides", "1 and 2"],
    ),
    "a head's output": (f"{HEAD}{HEAD}", ["reads layer 1", "[yolo]"]),
    "no activation": ("[convolutional]\nfilters=4\n" + HEAD, ["line 2", "activation", "missing"]),
    "no filters": ("[convolutional]\nactivation=mish\n" + HEAD, ["line 2", "filters", "missing"]),
    "too many weights": (
        f"{CONV}20000\n{CONV}20000\n{HEAD}",
        ["line 5", "filters", "20000 from 20000", "400,000,000 weights"],
    ),
    "too many weights of a large window": (
        f"{CONV}4\nsize=9999\npad=1\n{HEAD}",
        ["line 2", "filters", "weights"],
    ),
    "too many phases": (f"[reorg]\nstride=1000\n{HEAD}", ["[reorg]", "3,000,000 channels"]),
    "too many channels": (
        f"{CONV}100000\n{HEAD}",
        ["[convolutional]", "100,000 channels", "65,536"],
    ),
    "too many weights in all": (
        (f"{CONV}4096\nsize=2\npad=0\npadding=0\nstride=2\n" * 2 + f"{CONV}8000\n{CONV}8000\n" * 6)
        + HEAD,
        ["line 1", "weights", "at most 536,870,912"],
    ),
    "a stride beyond every image": (
        f"{CONV}4\nsize=3\npad=1\nstride=5000\n{HEAD}",
        ["line 2", "network's stride 5,000", "at most 1,024"],
    ),
    "strides that multiply": (
        f"{CONV}4\nsize=3\npad=1\nstride=3\n" + 11 * "[maxpool]\nstride=2\n" + HEAD,
        ["[maxpool]", "network's stride 1,536"],
    ),
    "a window wider than maps": (
        "[maxpool]\nsize=999999\n" + HEAD,
        ["size", "999,999", "at most 255"],
    ),
    "cells too far apart": (
        f"{CONV}4\nsize=3\npad=1\ndilation=500000\n{HEAD}",
        ["line 2", "size", "1,000,001 cells"],
    ),
    "padding that no window needs": (
        f"{CONV}4\npadding=500000\n{HEAD}",
        ["line 2", "padding", "1,000,000 cells"],
    ),
    "too many layers": (10_001 * "[dropout]\n" + HEAD, ["10,003 layers", "at most 10,000"]),
    "logits where probabilities belong": (
        f"{HEAD}new_coords=1\n",
        ["line 5", "new_coords", "activation=logistic", "[convolutional] of line 2"],
    ),
    "probabilities used twice": (
        f"{HEAD.replace('linear', 'logistic')}new_coords=1\n[route]\nlayers=0\n{HEAD}",
        ["[route]", "layer 0", "belongs to a head"],
    ),
}


@pytest.mark.parametrize(("body", "said"), MISFITS.values(), ids=MISFITS)
def test_layers_that_do_not_fit_are_named_with_their_place(body: str, said: list[str]) -> None:
    with pytest.raises(CfgError) as caught:
        layout(parse(f"[net]\n{body}", source="x.cfg"))
    for part in ["x.cfg", *said]:
        assert part in str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_classes_change_heads_and_nothing_else(path: Path) -> None:
    sections = parse(path.read_text())
    changed = with_classes(sections, 3)
    layers = zip(layout(sections), layout(changed), strict=True)
    widths = {(a.kind, a.out_channels, b.out_channels) for a, b in layers if a != b}
    per_cell = len(sections[-1].options["mask"].split(","))
    for kind, before, after in widths:
        assert kind in ("convolutional", "implicit_mul", "control_channels", "yolo")
        assert (before, after) == (per_cell * 85, per_cell * 8)
    assert with_classes(changed, 80) == sections


def test_no_class_is_refused() -> None:
    with pytest.raises(CfgError, match="at least 1"):
        with_classes(parse(TINY), 0)


def test_classes_need_a_convolution_before_the_head() -> None:
    with pytest.raises(CfgError, match="no convolution"):
        with_classes(parse("[net]\n[maxpool]\n[yolo]\nanchors=1,1"), 3)


@pytest.mark.parametrize(
    "route",
    ["layers=0,1", "layers=2\ngroups=2\ngroup_id=1"],
    ids=["two layers", "half a layer"],
)
def test_a_head_takes_all_of_one_convolution(route: str) -> None:
    convolutions = "".join(f"{CONV}{filters}\n" for filters in (6, 6, 24))
    text = f"[net]\n{convolutions}[route]\n{route}\n[yolo]\nanchors=1,1,2,2\nclasses=1"
    with pytest.raises(CfgError, match=r"\[route\].*layer 4, which takes all of one convolution"):
        build(text)
    with pytest.raises(CfgError, match="takes all of one convolution"):
        with_classes(parse(text), 3)


def test_the_public_pytorch_decoding_is_written_out() -> None:
    """Whatever a cfg beside a public checkpoint says, its heads decode in the one PyTorch way."""
    legacy = parse((GOLDEN / "eighth.cfg").read_text())
    explicit = with_torch_decoding(legacy)
    for i, section in enumerate(explicit):
        if section.kind == "yolo":
            assert section.options["new_coords"] == "1"
            assert section.options["scale_x_y"] == "2.0"
            assert explicit[i - 1].options["activation"] == "logistic"
    assert with_torch_decoding(explicit) == explicit
    assert with_darknet_decoding(explicit) == explicit


def test_the_public_pytorch_code_weighs_with_sigmoids() -> None:
    weighted = "[shortcut]\nfrom=0\nweights_type=per_feature\nweights_normalization=softmax\n"
    text = f"[net]\n{CONV}4\n{CONV}4\n{weighted}[shortcut]\nfrom=0\n{HEAD}"
    written = write(with_torch_decoding(parse(text)))
    assert written.count("weights_normalization=sigmoid") == 1
    assert "softmax" not in written


def test_darknets_own_decoding_is_exp_unless_the_cfg_says_otherwise() -> None:
    sections = with_darknet_decoding(parse(f"[net]\n{HEAD}"))
    assert sections[-1].options["new_coords"] == "0"
    assert sections[-1].options["scale_x_y"] == "1.0"
    assert sections[1].options["activation"] == "linear"


def test_a_changed_key_keeps_its_place() -> None:
    section = with_options(Section("route", {"layers": "-1", "groups": "2"}), layers="-2")
    assert list(section.options.items()) == [("layers", "-2"), ("groups", "2")]
