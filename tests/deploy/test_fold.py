"""Folding takes layers out, never changes what is computed, and leaves what it must leave."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from public import difference, trained, yolor_cfg
from unfoldable_cfgs import CONTROL, CONTROLLED, CONV, HEAD, LINEAR, ROUTE, SHIFT, STAY, STEM

from prune.errors import ExportError
from prune.evaluate.fuse_batchnorm import fused
from prune.export import fold
from prune.export.fold import folded
from prune.models.darknet import Darknet, build
from prune.models.sections import Section, references

CFG = Path(__file__).parents[2] / "cfg"


FOLDS = {
    "batch normalisation": STEM + LINEAR + HEAD,
    "shift before a 1x1 convolution": SHIFT + LINEAR + HEAD,
    "shift before a grouped one": SHIFT + LINEAR.replace("7", "6\ngroups=3") + LINEAR + HEAD,
    "shift before one with an activation": SHIFT + CONV.format(7, 1, 0, "mish") + HEAD,
    "shift by implicit_mul": SHIFT.replace("implicit_add", "implicit_mul") + LINEAR + HEAD,
    "one shift behind another": SHIFT + "[shift_channels]\nfrom=1\n" + LINEAR + HEAD,
    "control": CONTROL + LINEAR + CONTROLLED.format("linear") + HEAD,
    "control of a 3x3 with normalisation": (
        CONTROL
        + CONV.format(7, 3, 1, "linear\nbatch_normalize=1")
        + CONTROLLED.format("mish")
        + HEAD
    ),
    "control before probabilities": (
        CONTROL + LINEAR + CONTROLLED.format("logistic") + HEAD + "new_coords=1\n"
    ),
}

ALL = FOLDS | {name: text for name, (text, _) in STAY.items()}


def kinds(net: Darknet) -> Counter[str]:
    """Count the sections by kind."""
    return Counter(section.kind for section in net.sections)


def network(text: str) -> Darknet:
    """Build a network whose normalisations and implicit layers all show in the output."""
    net = trained(text, decoding="darknet")
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("implicit"):
                tensor.normal_(1.0, 0.5)
    return net


@pytest.mark.parametrize("text", FOLDS.values(), ids=FOLDS.keys())
def test_what_is_folded_is_gone_and_computes_the_same(text: str) -> None:
    net = network(text)
    found = folded(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in found.modules())
    assert set(kinds(found)) <= {"net", "convolutional", "route", "yolo"}
    assert difference(found, net) < 1e-4


@pytest.mark.parametrize(("text", "kind"), STAY.values(), ids=STAY.keys())
def test_what_cannot_be_folded_stays(text: str, kind: str) -> None:
    net = network(text)
    found = folded(net)
    assert kinds(found)[kind] == 1
    assert difference(found, net) < 1e-4


def test_an_implicit_layer_stays_for_the_shift_that_needs_it() -> None:
    """One implicit layer, two shifts: the first is folded, the second is behind a 3x3."""
    again = ROUTE.format(0) + "[shift_channels]\nfrom=1\n" + CONV.format(7, 3, 1, "linear") + HEAD
    found = folded(network(SHIFT + LINEAR + HEAD + again))
    assert (kinds(found)["shift_channels"], kinds(found)["implicit_add"]) == (1, 1)


@pytest.mark.parametrize("decoding", ["torch", "darknet"])
def test_a_whole_yolor_folds_and_its_cfg_says_what_it_is(decoding: str) -> None:
    net = trained(yolor_cfg(), decoding=decoding)
    found = folded(net)
    assert not {"implicit_add", "implicit_mul"} & set(kinds(found))
    assert difference(found, net) < 1e-4
    again = build(found.cfg_text())
    again.load_state_dict(found.state_dict())
    assert difference(again.eval(), found) == 0


@pytest.mark.parametrize("name", ["yolor_csp_n", "yolor_p6"])
def test_shipped_networks_fold_whole(name: str) -> None:
    found = folded(build((CFG / f"{name}.cfg").read_text()))
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in found.modules())
    assert not {kind for kind in kinds(found) if kind.endswith(("_add", "_mul", "_channels"))}


def test_the_network_is_left_as_it_was() -> None:
    net = network(CONTROL + LINEAR + CONTROLLED.format("linear") + HEAD).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded(net)
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_fold_that_changes_the_network_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(plain: fold.Plain, layer: int) -> fold.Plain:
        source, _ = references(plain.sections, layer)
        return plain.without(layer, instead=source)

    monkeypatch.setitem(fold.FOLDS, "shift_channels", forgetful)
    with pytest.raises(ExportError, match="folding changes what the network computes"):
        folded(network(SHIFT + LINEAR + HEAD))


def test_remarks_of_what_is_folded_stay() -> None:
    found = folded(network(SHIFT.replace("[shift", "# moves on\n[shift") + LINEAR + HEAD))
    remarked: list[Section] = [section for section in found.sections if section.comments]
    assert [(section.kind, section.comments) for section in remarked] == [
        ("convolutional", ("moves on",))
    ]


@pytest.mark.parametrize("text", ALL.values(), ids=ALL.keys())
def test_fused_for_looking_it_computes_the_same_and_the_network_stays(text: str) -> None:
    net = network(text)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plain = fused(net)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in plain.modules())
    assert plain.sections == net.sections
    assert difference(plain, net) < 1e-4
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
