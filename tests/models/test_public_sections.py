"""Sections of public Darknet networks: computed as OpenCV does, cut as if masked, read back.

Each network here is a small copy of what a public cfg has: sums of layers of unequal widths
(yolov3-tiny-prn, enet-coco, csresnext50-panet-spp), products of maps (yolov4-sam-mish), Darknet's
own order in [reorg] and the [region] head (YOLOv2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from plans import plan_of
from public import draw_image, trained
from public_cfgs import HEAD, NET, WIDER, conv

from prune.checkpoint.convert import import_foreign
from prune.checkpoint.foreign.structure import read_cfg
from prune.checkpoint.foreign.weights import write_weights
from prune.common import shipped
from prune.core.cut import apply_plan
from prune.core.plan import Plan
from prune.core.trace.groups import Group
from prune.core.verify import verify
from prune.errors import CfgError
from prune.models.blocks import residuals
from prune.models.darknet import Darknet, build
from prune.models.groups import detector_groups
from prune.models.layers import Convolution, DarknetReorg, Reorg3d
from prune.models.sections import parse, remarks

NARROWER = conv(16, stride=2) + conv(8) + "[shortcut]\nfrom=-2\nactivation=linear\n" + HEAD
CHAIN = (
    conv(8, stride=2)
    + conv(16)
    + "[shortcut]\nfrom=-2\nactivation=leaky\n"  # 2: 16 + 8
    + conv(6)
    + "[shortcut]\nfrom=-2\nactivation=linear\n"  # 4: 6 + 16
    + conv(12)
    + "[shortcut]\nfrom=-4\nactivation=linear\n"  # 6: 12 + 16, whose first 12 were summed before
    + "[route]\nlayers=-1,-3\n"
    + HEAD
)
SAM = conv(8, stride=2) + conv(8, size=1).replace("leaky", "logistic") + "[sam]\nfrom=-2\n" + HEAD
REORG = (
    conv(8, stride=2)
    + conv(16, stride=2)
    + "[route]\nlayers=-2\n"
    + conv(8, size=1)
    + "[reorg]\nstride=2\n[route]\nlayers=-1,-4\n"
    + conv(12)
    + HEAD
)
TINY_V4 = (
    conv(8, stride=2)
    + conv(8)
    + "[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
    + conv(4)
    + conv(4)
    + "[route]\nlayers=-1,-2\n"
    + conv(8, size=1)
    + "[route]\nlayers=-6,-1\n[maxpool]\nsize=2\nstride=2\n"
    + conv(12)
    + HEAD
)
V7 = (
    conv(8, stride=2)
    + conv(4, size=1)
    + "[route]\nlayers=-2\n"
    + conv(4, size=1)
    + conv(4)
    + conv(4)
    + "[route]\nlayers=-1,-2,-3,-5\n"  # 6: an aggregation of four
    + conv(12, size=1)
    + "[maxpool]\nsize=2\nstride=2\n"
    + conv(6, size=1)
    + "[route]\nlayers=-3\n"
    + conv(6, size=1)
    + conv(6, stride=2)
    + "[route]\nlayers=-1,-4\n"  # 13: two ways down to half the size
    + conv(8, size=1)
    + "[maxpool]\nsize=5\nstride=1\n[route]\nlayers=-2\n[maxpool]\nsize=9\nstride=1\n"
    + "[route]\nlayers=-4\n[maxpool]\nsize=13\nstride=1\n[route]\nlayers=-1,-3,-5,-6\n"
    + conv(10, size=1)
    + HEAD
).replace("leaky", "swish")
HALF = conv(8, stride=2) + "[route_lhalf]\nlayers=-1\n" + conv(8) + HEAD
HALVES = HALF.replace("[route_lhalf]\n", "[route]\ngroups=2\ngroup_id=0\n")
NETWORKS = {
    "a wider sum": WIDER,
    "a narrower sum": NARROWER,
    "sums of sums": CHAIN,
    "a product": SAM,
    "Darknet's reorg": REORG,
    "groups of a route": HALVES,
    "blocks of yolov4-tiny": TINY_V4,
    "blocks of yolov7, yolov7x and yolov7-tiny": V7,
}


def files(net: Darknet, folder: Path) -> tuple[Path, Path]:
    """Write a pair as Darknet would have left it."""
    cfg, weights = folder / "net.cfg", folder / "net.weights"
    cfg.write_text(net.cfg_text())
    write_weights(weights, net.state_dict(), net.sections)
    return cfg, weights


def by_opencv(cfg: Path, weights: Path, layer: int) -> NDArray[np.float32]:
    """Compute the map of a convolution, [1, C, ny, nx], by another reader of the two files."""
    there = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    there.setInput(draw_image().numpy())
    return np.asarray(there.forward(f"conv_{layer}"), dtype=np.float32)


def agrees(net: Darknet, folder: Path) -> bool:
    """Say whether OpenCV computes the network's head map from its files.

    OpenCV divides by sqrt(variance + 1e-6), Darknet by sqrt(variance + 1e-5).
    """
    (layer,) = (head - 1 for head in net.map_layers)
    found = by_opencv(*files(net, folder), layer)
    with torch.no_grad():
        (wanted,) = (x.numpy() for x in net(draw_image()))
    return found.shape == wanted.shape and bool(
        np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_opencv_computes_the_same(tmp_path: Path, name: str) -> None:
    assert agrees(trained(NET + NETWORKS[name], decoding="darknet"), tmp_path)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_cut_network_is_the_masked_one_and_its_cfg_means_the_same(
    tmp_path: Path, name: str, seed: int
) -> None:
    net = trained(NET + NETWORKS[name], decoding="darknet", seed=seed)
    groups = detector_groups(net)
    plan = half_of(groups, seed=seed)
    smaller = apply_plan(net, groups, plan)
    verify(net, smaller, groups, plan, shape=net.small_image)
    assert agrees(smaller, tmp_path)
    again = Darknet(parse(smaller.cfg_text())).eval()
    again.load_state_dict(smaller.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(draw_image()), smaller(draw_image()))


def half_of(groups: Sequence[Group], *, seed: int) -> Plan:
    """Take half of the channels off every group that can be cut, whichever they are."""
    random = Random(seed)
    chosen = {
        index: random.sample(range(group.channels), group.channels // 2)
        for index, group in enumerate(groups)
        if not group.protected
    }
    return plan_of(groups, chosen)


@pytest.mark.parametrize("name", ["cfg/yolor_csp_n.cfg", "yolor_csp_n", "yolor_csp_n.cfg"])
def test_networks_that_come_with_prune_are_found_by_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(read_cfg(Path(name))) == len(read_cfg(shipped.FOLDER / "yolor_csp_n.cfg"))
    with pytest.raises(CfgError, match=r"does not exist; --cfg yolor_csp_n is the one"):
        read_cfg(tmp_path / name)
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text(NET + WIDER)
    assert len(read_cfg(Path(name))) == 6  # the user's own file comes first


def test_only_the_channels_that_are_added_are_coupled() -> None:
    """8 channels of layer 0 are added to the first 8 of layer 1; its other 8 are free."""
    groups = detector_groups(trained(NET + WIDER, decoding="darknet"))
    assert [(g.root.split(".")[1], g.channels, g.protected) for g in groups][:2] == [
        ("0", 8, None),
        ("1", 8, None),
    ]
    both, free = groups[:2]
    assert both.producers == ("module_list.0.Conv2d", "module_list.1.Conv2d")
    assert both.slot("module_list.1.Conv2d").index == tuple((i,) for i in range(8))
    assert free.slot("module_list.1.Conv2d").index == tuple((i,) for i in range(8, 16))


def test_a_block_of_unequal_widths_is_not_removed_whole() -> None:
    """Without it, what reads the sum would find another width."""
    assert not residuals(parse(NET + WIDER))
    equal = WIDER.replace("filters=16", "filters=8").replace("from=-2\nactivation=leaky", "from=-2")
    assert residuals(parse(NET + equal))


def test_the_first_half_is_the_first_of_two_groups() -> None:
    assert parse(NET + HALF) == parse(NET + HALVES)


def test_darknets_reorg_reads_memory_as_fewer_larger_channels() -> None:
    """By the loops of Darknet's reorg_cpu, on a map whose height is no multiple of four."""
    channels, rows, columns = 8, 6, 10
    x = torch.arange(float(channels * rows * columns))
    wanted = torch.empty_like(x)
    for k in range(channels):
        for j in range(rows):
            for i in range(columns):
                phase, c = divmod(k, channels // 4)
                row, column = 2 * j + phase // 2, 2 * i + phase % 2
                place = i + columns * (j + rows * k)
                wanted[place] = x[column + columns * 2 * (row + rows * 2 * c)]
    found = DarknetReorg(2)(x.view(1, channels, rows, columns))
    assert found.shape == (1, 32, 3, 5)
    torch.testing.assert_close(found.flatten(), wanted)


def test_what_feeds_darknets_reorg_stays_whole_and_is_told_why() -> None:
    kept = {
        g.root: g.protected
        for g in detector_groups(trained(NET + REORG, decoding="darknet"))
        if g.protected
    }
    assert kept["module_list.3.Conv2d"] == (
        "its channels go through Darknet's [reorg], which may mix them"
    )


def test_reorg3d_takes_columns_before_rows() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert Reorg3d(2)(x)[0, :, 0, 0].tolist() == [0, 1, 4, 5]


def test_a_wide_kernel_spreads_its_padding_as_well() -> None:
    net = build(NET + conv(8).replace("size=3", "size=3\ndilation=2") + HEAD)
    own = net.module_list[0]
    assert isinstance(own, Convolution)
    assert (own.Conv2d.dilation, own.Conv2d.padding) == ((2, 2), (2, 2))
    assert net(draw_image())[0].shape[-2:] == (64, 64)


def test_everything_that_is_not_supported_is_named_at_once() -> None:
    text = "[net] [crnn] hidden=3 [conv] xnor=1 [local] [crnn] [shortcut] activation=gelu"
    with pytest.raises(CfgError) as caught:
        parse(text.replace(" ", "\n"), source="x.cfg")
    said = str(caught.value)
    for part in (
        "x.cfg needs what is not supported: [crnn] (lines 2, 7)",
        "[convolutional] xnor (line 5), [local] (line 6)",
        "[shortcut] activation=gelu (line 9)",
        "must be one of linear, leaky",
        "supported sections are [net], [convolutional]",
    ):
        assert part in said


def test_of_a_training_key_given_twice_the_first_counts() -> None:
    sections = parse(f"[net]\nbatch=1\nbatch=64\nwidth=64\nsteps=3\nmy_key=4\n{WIDER}")
    assert sections[0].options == {"batch": "1", "width": "64", "steps": "3"}
    assert remarks(sections) == (
        "keys are given twice, and the first counts, as in Darknet: [net] batch (line 3)",
        "keys are not read, neither here nor by Darknet: [net] my_key (line 6)",
    )


def test_what_was_left_out_of_a_cfg_is_a_note(tmp_path: Path) -> None:
    cfg, weights = files(trained(NET + WIDER, decoding="darknet"), tmp_path)
    cfg.write_text(cfg.read_text().replace("[net]", "[net]\nbatch=1\nbatch=64"))
    notes = import_foreign(weights, cfg=cfg).history[0]["notes"]
    assert isinstance(notes, list)
    assert any("[net] batch (line 3)" in note for note in notes)
