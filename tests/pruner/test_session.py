"""Pruning a checkpoint: one proof for the cut and for what is written of it."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from prune import checkpoint
from prune.cli import main
from prune.core.importance import group_importance
from prune.core.select import selection
from prune.errors import VerificationError
from prune.models.darknet import build
from prune.pruner import session
from prune.pruner.session import Pruned, Session

# The weights of the sum are [2, 2]: which axis holds the channels cannot be told.
UNCLEAR = """
[net]
width=32
height=32
channels=3
[convolutional]
filters=2
size=1
activation=linear
[convolutional]
filters=2
size=1
activation=linear
[shortcut]
from=-2
weights_type=per_channel
activation=linear
[convolutional]
filters=4
size=1
activation=linear
[convolutional]
filters=18
size=1
activation=linear
[yolo]
mask=0,1,2
anchors=1,2,3,4,5,6
classes=1
"""


@pytest.fixture
def cut(tmp_path: Path) -> tuple[Session, Pruned]:
    subject = session.open_session(tiny.weights(tmp_path))
    names = list(session.convolutions(subject.net).values())
    scores = group_importance.channel_importance(subject.net, subject.groups)
    plan = selection.by_amount(subject.groups, scores, names, amount=0.5)
    return subject, session.cut_session(subject, plan, made_by="test")


def test_a_right_cut_and_its_checkpoint_are_proved(cut: tuple[Session, Pruned]) -> None:
    subject, pruned = cut
    assert session.verify(subject, pruned, session.as_checkpoint(subject, pruned, seed=0)) < 1e-4


def test_a_wrong_cut_is_found(cut: tuple[Session, Pruned]) -> None:
    subject, pruned = cut
    with torch.no_grad():
        next(pruned.net.parameters()).mul_(1.1)
    with pytest.raises(VerificationError, match=r"^the pruned network differs"):
        session.verify(subject, pruned, session.as_checkpoint(subject, pruned, seed=0))


@pytest.mark.parametrize(
    "change", [("activation=leaky", "activation=relu"), ("filters=8", "filters=9")]
)
def test_a_text_that_builds_another_network_is_found(
    cut: tuple[Session, Pruned], change: tuple[str, str]
) -> None:
    subject, pruned = cut
    result = session.as_checkpoint(subject, pruned, seed=0)
    assert change[0] in result.cfg
    wrong = replace(result, cfg=result.cfg.replace(*change, 1))
    with pytest.raises(
        VerificationError, match="the cut is right, the cfg text written for it is not"
    ):
        session.verify(subject, pruned, wrong)


def test_what_keeps_its_channels_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.pt"
    checkpoint.save(checkpoint.capture(build(UNCLEAR), names=["x"], imgsz=32), file)
    words = ["--weights", str(file), "--out", str(tmp_path / "out.pt"), "--amount", "0.5"]
    assert main(["layers", *words]) == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note == (
        "prune: note: the channels of module_list.0.Conv2d are protected: it is unclear which axis "
        "of module_list.2.w holds channels"
    )
    assert main(["conv", "--layer", "0", *words]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("prune: nothing to remove: module_list.0.Conv2d: it is unclear")
