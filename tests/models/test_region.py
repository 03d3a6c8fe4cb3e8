"""The head of YOLOv2, [region]: decoded as OpenCV does, trained for what it is, carried through."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from public import draw_image, trained, with_torch_decoding
from torch import Tensor
from torch.nn import functional
from yolov2_cfg import YOLOV2

from prune import checkpoint
from prune.checkpoint.foreign.weights import write_weights
from prune.cli import main
from prune.common.hyperparameters import SCRATCH
from prune.errors import CfgError, InputError
from prune.export.darknet import write_yolor
from prune.models.assignment import assign
from prune.models.darknet import Darknet, build
from prune.models.head import Yolo
from prune.models.loss import detection_loss
from prune.models.sections import parse, with_anchors, with_classes
from prune.train.distillation import expect_alike, output_loss


def network(seed: int = 0) -> Darknet:
    return trained(YOLOV2, decoding="darknet", seed=seed)


def files(folder: Path, *, seed: int = 0) -> tuple[Path, Path]:
    """Write the pair as Darknet left it: the cfg says nothing of any order or decoding."""
    net, cfg, weights = network(seed), folder / "v2.cfg", folder / "v2.weights"
    cfg.write_text(YOLOV2)
    write_weights(weights, net.state_dict(), net.sections)
    return cfg, weights


def by_opencv(cfg: Path, weights: Path) -> Tensor:
    """Decode by OpenCV: [ny*nx*A, 5 + classes] in pixels, each class times its objectness."""
    there = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    there.setInput(draw_image().numpy())
    rows = torch.from_numpy(np.asarray(there.forward())).double()
    return torch.cat((rows[:, :4] * 64, rows[:, 4:]), dim=1)


def as_opencv(boxes: Tensor, anchors: int) -> Tensor:
    """Sort our boxes, [1, A*ny*nx, 5 + classes], as OpenCV does and weigh their classes."""
    rows = boxes[0].reshape(anchors, -1, boxes.shape[-1]).transpose(0, 1).flatten(0, 1).double()
    return torch.cat((rows[:, :5], rows[:, 5:] * rows[:, 4:5]), dim=1)


def assert_close(own: Tensor, theirs: Tensor) -> None:
    """Compare all boxes, and the classes that OpenCV's own suppression left above zero.

    OpenCV divides by sqrt(variance + 1e-6) where Darknet has 1e-5.
    """
    left = theirs > 0
    assert left[:, :5].all()
    assert left[:, 5:].double().mean() > 0.5
    torch.testing.assert_close(own[left], theirs[left], rtol=1e-3, atol=1e-4)


def test_boxes_are_opencvs(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        own = as_opencv(net.decode(net(draw_image())), 3)
    theirs = by_opencv(*files(tmp_path))
    assert own.shape == theirs.shape == (8 * 8 * 3, 8)
    assert_close(own, theirs)


def test_a_box_is_its_formula_worked_out_by_hand() -> None:
    head = network().heads[0]
    logits = torch.zeros(1, 24, 1, 1)
    logits[0, 8:16, 0, 0] = torch.tensor([1.0, -1.0, 0.5, 0.25, 2.0, 1.0, 2.0, 3.0])  # anchor 1
    box = head.decode(logits)[0, 1].tolist()
    cell = 8
    total = sum(map(math.exp, (1, 2, 3)))
    wanted = [
        cell / (1 + math.exp(-1)),
        cell / (1 + math.exp(1)),
        1.9 * cell * math.exp(0.5),
        2.1 * cell * math.exp(0.25),
        1 / (1 + math.exp(-2)),
        *(math.exp(k) / total for k in (1, 2, 3)),
    ]
    assert box == pytest.approx(wanted, rel=1e-5)


def test_what_has_another_tail_is_refused_by_name() -> None:
    with pytest.raises(CfgError, match=r"\[region\] tree \(line"):
        parse(YOLOV2 + "tree=data/9k.tree\n")
    with pytest.raises(CfgError, match=r"\[region\] softmax=0 \(line"):
        parse(YOLOV2.replace("softmax=1", "softmax=0"))
    with pytest.raises(CfgError, match=r"\[region\] softmax: is missing"):
        build(YOLOV2.replace("softmax=1\n", ""))
    with pytest.raises(CfgError, match=r"beside \.weights"):
        with_torch_decoding(parse(YOLOV2))


def test_other_classes_and_anchors_are_written_as_the_section_has_them() -> None:
    sections = with_anchors(with_classes(network().sections, 5), [[(1, 2), (3, 4), (5, 6.5)]])
    net = Darknet(sections)
    assert "mask" not in sections[-1].options
    assert net.heads[0].anchors.tolist() == [[8, 16], [24, 32], [40, 52]]
    assert net.heads[0].anchor_unit == 8
    assert net(draw_image())[0].shape[1] == 3 * 10


def test_classes_that_exclude_one_another_are_trained_by_cross_entropy() -> None:
    head = network().heads[0]
    targets = torch.tensor([[0, 1, 0.3, 0.4, 0.2, 0.3], [0, 2, 0.8, 0.7, 0.1, 0.1]])
    maps = torch.randn(1, 24, 8, 8, generator=torch.Generator().manual_seed(0))
    label = detection_loss([maps], [head], targets, hyp=SCRATCH)[1][2]
    found = assign(head, targets, grid=(8, 8), anchor_t=SCRATCH["anchor_t"])
    logits = head.split(maps)[found.image, found.anchor, found.row, found.column, 5:]
    wanted = functional.cross_entropy(logits, found.label) / 3
    assert float(label) == pytest.approx(SCRATCH["cls"] * 3 * float(wanted), rel=1e-5)


def test_training_finds_boxes_and_classes() -> None:
    """200 steps on the head maps themselves: the surest boxes are the two that were drawn."""
    head = network().heads[0]
    targets = torch.tensor([[0, 1, 0.3, 0.4, 0.2, 0.3], [0, 2, 0.8, 0.7, 0.1, 0.1]])
    maps = torch.zeros(1, 24, 8, 8, requires_grad=True)
    optimizer = torch.optim.Adam([maps], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss = detection_loss([maps], [head], targets, hyp=SCRATCH)[0]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    boxes = head.decode(maps.detach())[0]
    for row in targets:
        label, box = int(row[1]), row[2:] * 64
        nearest = (boxes[:, :4] - box).abs().sum(dim=1).argmin()
        assert (boxes[nearest, :4] - box).abs().max() < 2
        assert boxes[nearest, 5:].argmax() == label
        assert boxes[nearest, 4] > 0.5


def test_a_teacher_of_the_same_kind_is_imitated() -> None:
    net, other = network(), network(seed=1)
    expect_alike(net, other)
    with torch.no_grad():
        own, theirs = net(draw_image()), other(draw_image())
    assert float(output_loss(own, own, net.heads, hyp=SCRATCH)) == pytest.approx(0, abs=1e-4)
    assert float(output_loss(own, theirs, net.heads, hyp=SCRATCH)) > 0.01
    (head,) = net.heads
    plain = Yolo(head.anchors, stride=head.stride, classes=3)
    net.module_list[-1] = plain
    with pytest.raises(InputError, match="softmax"):
        expect_alike(net, other)


def test_a_pair_goes_through_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg, weights = files(tmp_path)
    whole, cut = tmp_path / "w.pt", tmp_path / "cut.pt"
    words = ["--weights", str(weights), "--cfg", str(cfg), "--names", "a,b,c", "--out", str(whole)]
    assert main(["whole", *words]) == 0
    assert "order=darknet" in checkpoint.load(whole).cfg
    assert main(["show", str(whole)]) == 0
    assert "region" in capsys.readouterr().out
    words = ["--weights", str(whole), "--macs", "0.6", "--out", str(cut)]
    assert main(["global", *words]) == 0
    out = tmp_path / "cut.cfg"
    assert main(["export", "--weights", str(cut), "--format", "darknet", "--out", str(out)]) == 0
    net = checkpoint.network(checkpoint.load(cut))
    with torch.no_grad():
        own = as_opencv(net.decode(net(draw_image())), 3)
    theirs = by_opencv(out, out.with_suffix(".weights"))
    assert_close(own, theirs)
    assert main(["export", "--weights", str(cut), "--out", str(tmp_path / "cut.onnx")]) == 0


def test_the_public_pytorch_code_has_no_such_head(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="use --format darknet"):
        write_yolor(network(), tmp_path / "net.pt", ["a", "b", "c"])
    assert not list(tmp_path.iterdir())


def test_an_ncnn_file_says_how_its_classes_are_decoded(tmp_path: Path) -> None:
    pytest.importorskip("ncnn")
    source = checkpoint.capture(network(), names=["a", "b", "c"], imgsz=64)
    checkpoint.save(source, tmp_path / "net.pt")
    words = ["--weights", str(tmp_path / "net.pt"), "--format", "ncnn"]
    assert main(["export", *words, "--out", str(tmp_path / "net.param")]) == 0
    (head,) = json.loads((tmp_path / "net.json").read_text())["heads"]
    assert head["softmax"] is True
    assert head["anchors"][0] == pytest.approx([0.6 * 8, 0.7 * 8])
