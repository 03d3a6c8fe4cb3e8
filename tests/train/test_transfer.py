"""Weights of other classes or layers: what is taken over, what starts fresh, what is noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from public import save_state_dict, trained, yolor_cfg, yolov3_tiny_cfg
from torch import Tensor

from prune import checkpoint
from prune.cli import main
from prune.errors import CheckpointError, InputError
from prune.export.darknet import write_darknet
from prune.models.darknet import Darknet
from prune.train.config import TrainConfig
from prune.train.initial_weights import Source, start_from_weights
from prune.train.transfer import class_rows

BOXES = slice(0, 5)


def started(weights: Path, names: Sequence[str], **options: Any) -> Source:
    return start_from_weights(weights, TrainConfig(**options), names=names)


def head_rows(net: Darknet) -> list[Tensor]:
    """Return each head's kernel and bias side by side, [A, 5 + classes, in + 1]."""
    found = []
    for head, name in zip(net.heads, head_names(net), strict=True):
        kernel, bias = (net.get_parameter(f"{name}.{kind}").detach() for kind in ("weight", "bias"))
        rows = torch.cat((kernel.flatten(1), bias[:, None]), dim=1)
        found.append(rows.view(len(head.anchors), 5 + head.classes, -1))
    return found


def head_names(net: Darknet) -> list[str]:
    return sorted(net.head_convolutions(), key=lambda name: int(name.split(".")[1]))


@pytest.mark.parametrize(
    ("own", "names", "keep", "rows"),
    [
        (["red", "blue"], ["red", "blue"], False, {0: 0, 1: 1}),
        (["red", "blue"], ["blue", "red"], False, {0: 1, 1: 0}),
        (["red", "blue"], [" Red", "BLUE "], False, {0: 0, 1: 1}),
        (["red", "blue"], ["green", "blue", "grey"], False, {1: 1}),
        (["traffic light"], ["car", "Traffic_Light", "traffic-light"], False, {1: 0, 2: 0}),
        (["red", "blue"], ["rot", "blau"], False, {}),
        (["red", "blue"], ["rot", "blau"], True, {0: 0, 1: 1}),
        (["0", "1"], ["red", "blue"], False, {0: 0, 1: 1}),
        (["0", "1", "2"], ["red", "1"], False, {}),
        (["cat", "Cat"], ["cat"], False, {0: 0}),
    ],
    ids=lambda value: str(value),
)
def test_a_class_starts_from_the_row_of_its_name(
    own: list[str], names: list[str], keep: bool, rows: dict[int, int]
) -> None:
    assert class_rows(own, names, keep=keep) == rows


def test_box_rows_and_rows_of_equal_names_are_taken_over(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    before = checkpoint.network(checkpoint.load(weights))
    done = started(weights, ["green", "Blue", "grey"])
    for old, new in zip(head_rows(before), head_rows(done.net), strict=True):
        assert new.shape[1] == 8
        assert new[:, BOXES].equal(old[:, BOXES])
        assert new[:, 6].equal(old[:, 6])
        for fresh in (5, 7):
            assert not new[:, fresh, :-1].any()
            # The prior of the builder, log(0.6 / (3 - 0.99)) = -1.21, give or take its first bias.
            assert ((new[:, fresh, -1] + 1.21).abs() < 0.2).all()
    state, heads = done.net.state_dict(), head_names(before)
    assert all(
        state[name].equal(value)
        for name, value in before.state_dict().items()
        if name.rpartition(".")[0] not in heads
    )
    (note,) = done.notes
    assert note == (
        f"7 of 7 layers with weights, 100% of the parameters, are taken over from {weights}; it "
        "predicts 2 classes (red, blue) and the data has 3 classes (green, Blue, grey): the heads "
        "keep their box and objectness rows; class rows are taken over for 1 class (Blue); class "
        "rows start fresh for 2 classes (green, grey)"
    )


def test_more_classes_than_before_take_the_rows_that_are_there(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    net = started(weights, ["red", "blue", "green"]).net
    old = head_rows(checkpoint.network(checkpoint.load(weights)))
    assert all(b[:, :7].equal(a) for a, b in zip(old, head_rows(net), strict=True))


def test_reordered_classes_take_their_rows_along(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    done = started(weights, ["blue", "red"])
    old = head_rows(checkpoint.network(checkpoint.load(weights)))
    new = head_rows(done.net)
    assert all(b.equal(a[:, [0, 1, 2, 3, 4, 6, 5]]) for a, b in zip(old, new, strict=True))


def test_as_many_classes_of_other_names_start_fresh_unless_kept(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    before = checkpoint.network(checkpoint.load(weights)).state_dict()
    fresh = started(weights, ["rot", "blau"])
    assert not head_rows(fresh.net)[0][:, 5:, :-1].any()
    assert "class rows start fresh for 2 classes (rot, blau)" in fresh.notes[0]
    assert "if these are new names for the same classes, use --keep-classes" in fresh.notes[0]
    for options in ({"keep_classes": True}, {"teacher": weights}):
        kept = started(weights, ["rot", "blau"], **options)
        assert all(kept.net.state_dict()[name].equal(value) for name, value in before.items())
        assert kept.notes == ("the classes are called rot, blau from now on, not red, blue",)
    with pytest.raises(InputError, match="leave the option out"):
        started(weights, ["rot"], keep_classes=True)


def test_a_pruned_checkpoint_keeps_its_structure_and_history(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path, pruned=True)
    done = started(weights, ["green"], pt=True, cfg=tiny.cfg(tmp_path))
    assert done.pruned
    assert list(done.history) == checkpoint.load(weights).history
    assert [layer.out_channels for layer in done.net.layers][2] == 20
    assert "is another network than" in done.notes[0]
    assert done.notes[1].startswith("7 of 7 layers with weights, ")


def test_of_another_network_what_fits_is_taken_over(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    done = started(weights, ["red", "blue"], cfg=tiny.cfg(tmp_path, width=20))
    before, after = checkpoint.load(weights).model, done.net.state_dict()
    same = {
        int(name.split(".")[1])
        for name, value in after.items()
        if value.dim() and value.shape == before[name].shape and value.equal(before[name])
    }
    # Layers 0 and 1 fit. Those of 20 channels do not, nor what reads them: 2, 3, 5, 8 and 9. The
    # last BatchNorm's zeros and ones are equal by nature.
    assert {0, 1} <= same
    (note,) = done.notes
    assert note.startswith("2 of 7 layers with weights, ")
    assert note.endswith("5 layers start fresh (2, 3, 5, 8, 9)")
    assert done.history == ()


def test_a_layer_is_never_taken_over_in_part(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    found = checkpoint.load(weights)
    model = dict(found.model)
    model["module_list.3.BatchNorm2d.running_mean"] = torch.full((32,), 7.0)
    checkpoint.save(replace(found, model=model), weights)
    text = tiny.CFG.format(width=32).replace("size=3\nstride=1", "size=1\nstride=1", 1)
    (tmp_path / "other.cfg").write_text(text)
    net = started(weights, ["red", "blue"], cfg=tmp_path / "other.cfg").net
    assert not net.get_buffer("module_list.3.BatchNorm2d.running_mean").any()


def test_decoding_and_anchors_are_the_checkpoints(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    text = tiny.CFG.format(width=32).replace("size=3\nstride=1", "size=1\nstride=1", 1)
    text = text.replace("new_coords=1\nscale_x_y=2.0", "scale_x_y=1.05").replace("10,10,", "90,90,")
    (tmp_path / "other.cfg").write_text(text.replace("logistic", "linear"))
    net = started(weights, ["green"], cfg=tmp_path / "other.cfg").net
    before = checkpoint.network(checkpoint.load(weights))
    for new, old in zip(net.heads, before.heads, strict=True):
        assert (new.new_coords, new.scale_x_y) == (old.new_coords, old.scale_x_y)
        assert new.anchors.equal(old.anchors)


def test_same_layers_in_other_words_keep_the_checkpoints_network(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path)
    (tmp_path / "relu.cfg").write_text(tiny.CFG.format(width=32).replace("leaky", "relu"))
    done = started(weights, ["red", "blue"], cfg=tmp_path / "relu.cfg")
    assert "is another network than" in done.notes[0]
    assert done.net.cfg_text() == checkpoint.load(weights).cfg


def test_partial_takes_the_cfgs_network_even_for_a_pruned_checkpoint(tmp_path: Path) -> None:
    weights = tiny.weights(tmp_path, pruned=True)
    done = started(weights, ["red", "blue"], cfg=tiny.cfg(tmp_path), partial=True)
    assert [layer.out_channels for layer in done.net.layers][2] == 32
    assert not done.pruned


def test_a_network_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    text = tiny.CFG.format(width=12)
    for old, new in {"=8\n": "=6\n", "=16\n": "=10\n"}.items():
        text = text.replace(old, new)
    (tmp_path / "other.cfg").write_text(text)
    with pytest.raises(CheckpointError, match="they are other networks"):
        started(tiny.weights(tmp_path), ["red", "blue"], cfg=tmp_path / "other.cfg")


@pytest.mark.parametrize("kind", ["public .pt", "darknet pair"])
def test_public_weights_start_a_run_as_they_are(tmp_path: Path, kind: str) -> None:
    cfg = tmp_path / "net.cfg"
    if kind == "public .pt":
        cfg.write_text(yolor_cfg())
        before = trained(yolor_cfg(), decoding="torch")
        weights = save_state_dict(before, tmp_path / "net.pt")
    else:
        before = trained(yolov3_tiny_cfg(), decoding="darknet")
        weights = tmp_path / "net.weights"
        write_darknet(before, cfg)
    done = started(weights, ["red", "green", "blue", "grey"], cfg=cfg)
    for old, new in zip(head_rows(before), head_rows(done.net), strict=True):
        torch.testing.assert_close(new[:, BOXES], old[:, BOXES])
    for after, head in zip(done.net.heads, before.heads, strict=True):
        assert (after.new_coords, after.scale_x_y) == (head.new_coords, head.scale_x_y)
    assert "the data has 4 classes" in done.notes[-1]


def test_rows_of_implicit_layers_go_with_those_of_their_convolution(tmp_path: Path) -> None:
    (tmp_path / "net.cfg").write_text(yolor_cfg(classes=2))
    before = trained(yolor_cfg(classes=2), decoding="torch")
    weights = save_state_dict(before, tmp_path / "net.pt")
    net = started(weights, ["red", "green", "blue"], cfg=tmp_path / "net.cfg").net
    name = "module_list.9.implicit"  # the [implicit_mul] behind the first head's convolution
    old = before.state_dict()[name].view(3, 7)
    assert net.state_dict()[name].view(3, 8)[:, BOXES].equal(old[:, BOXES])


def test_train_with_other_classes_needs_no_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = tiny.data(tmp_path)
    data.write_text(data.read_text().replace("[red, blue]", "[blue, green, grey]"))
    words = ["--data", str(data), "--epochs", "1", "--batch", "3", "--workers", "0", "--no-plots"]
    assert main(["train", "--weights", str(tiny.weights(tmp_path)), *words]) == 0
    assert capsys.readouterr().err.count("note: ") == 1
    found = checkpoint.load(tmp_path / "runs" / "train" / "exp" / "weights" / "last.pt")
    assert found.names == ["blue", "green", "grey"]
    assert [head.classes for head in checkpoint.network(found).heads] == [3, 3]


@pytest.mark.parametrize(
    ("names", "message"),
    [("[blue, red]", "must number them alike"), ("[red, blue, green]", "the teacher's heads have")],
)
def test_a_teacher_of_other_classes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str, message: str
) -> None:
    data, weights = tiny.data(tmp_path), str(tiny.weights(tmp_path))
    data.write_text(data.read_text().replace("[red, blue]", names))
    words = ["--data", str(data), "--project", str(tmp_path / "runs"), "--workers", "0"]
    assert main(["train", "--weights", weights, "--teacher", weights, *words]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("classes", [1, 4])
def test_darknet_weights_of_other_classes_than_their_cfg_are_read(
    tmp_path: Path, classes: int
) -> None:
    """As Darknet's users have them: the cfg is made for the data, the weights are COCO's."""
    before = trained(yolov3_tiny_cfg(classes=3), decoding="darknet")
    write_darknet(before, tmp_path / "net.cfg")
    (tmp_path / "mine.cfg").write_text(yolov3_tiny_cfg(classes=classes))
    names = [f"class {i}" for i in range(classes)]
    done = started(tmp_path / "net.weights", names, cfg=tmp_path / "mine.cfg")
    for old, new in zip(head_rows(before), head_rows(done.net), strict=True):
        torch.testing.assert_close(new[:, BOXES], old[:, BOXES])
    assert "the numbers in the file are those of the cfg with 3 classes" in done.notes[0]


def test_a_backbone_of_darknet_fills_the_first_layers(tmp_path: Path) -> None:
    """What Darknet's `partial` command writes and its users start from: yolov4.conv.137."""
    before = trained(yolov3_tiny_cfg(), decoding="darknet")
    cfg, weights, _ = write_darknet(before, tmp_path / "net.cfg")
    first = {name: v for name, v in before.state_dict().items() if int(name.split(".")[1]) < 5}
    numbers = sum(value.numel() for value in first.values() if value.dim())
    backbone = tmp_path / "net.conv.5"
    backbone.write_bytes(weights.read_bytes()[: 20 + 4 * numbers])
    done = started(backbone, ["red", "green", "blue"], cfg=cfg)
    state = done.net.state_dict()
    for name, value in first.items():
        torch.testing.assert_close(state[name], value)
    assert "the file ends before the cfg does, after a whole layer" in done.notes[0]
    assert " layers start fresh (" in done.notes[1]
    backbone.write_bytes(weights.read_bytes()[: 20 + 4 * numbers + 4])
    with pytest.raises(CheckpointError):
        started(backbone, ["red"], cfg=cfg)


def test_of_a_public_network_with_other_layers_what_fits_is_taken_over(tmp_path: Path) -> None:
    before = trained(yolor_cfg(), decoding="torch")
    weights = save_state_dict(before, tmp_path / "net.pt")
    other = yolor_cfg().replace("size=3\nstride=2\npad=1\nactivation=leaky", "{}")
    other = other.format("size=5\nstride=2\npad=1\nactivation=leaky")  # of layer 5
    (tmp_path / "other.cfg").write_text(other)
    done = started(weights, ["red"], cfg=tmp_path / "other.cfg")
    after, given = done.net.state_dict(), before.state_dict()
    for layer, same in ((3, True), (5, False)):
        name = f"module_list.{layer}.BatchNorm2d.running_mean"
        assert after[name].equal(given[name]) == same
    assert "whose layers are not all those of the cfg" in done.notes[0]
    assert "1 layer starts fresh (5)" in done.notes[1]
