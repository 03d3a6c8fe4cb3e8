"""Importance from images: its values, and that it is read again where nothing has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from prune.common import cache_dir
from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.core.cut import apply_plan
from prune.core.importance import group_importance
from prune.core.importance.criteria import NEED_IMAGES
from prune.core.importance.statistics import Statistics, gather
from prune.core.select.selection import by_amount
from prune.core.trace.groups import trace
from prune.data import loader, spec
from prune.data.spec import DataSpec
from prune.errors import InputError, PlanError
from prune.models.loss import detection_loss
from prune.pruner import importance
from prune.pruner.importance import Importance, TrainImages, importance_of
from prune.pruner.session import Session, open_session


@pytest.fixture
def subject(tmp_path: Path) -> Session:
    return open_session(tiny.weights(tmp_path))


@pytest.fixture
def data(tmp_path: Path) -> DataSpec:
    return spec.load(tiny.data(tmp_path / "data"), splits=("train",))


def _same(first: Importance, second: Importance) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(first, second, strict=True)
    )


def _files(subject: Session) -> list[Path]:
    """List what was kept: in the cache, and never beside the checkpoint."""
    assert not list(subject.path.parent.glob("*.scores"))
    return sorted(cache_dir.folder("scores").glob("*.scores"))


def test_weights_are_ranked_without_images_or_files(subject: Session) -> None:
    for criterion in ("l1", "bn", "random"):
        found = importance_of(subject, criterion=criterion)
        assert _same(
            found,
            group_importance.channel_importance(subject.net, subject.groups, criterion=criterion),
        )
    assert not _files(subject)


def _images(data: DataSpec) -> tuple[Tensor, Tensor]:
    """Read the images as they are, whole: they have the network's size. Returns targets too."""
    images, targets = [], []
    for number, path in enumerate(data.images("train")):
        image = cv2.imread(str(path))
        assert image is not None
        images.append(torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float() / 255)
        rows = np.loadtxt(path.parents[2] / "labels" / "train" / f"{path.stem}.txt", ndmin=2)
        targets.append(np.column_stack([np.full(len(rows), number), rows]))
    return torch.stack(images), torch.from_numpy(np.concatenate(targets)).float()


def _loss(subject: Session, images: Tensor, targets: Tensor) -> Tensor:
    maps = subject.net(images)
    return detection_loss(maps, subject.net.heads, targets, hyp=SCRATCH)[0]


def test_taylor_is_of_the_detection_loss_on_the_images_as_they_are(
    subject: Session, data: DataSpec
) -> None:
    found = importance_of(
        subject, criterion="taylor", images=TrainImages(data, 6, Size.of(tiny.SIZE))
    )
    images, targets = _images(data)
    for group, own in zip(subject.groups, found, strict=True):
        if own is None:
            assert group.protected
            continue
        weight = subject.net.get_submodule(group.root).get_parameter("weight")
        (gradient,) = torch.autograd.grad(_loss(subject, images, targets), [weight])
        expected = (weight * gradient).flatten(1).sum(dim=1).abs().detach()
        np.testing.assert_allclose(own.numpy(), expected.numpy(), rtol=1e-2, atol=1e-5)


def test_fisher_looks_at_each_image_alone(subject: Session, data: DataSpec) -> None:
    found = importance_of(
        subject, criterion="fisher", images=TrainImages(data, 6, Size.of(tiny.SIZE))
    )
    images, targets = _images(data)
    (number,) = (i for i, g in enumerate(subject.groups) if g.root == "module_list.0.Conv2d")
    reader = subject.net.get_submodule("module_list.1.Conv2d").get_parameter("weight")
    total = torch.zeros(8)
    for image in range(6):
        own = targets[targets[:, 0] == image] * torch.tensor([0.0, 1, 1, 1, 1, 1])
        (gradient,) = torch.autograd.grad(_loss(subject, images[[image]], own), [reader])
        total += (reader * gradient).sum(dim=(0, 2, 3)).pow(2).detach()
    scored = found[number]
    assert scored is not None
    np.testing.assert_allclose(scored.numpy(), total.numpy(), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("criterion", NEED_IMAGES)
def test_a_second_call_reads_what_the_first_kept(
    criterion: str, subject: Session, data: DataSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    images = TrainImages(data, 4, Size.of(tiny.SIZE))
    first = importance_of(subject, criterion=criterion, images=images, report=said.append)
    (kept,) = _files(subject)
    assert kept.name.startswith(f"dense.{criterion}-root-none-")

    def broken(*_: object, **__: object) -> loader.TrainLoader:
        raise AssertionError("pictures were read again")

    monkeypatch.setattr(loader, "train_loader", broken)
    again = importance_of(subject, criterion=criterion, images=images, report=said.append)
    assert _same(first, again)
    assert said == [
        f"importance of channels saved in {kept}",
        f"importance of channels read from {kept}",
    ]


def test_without_a_place_to_keep_scores_the_command_goes_on(
    subject: Session, data: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said: list[str] = []
    images = TrainImages(data, 2, Size.of(tiny.SIZE))
    assert importance_of(subject, criterion="activation", images=images, report=said.append)
    assert said[-1].endswith("the importance of channels is computed again next time")


@pytest.mark.parametrize("bytes_left", [0, 4, 300])
def test_damaged_scores_are_named(bytes_left: int, subject: Session, data: DataSpec) -> None:
    images = TrainImages(data, 2, Size.of(tiny.SIZE))
    importance_of(subject, criterion="activation", images=images)
    (kept,) = _files(subject)
    kept.write_bytes(kept.read_bytes()[:bytes_left])
    with pytest.raises(InputError, match="is damaged; remove it to compute it anew"):
        importance_of(subject, criterion="activation", images=images)


Asking = Callable[[Session, TrainImages], tuple[Session, TrainImages, dict[str, object]]]


def _other_weights(
    subject: Session, images: TrainImages
) -> tuple[Session, TrainImages, dict[str, object]]:
    with torch.no_grad():
        subject.net.get_parameter("module_list.1.Conv2d.weight")[0, 0, 0, 0] += 1
    return subject, images, {}


def _other_label(
    subject: Session, images: TrainImages
) -> tuple[Session, TrainImages, dict[str, object]]:
    label = images.spec.path.parent / "labels" / "train" / "0.txt"
    label.write_text(label.read_text().splitlines()[0] + "\n")
    return subject, images, {}


OTHERS: dict[str, Asking] = {
    "criterion": lambda s, p: (s, p, {"criterion": "activation"}),
    "scope": lambda s, p: (s, p, {"scope": "group"}),
    "normalize": lambda s, p: (s, p, {"normalize": "mean"}),
    "seed": lambda s, p: (s, p, {"seed": 1}),
    "number of pictures": lambda s, p: (s, replace(p, images=3), {}),
    "size": lambda s, p: (s, replace(p, imgsz=Size.of(2 * tiny.SIZE)), {}),
    "weights": _other_weights,
    "labels": _other_label,
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_question_has_another_file(what: str, subject: Session, data: DataSpec) -> None:
    images = TrainImages(data, 2, Size.of(tiny.SIZE))
    importance_of(subject, criterion="taylor", images=images)
    subject, images, wish = OTHERS[what](subject, images)
    importance_of(subject, **{"criterion": "taylor", "images": images, **wish})  # type: ignore[arg-type]  # a table
    assert len(_files(subject)) == 2


def test_a_network_after_a_cut_is_scored_anew(subject: Session, data: DataSpec) -> None:
    """As in steps, where the checkpoint's file is one and the same."""
    images = TrainImages(data, 2, Size.of(tiny.SIZE))
    found = importance_of(subject, criterion="taylor", images=images)
    plan = by_amount(subject.groups, found, [subject.groups[0].root], amount=0.5)
    net = apply_plan(subject.net, subject.groups, plan)
    groups = trace(net, net.small_image, protected=net.head_convolutions())
    after = importance_of(
        replace(subject, net=net, groups=groups), criterion="taylor", images=images
    )[0]
    assert after is not None
    assert len(after) == subject.groups[0].channels // 2


@pytest.mark.parametrize(("wanted", "looked_at"), [(1, 1), (5, 5), (6, 6), (99, 6)])
@pytest.mark.parametrize("criterion", NEED_IMAGES)
def test_so_many_images_are_looked_at_or_all(
    criterion: str,
    wanted: int,
    looked_at: int,
    subject: Session,
    data: DataSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def noting(*args: object, **named: object) -> Statistics:
        found = gather(*args, **named)  # type: ignore[arg-type]  # handed on as it came
        seen.append(found.images)
        return found

    monkeypatch.setattr(importance, "gather", noting)
    importance_of(
        subject, criterion=criterion, images=TrainImages(data, wanted, Size.of(tiny.SIZE))
    )
    assert seen == [looked_at]


def test_a_batch_that_is_too_many_loses_images_and_their_boxes() -> None:
    targets = torch.tensor([[0.0, 1], [1, 0], [1, 1], [2, 0]])
    images = torch.full((3, 3, 2, 2), 255, dtype=torch.uint8)
    batch = loader.Batch(images, targets, paths=[], frames=[])
    ((first, boxes),) = importance._first([batch], 2, torch.device("cpu"))
    assert first.shape == (2, 3, 2, 2)
    assert float(first.max()) == 1
    assert torch.equal(boxes, targets[:3])


def test_other_classes_are_refused(subject: Session, data: DataSpec) -> None:
    other = replace(data, names=("red", "blue", "green"))
    with pytest.raises(InputError, match=r"detects 2 classes .* but .* has 3 .*; they must agree"):
        importance_of(subject, criterion="taylor", images=TrainImages(other, 2, Size.of(tiny.SIZE)))


@pytest.mark.parametrize("criterion", NEED_IMAGES)
def test_without_images_it_is_said_what_to_give(criterion: str, subject: Session) -> None:
    with pytest.raises(PlanError, match=f"criterion {criterion} needs images; give --data"):
        importance_of(subject, criterion=criterion)


def test_no_images_at_all_are_no_wish(data: DataSpec) -> None:
    with pytest.raises(InputError, match="images is 0; it must be at least 1"):
        TrainImages(data, 0, Size.of(tiny.SIZE))


def test_an_unknown_criterion_is_refused(subject: Session) -> None:
    with pytest.raises(PlanError, match="criterion is 'l3'"):
        importance_of(subject, criterion="l3")
