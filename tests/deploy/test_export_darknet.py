"""Darknet files written here compute the same elsewhere, and come back as they went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from public import difference, draw_image, trained, yolor_cfg, yolov3_tiny_cfg
from shipped import CFGS, narrow
from yolov2_cfg import YOLOV2

from prune import checkpoint
from prune.checkpoint.convert import import_foreign
from prune.checkpoint.foreign import weights as weights_file
from prune.cli import main
from prune.common.size import Size
from prune.errors import ExportError, InputError
from prune.export.darknet import write_darknet, write_yolor
from prune.models.darknet import Darknet
from prune.models.sections import head_path, heads, parse, with_classes, with_options, write

CFG = Path(__file__).parents[2] / "cfg"


def yolov4_csp_cfg() -> str:
    """YOLOv4-CSP, whole, at a sixteenth of its width."""
    sections = parse((CFG / "yolov4_csp.cfg").read_text())
    thin = [
        with_options(section, filters=max(4, int(section.options["filters"]) // 16))
        if section.kind == "convolutional"
        else section
        for section in sections
    ]
    return write(with_classes(thin, 2))


@pytest.mark.parametrize(
    ("make", "decoding"),
    [(yolov4_csp_cfg, "torch"), (yolov3_tiny_cfg, "darknet")],
    ids=["YOLOv4-CSP", "YOLOv3-tiny"],
)
def test_opencv_computes_the_same_head_maps(
    tmp_path: Path, make: Callable[[], str], decoding: str
) -> None:
    net = trained(make(), decoding=decoding)
    cfg, weights, _ = write_darknet(net, tmp_path / "net.cfg")
    there = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    there.setInput(draw_image().numpy())
    layers = [head_path(net.sections, head)[-1] for head in heads(net.sections)]
    found = there.forward([f"conv_{layer}" for layer in layers])
    with torch.no_grad():
        expected = [x.numpy() for x in net(draw_image())]
    for one, other in zip(found, expected, strict=True):
        # OpenCV divides by sqrt(variance + 1e-6), Darknet by sqrt(variance + 1e-5).
        assert np.abs(one - other).max() < 1e-4 * np.abs(other).max()


# With its second head at stride 16: the public code has 8 and 16 for two heads.
YOLOR = yolor_cfg().replace("layers=4\n", "layers=4\n\n[reorg]\n\n[reorg]\n")
WEIGHTED = YOLOR.replace("[shortcut]", "[shortcut]\nweights_type={}")

NETWORKS = {
    "yolor": (YOLOR, "torch"),
    "yolor with Darknet's decoding": (YOLOR, "darknet"),
    "yolov3": (yolov3_tiny_cfg(), "darknet"),
    "weighted sums of the public code": (WEIGHTED.format("per_feature"), "torch"),
    "weighted sums of Darknet": (
        WEIGHTED.format("per_channel\nweights_normalization=softmax"),
        "darknet",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_darknet_files_come_back_as_they_went(tmp_path: Path, name: str) -> None:
    text, decoding = NETWORKS[name]
    net = trained(text, decoding=decoding)
    cfg, weights, _ = write_darknet(net, tmp_path / "net")
    assert (cfg.name, weights.name) == ("net.cfg", "net.weights")
    back = checkpoint.network(import_foreign(weights, cfg=cfg))
    assert difference(back, net) < 1e-4


def test_darknet_cfg_uses_darknets_words(tmp_path: Path) -> None:
    net = trained(WEIGHTED.format("per_feature"), decoding="torch")
    text = write_darknet(net, tmp_path / "net.cfg")[0].read_text()
    assert "activation=swish" in text
    assert "silu" not in text
    assert "sigmoid" not in text, "that rule of weighing is no word of Darknet's"


@pytest.mark.parametrize("name", ["yolor", "weighted sums of the public code"])
def test_public_pair_comes_back_as_it_went(tmp_path: Path, name: str) -> None:
    net = trained(NETWORKS[name][0], decoding="torch")
    cfg, weights = write_yolor(net, tmp_path / "net.pt", ["cat", "dog"])
    assert (cfg.name, weights.name) == ("net.cfg", "net.pt")
    back = import_foreign(weights, cfg=cfg)
    assert difference(checkpoint.network(back), net) == 0.0
    assert back.names == ["cat", "dog"]


def test_public_cfg_has_only_what_that_code_reads(tmp_path: Path) -> None:
    net = trained(YOLOR, decoding="torch")
    sections = parse(write_yolor(net, tmp_path / "net.cfg", ["cat", "dog"])[0].read_text())
    for section, before in zip(sections[1:], parse(YOLOR)[1:], strict=True):
        assert section.kind == before.kind
        known = {k: v for k, v in before.options.items() if k not in ("jitter", "ignore_thresh")}
        known.pop("activation" if section.kind == "shortcut" else "", None)
        known |= {"scale_x_y": "2.0"} if section.kind == "yolo" else {}
        assert dict(section.options) == known


def test_public_weights_have_the_names_of_that_code(tmp_path: Path) -> None:
    net = trained(YOLOR, decoding="torch")
    weights = write_yolor(net, tmp_path / "net.cfg", ["cat", "dog"])[1]
    document = torch.load(weights, weights_only=True)
    assert set(document) == {"model", "names"}
    assert set(document["model"]) == set(net.state_dict())


@pytest.mark.parametrize(
    ("text", "decoding", "expected"),
    [
        (YOLOR, "darknet", "trained with another decoding"),
        (YOLOR.replace("activation=mish", "activation=relu6"), "torch", "activation=relu6"),
        (WEIGHTED.format("per_channel"), "torch", "weights_type=per_channel"),
        (YOLOR.replace("layers=7", "layers=7\ngroups=1\ngroup_id=0"), "torch", "group_id"),
        (YOLOR.replace("layers=-1,-2", "layers=-1,-2,-1,-2\ngroups=2"), "torch", "the groups of"),
        (YOLOR.replace("size=5\nstride=1", "size=2\nstride=1"), "torch", "pads a [maxpool]"),
        (YOLOR.replace("[reorg]\n\n[reorg]\n", "[reorg]\nstride=4\n"), "torch", "[reorg]'s stride"),
        (yolor_cfg(), "torch", "of the heads, and this network's are 8, 4"),
        (YOLOR.replace("[maxpool]\nsize=5\nstride=1", "[dropout]"), "torch", "[dropout]"),
    ],
    ids=[
        *("decoding", "activation", "weights", "share", "groups"),
        *("pool", "reorg", "strides", "kind"),
    ],
)
def test_what_the_public_code_would_compute_otherwise_is_refused(
    tmp_path: Path, text: str, decoding: str, expected: str
) -> None:
    net = trained(text, decoding=decoding)
    with pytest.raises(InputError) as caught:
        write_yolor(net, tmp_path / "net.cfg", ["cat", "dog"])
    assert expected in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["yolov3", "fpn", "yolov4-tiny"])
def test_a_path_by_which_the_public_code_reverses_strides_is_refused(
    tmp_path: Path, word: str
) -> None:
    net = trained(YOLOR, decoding="torch")
    for target in (tmp_path / f"my_{word}.cfg", tmp_path / word / "net.cfg"):
        with pytest.raises(InputError, match=f"path holds '{word}', and this network's are 8, 16"):
            write_yolor(net, target, ["cat", "dog"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_every_shipped_network_has_a_public_pair(tmp_path: Path, path: Path) -> None:
    assert len(write_yolor(narrow(path), tmp_path / path.name, ["thing"])) == 2


@pytest.mark.parametrize("wanted", ["darknet", "yolor"])
def test_command_writes_the_pair(
    tmp_path: Path, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    net = trained(YOLOR, decoding="torch")
    source = checkpoint.capture(net, names=["cat", "dog"], imgsz=160)
    checkpoint.save(source, tmp_path / "net.pt")
    words = ["--weights", str(tmp_path / "net.pt"), "--format", wanted]
    assert main(["export", *words, "--out", str(tmp_path / "out.cfg")]) == 0
    suffix = {"darknet": ".weights", "yolor": ".pt"}[wanted]
    weights = tmp_path / f"out{suffix}"
    assert str(weights) in capsys.readouterr().out
    back = import_foreign(weights, cfg=tmp_path / "out.cfg")
    assert difference(checkpoint.network(back), net) < 1e-4
    assert back.imgsz == Size.of(160), "what it was trained for, whatever its own cfg says"


def test_an_unwritable_target_leaves_neither_file(tmp_path: Path) -> None:
    net: Darknet = trained(YOLOR, decoding="torch")
    (tmp_path / "net.weights").mkdir()
    with pytest.raises(InputError, match=r"net\.weights: it is a folder"):
        write_darknet(net, tmp_path / "net.cfg")
    assert [path.name for path in tmp_path.iterdir()] == ["net.weights"]


YOLORS_OWN = {"implicit_add", "implicit_mul", "shift_channels", "control_channels", "reorg"}


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_opencv_reads_every_shipped_network(tmp_path: Path, path: Path) -> None:
    cfg, _, check = write_darknet(narrow(path), tmp_path / path.name)
    assert check.reader == "OpenCV"
    assert check.difference < 1e-4
    text = cfg.read_text()
    assert not YOLORS_OWN & {section.kind for section in parse(text)}
    assert "activation=silu" not in text
    assert "batch_normalize=1" in text, "Darknet can train it further"


SHIFTED = "[shift_channels]\nfrom=8\n"
SPELLED_OUT = {
    "a shift that a padded window looks at": YOLOR.replace(
        f"{SHIFTED}", f"{SHIFTED}\n[convolutional]\nfilters=16\nsize=3\npad=1\nactivation=mish\n"
    ),
    "a shift with an activation": YOLOR.replace(SHIFTED, f"{SHIFTED}activation=leaky\n"),
    "a shift that a normalised convolution reads": YOLOR.replace(
        SHIFTED, f"{SHIFTED}\n[convolutional]\nbatch_normalize=1\nfilters=16\nactivation=mish\n"
    ),
    "an order of reorg that Darknet has not": YOLOR,
}


@pytest.mark.parametrize("name", SPELLED_OUT)
def test_what_darknet_has_not_is_said_in_its_own_sections(tmp_path: Path, name: str) -> None:
    net = trained(SPELLED_OUT[name], decoding="torch")
    cfg, _, check = write_darknet(net, tmp_path / "net.cfg")
    assert check.reader == "OpenCV"
    assert not YOLORS_OWN & {section.kind for section in parse(cfg.read_text())}


def test_what_our_cfgs_may_leave_out_is_written(tmp_path: Path) -> None:
    """Darknet takes another value for a missing key than we do, or OpenCV wants the key."""
    text = "[net]\nwidth=64\n\n[convolutional]\nfilters=8\nsize=3\npad=1\nstride=8\n"
    text += "activation=linear\n\n[maxpool]\nsize=2\n\n[convolutional]\nfilters=14\n"
    text += "activation=linear\n\n[yolo]\nanchors=10,12, 30,20\nclasses=2\n"
    cfg, _, check = write_darknet(trained(text, decoding="darknet"), tmp_path / "net.cfg")
    assert check.reader == "OpenCV"
    net, first, pool, last, head = (dict(section.options) for section in parse(cfg.read_text()))
    assert (net["width"], net["height"], net["channels"]) == ("64", "64", "3")
    assert first["stride"] == "8"
    assert (pool["stride"], last["size"], last["stride"]) == ("1", "1", "1")
    assert (head["mask"], head["num"]) == ("0,1", "2")


def test_opencv_reads_what_yolov2_has(tmp_path: Path) -> None:
    net = trained(YOLOV2, decoding="darknet")
    cfg, _, check = write_darknet(net, tmp_path / "net.cfg")
    assert check.reader == "OpenCV"
    assert "[reorg]" in cfg.read_text()
    assert "order" not in cfg.read_text()


@pytest.mark.parametrize(
    ("old", "new", "lacking"),
    [
        ("activation=mish", "activation=relu6", "activation=relu6 (layer 3)"),
        ("from=-3\n", "from=-3,-3\n", "[shortcut] of several layers (layer 4)"),
        ("from=-3\n", "from=-3\nweights_type=per_feature\n", "weights of a [shortcut] (layer 4)"),
        ("layers=-1,-2", "layers=-1,-2,-1,-2\ngroups=2", "groups of several layers in a [route]"),
    ],
)
def test_our_own_reader_checks_what_opencv_lacks(
    tmp_path: Path, old: str, new: str, lacking: str
) -> None:
    net = trained(YOLOR.replace(old, new), decoding="torch")
    check = write_darknet(net, tmp_path / "net.cfg").check
    assert check.reader == "our own reader"
    assert lacking in check.lacking
    assert check.difference < 1e-4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("silu", "hardswish", "each of the layers 0, 1, 2 has activation=hardswish, which"),
        (
            "[shift_channels]\nfrom=8\n",
            "[avgpool]\n\n[route]\nlayers=7\n\n[shift_channels]\nfrom=-2\n",
            "layer 13 is [shift_channels] by layer 11, which is not an implicit layer",
        ),
        (
            "[route]\nlayers=7\n\n[shift_channels]\nfrom=8\n",
            "[route]\nlayers=8\n\n[scale_channels]\nfrom=7\n",
            "layer 8 is [implicit_add], which layer 10, a [route], reads",
        ),
    ],
    ids=["activation", "computed shift", "implicit layer read as a map"],
)
def test_what_darknet_cannot_express_is_refused_by_layer(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    net = trained(YOLOR.replace(old, new), decoding="torch")
    with pytest.raises(InputError, match=r"^Darknet cannot express this network: ") as caught:
        write_darknet(net, tmp_path / "net.cfg")
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["yolov3", "yolor"])
def test_files_that_compute_something_else_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, decoding = NETWORKS[name]
    net = trained(text, decoding=decoding)
    monkeypatch.setattr(weights_file, "EPS", 1.0)
    with pytest.raises(ExportError, match="compute something else"):
        write_darknet(net, tmp_path / "net.cfg")
    assert not list(tmp_path.iterdir())


def test_command_tells_who_read_the_files_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = trained(YOLOR, decoding="torch")
    checkpoint.save(checkpoint.capture(net, names=["a", "b"], imgsz=160), tmp_path / "net.pt")
    words = ["export", "--weights", str(tmp_path / "net.pt"), "--format", "darknet"]
    assert main(words) == 0
    assert "read back by OpenCV: agrees with torch to " in capsys.readouterr().out
