"""The network a run starts from: a checkpoint's, or a fresh one from a cfg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from prune import checkpoint
from prune.checkpoint.convert import fresh_sections, open_weights
from prune.common.size import Size
from prune.common.wording import few
from prune.data.spec import reordered
from prune.errors import CheckpointError, InputError
from prune.models.darknet import Darknet, reactivated
from prune.models.image_size import image_size
from prune.models.sections import remarks
from prune.train.distillation import expect_alike
from prune.train.resume_state import expect_state


@dataclass(frozen=True)
class Source:
    """A network to train, and what is known of it.

    `imgsz` is the size it was trained at; `notes` are remarks for the user; `parent` is
    the digest of the file it comes from, `teacher` that of what an interrupted run imitates.
    """

    net: Darknet
    imgsz: Size
    pruned: bool = False
    history: Sequence[Mapping[str, object]] = ()
    parent: str | None = None
    teacher: str | None = None
    notes: tuple[str, ...] = field(default=())


def fresh(cfg: Path, *, names: Sequence[str], seed: int) -> Source:
    """Build the cfg's network with the data's classes and random weights.

    Raises:
        CfgError: the cfg cannot be read, or it describes no network of RGB images.
    """
    torch.manual_seed(seed)
    sections = fresh_sections(cfg, classes=len(names))
    net = Darknet(sections)
    imgsz, notes = image_size(net)
    return Source(net=net, imgsz=imgsz, notes=(*remarks(sections), *notes))


def activated(source: Source, activation: str) -> Source:
    """Copy a source whose convolutions have another activation; weights stay.

    `activation` is a key of `prune.models.layers.ACTIVATIONS`.
    """
    return replace(source, net=reactivated(source.net, activation))


@dataclass(frozen=True)
class Teacher:
    """A network to imitate, the digest of its file, and remarks for the user."""

    net: Darknet
    digest: str
    notes: tuple[str, ...] = ()


def teacher(weights: Path, student: Source, *, names: Sequence[str], resumed: bool) -> Teacher:
    """Open a checkpoint to imitate.

    Args:
        weights: a checkpoint of ours or public weights.
        student: what is trained.
        names: the data's classes.
        resumed: whether the run goes on; its teacher has to be the one it began with.

    Raises:
        CheckpointError: a file that cannot be read.
        InputError: heads other than the student's, its classes in another order, or another
            teacher than before.
    """
    found = open_weights(weights)
    net, digest = checkpoint.network(found), checkpoint.digest(weights)
    expect_alike(net, student.net)
    if resumed and digest != student.teacher:
        raise InputError(f"{weights} is not the teacher that this run began with")
    notes = (f"{weights}: {'; '.join(found.remarks)}",) if found.remarks else ()
    if found.names == list(names):
        return Teacher(net, digest, notes)
    _expect_order(weights, found.names, names)
    return Teacher(net, digest, (*notes, f"the teacher calls the classes {few(found.names)}"))


def _expect_order(weights: Path, own: Sequence[str], names: Sequence[str]) -> None:
    """Refuse classes of the same names that are numbered otherwise."""
    if reordered(own, names):
        raise InputError(
            f"{weights} has the classes {few(own)} and the data {few(names)}; both must number "
            "them alike"
        )


def interrupted(last: Path, *, names: Sequence[str]) -> tuple[Source, dict[str, object]]:
    """Take up a run where it stopped: its network, with the averaged weights, and its state.

    Args:
        last: what it saved last.
        names: the data's classes.

    Raises:
        CheckpointError: not one of our checkpoints, or one of a run that came to its end.
        InputError: the data's classes are not the run's.
    """
    found = checkpoint.load(last)
    if not found.training:
        raise CheckpointError(f"{last} is finished; to train on, start from --weights {last}")
    if found.names != list(names):
        raise InputError(
            f"{last} trains on the classes {few(found.names)} and the data now has "
            f"{few(names)}; a run goes on with the data it began with"
        )
    expect_state(found.training, found.model, where=str(last))
    if not found.history:
        raise CheckpointError(f"{last}: history is empty; a run writes an entry of its own")
    *earlier, own = found.history
    parent, teacher = (own.get(key) for key in ("parent", "teacher"))
    source = Source(
        net=checkpoint.network(found),
        imgsz=found.imgsz,
        pruned=found.pruned,
        history=earlier,
        parent=None if parent is None else str(parent),
        teacher=None if teacher is None else str(teacher),
    )
    return source, found.training
