"""Anchors against boxes: how they fit, new ones that fit better, and the network that has them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from datasets import yolo
from torch import Tensor

from prune import checkpoint
from prune.data import spec
from prune.data.store import gather
from prune.data.truth import read_truth
from prune.evaluate.runner import open_weights
from prune.export.onnx import export
from prune.models.darknet import Darknet, build
from prune.models.keys import numbers
from prune.models.sections import anchor_mask, heads, option, parse, with_anchors
from prune.train import anchors


def network() -> Darknet:
    return build(tiny.CFG.format(width=32)).eval()


def odd_sizes(count: int = 200) -> Tensor:
    """Boxes far wider than high, which the tiny network's square anchors cannot fit."""
    spread = torch.rand(count, 2, generator=torch.Generator().manual_seed(1))
    return torch.tensor((56.0, 2.8)) * (0.8 + 0.4 * spread)


def own_anchors(net: Darknet) -> Tensor:
    return torch.cat([head.anchors for head in net.heads])


def test_fit_is_what_counting_by_hand_gives() -> None:
    boxes = torch.tensor(((10.0, 10.0), (20.0, 5.0), (100.0, 10.0)))
    found = anchors.measure(torch.tensor(((10.0, 10.0), (40.0, 10.0))), boxes, anchor_t=4.0)
    # Ratios to the first 1, 2, 10, to the second 4 (which is too far), 2, 2.5.
    assert found.recall == 1
    assert found.anchors == pytest.approx(4 / 3)
    assert found.ratio == pytest.approx((1 + 1 / 2 + 1 / 2.5) / 3)


def test_sizes_are_pixels_at_the_loading_size(tmp_path: Path) -> None:
    yaml = yolo(tmp_path, {"train/a": "0 0.5 0.5 0.5 0.2\n1 0.5 0.5 0.01 0.5\n", "train/b": ""})
    data = spec.load(yaml)
    paths = data.images("train")  # 40 wide, 30 high
    boxes = read_truth(paths, data.form).boxes
    for cache in (None, "ram"):
        sizes = anchors.box_sizes(gather(paths, boxes, imgsz=80, cache=cache))
        assert torch.allclose(sizes, torch.tensor(((40.0, 12.0),)))  # the other is 0.8 px wide


def test_boxes_of_one_odd_shape_get_anchors_that_fit() -> None:
    net, sizes = network(), odd_sizes()
    before = anchors.measure(own_anchors(net), sizes, anchor_t=4)
    new, line = anchors.fit_anchors(net, sizes, anchor_t=4, seed=0, change=True)
    after = anchors.measure(own_anchors(new), sizes, anchor_t=4)
    assert before.recall == 0
    assert after.recall == 1
    assert after.ratio > 0.75 > before.ratio
    assert str(before) in line
    assert str(after) in line
    areas = [head.anchors.prod(dim=1) for head in new.heads]
    assert areas[0].max() <= areas[1].min()  # the finest head has the smallest
    assert all(new.state_dict()[key].equal(value) for key, value in net.state_dict().items())


def test_seed_fixes_the_anchors() -> None:
    first, second, other = (
        own_anchors(anchors.fit_anchors(network(), odd_sizes(), anchor_t=4, seed=s, change=True)[0])
        for s in (0, 0, 1)
    )
    assert first.equal(second)
    assert not first.equal(other)


@pytest.mark.parametrize(
    ("sizes", "change", "line"),
    [
        (torch.full((9, 2), 20.0), True, "they fit"),
        (odd_sizes(), False, "kept, as the weights are trained on them"),
        (odd_sizes(5), True, "5 boxes are too few"),
        (odd_sizes(0), True, "no boxes"),
    ],
    ids=["good", "trained", "few boxes", "none"],
)
def test_anchors_are_left_alone(sizes: Tensor, change: bool, line: str) -> None:
    net = network()
    kept, said = anchors.fit_anchors(net, sizes, anchor_t=4, seed=0, change=change)
    assert kept is net
    assert line in said


def test_the_best_anchors_there_are_stay_even_when_forced() -> None:
    net = network()
    sizes = own_anchors(net).repeat(3, 1)
    kept, said = anchors.fit_anchors(net, sizes, anchor_t=4, seed=0, change=True, force=True)
    assert kept is net
    assert "none better" in said


def test_anchors_nearer_in_the_mean_are_refused_where_they_lose_a_box() -> None:
    net = network()
    old = own_anchors(net)  # the least is 10 x 10
    squares = torch.linspace(math.log(15), math.log(150), 2000).exp()[:, None].expand(-1, 2)
    sizes = torch.cat((squares, torch.tensor([[2.6, 2.6]])))
    new = anchors._search(old, sizes, anchor_t=4, seed=0)
    before, after = (anchors.measure(pairs, sizes, anchor_t=4) for pairs in (old, new))
    assert after.ratio > before.ratio
    assert after.recall < before.recall
    kept, said = anchors.fit_anchors(net, sizes, anchor_t=4, seed=0, change=True, force=True)
    assert kept is net
    assert "none better" in said


def test_anchors_that_fit_are_bettered_when_forced() -> None:
    net, sizes = network(), torch.full((9, 2), 19.0)
    new, _ = anchors.fit_anchors(net, sizes, anchor_t=4, seed=0, change=False, force=True)
    assert anchors.measure(own_anchors(new), sizes, anchor_t=4).ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("masks", "written"),
    [
        (("0,1,2", "3,4,5"), ("0,1,2", "3,4,5")),
        (("3,4,5", "0,1,2"), ("3,4,5", "0,1,2")),
        (("1,2,3", "3,4,5"), ("0,1,2", "3,4,5")),
    ],
    ids=["fine first", "coarse first", "shared and unused"],
)
def test_masks_pick_each_heads_anchors_from_one_list(
    masks: tuple[str, str], written: tuple[str, str]
) -> None:
    text = tiny.CFG.format(width=8).replace("mask=0,1,2", "mask=A").replace("mask=3,4,5", "mask=B")
    sections = parse(text.replace("A", masks[0]).replace("B", masks[1]))
    new = [[(1.5, 2.0), (3.0, 4.0), (5.0, 6.25)], [(7.0, 8.0), (9.0, 10.0), (11.0, 12.0)]]
    changed = with_anchors(sections, new)
    for head, pairs, mask in zip(heads(changed), new, written, strict=True):
        section = changed[head + 1]
        listed = np.reshape(option(section, "anchors", numbers), (-1, 2))
        assert listed[list(anchor_mask(section))].tolist() == [list(pair) for pair in pairs]
        assert section.options["mask"] == mask


def test_checkpoint_and_onnx_decode_as_the_new_network(tmp_path: Path) -> None:
    net, _ = anchors.fit_anchors(network(), odd_sizes(), anchor_t=4, seed=0, change=True)
    checkpoint.save(checkpoint.capture(net, names=tiny.NAMES, imgsz=64), tmp_path / "net.pt")
    again = checkpoint.network(checkpoint.load(tmp_path / "net.pt"))
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = net.decode(net(images))
        assert again.decode(again(images)).equal(wanted)
    assert again.cfg_text() == net.cfg_text()
    export(net, tmp_path / "net.onnx", names=tiny.NAMES, imgsz=(64, 64))
    runner = open_weights(tmp_path / "net.onnx", device_name="cpu")
    assert torch.allclose(runner.detect(images), wanted, atol=1e-3)
