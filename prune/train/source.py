"""The network a run starts from: a checkpoint's, or a fresh one from a cfg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.data.spec import few, reordered
from prune.errors import CfgError, CheckpointError, InputError, unreadable
from prune.models.darknet import Darknet, build, reactivated
from prune.models.sections import expect_rgb, parse, with_classes, write
from prune.train.imitation import expect_alike

FRESH_IMGSZ = 640
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Source:
    """A network to train, and what is known of it.

    `imgsz` is the size it was trained at, in pixels; `notes` are remarks for the user; `parent` is
    the digest of the file it comes from, `teacher` that of what an interrupted run imitates.
    """

    net: Darknet
    imgsz: int
    pruned: bool = False
    history: Sequence[Mapping[str, object]] = ()
    parent: str | None = None
    teacher: str | None = None
    notes: tuple[str, ...] = field(default=())


def fresh(cfg: Path, *, names: Sequence[str], seed: int) -> Source:
    """Build the cfg's network with the data's classes and random weights.

    Raises:
        CfgError: no such file, or no network for RGB pictures in it.
    """
    torch.manual_seed(seed)
    sections = with_classes(parse(_text(cfg), source=str(cfg)), len(names))
    expect_rgb(sections)
    return Source(net=Darknet(sections), imgsz=FRESH_IMGSZ)


def trained(weights: Path, *, names: Sequence[str], cfg: Path | None, pt: bool) -> Source:
    """Take a checkpoint's network, pruned or not.

    Args:
        weights: one of our checkpoints.
        names: the data's classes.
        cfg: a cfg the user named beside it; it decides nothing, a difference is noted.
        pt: whether the user said that the weights are pruned; being wrong is noted.

    Raises:
        CheckpointError: not one of our checkpoints, or a broken one.
        CfgError: the cfg cannot be read.
        InputError: another number of classes than the data has, or the same in another order.
    """
    found = checkpoint.load(weights)
    if len(found.names) != len(names):
        raise InputError(
            f"{weights} has {len(found.names)} classes ({few(found.names)}) and the data "
            f"{len(names)} ({few(names)}); both must be the same, or train from --cfg"
        )
    _expect_order(weights, found.names, names)
    return Source(
        net=checkpoint.network(found),
        imgsz=found.imgsz,
        pruned=found.pruned,
        history=found.history,
        parent=checkpoint.digest(weights),
        notes=tuple(_remarks(found, weights, names=names, cfg=cfg, pt=pt)),
    )


def partial(weights: Path, cfg: Path, *, names: Sequence[str], seed: int) -> Source:
    """Build the cfg's network as `fresh` does, with all weights of a checkpoint that fit in it.

    A tensor fits by its name and shape: heads for other classes stay fresh.

    Raises:
        CheckpointError: not one of our checkpoints, a broken one, or nothing in it fits.
        CfgError: no such file, or no network for RGB pictures in it.
    """
    found = checkpoint.load(weights)
    given, net = checkpoint.network(found).state_dict(), fresh(cfg, names=names, seed=seed).net
    own = net.state_dict()
    fitting = {n: given[n] for n in own if n in given and given[n].shape == own[n].shape}
    # BatchNorm's counters fit anywhere and hold nothing learnt: they are not counted.
    missing = [n for n in own if n not in fitting and not n.endswith(_COUNTER)]
    filled = [n for n in fitting if not n.endswith(_COUNTER)]
    if not filled:
        raise CheckpointError(f"nothing of {weights} fits {cfg}; they are other networks")
    net.load_state_dict(fitting, strict=False)
    sizes = {name: parameter.numel() for name, parameter in net.named_parameters()}
    share = sum(sizes.get(name, 0) for name in filled) / sum(sizes.values())
    return Source(
        net=net,
        imgsz=found.imgsz,
        parent=checkpoint.digest(weights),
        notes=(
            f"{len(filled)} of {len(filled) + len(missing)} tensors, {share:.0%} of the parameters "
            f"come from {weights}" + (f"; not fitting: {few(missing)}" if missing else ""),
        ),
    )


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
        weights: one of our checkpoints.
        student: what is trained.
        names: the data's classes.
        resumed: whether the run goes on; its teacher has to be the one it began with.

    Raises:
        CheckpointError: not one of our checkpoints, or a broken one.
        InputError: heads other than the student's, its classes in another order, or another
            teacher than before.
    """
    found = checkpoint.load(weights)
    net, digest = checkpoint.network(found), checkpoint.digest(weights)
    expect_alike(net, student.net)
    if resumed and digest != student.teacher:
        raise InputError(f"{weights} is not the teacher that this run began with")
    if found.names == list(names):
        return Teacher(net, digest)
    _expect_order(weights, found.names, names)
    return Teacher(net, digest, (f"the teacher calls the classes {few(found.names)}",))


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


def _remarks(
    found: Checkpoint, weights: Path, *, names: Sequence[str], cfg: Path | None, pt: bool
) -> list[str]:
    remarks = []
    if pt and not found.pruned:
        remarks.append(f"--pt: {weights} is not pruned; it is trained all the same")
    if found.pruned and not pt:
        remarks.append(f"{weights} is pruned; its structure is kept, as with --pt")
    if list(names) != found.names:
        remarks.append(f"the classes are called {few(names)} from now on, not {few(found.names)}")
    if cfg is not None and not _same_network(cfg, found):
        remarks.append(f"{cfg} is another network than {weights} holds; the checkpoint's is kept")
    return remarks


def _same_network(cfg: Path, found: Checkpoint) -> bool:
    """Tell whether a cfg, with the checkpoint's classes, describes the checkpoint's layers."""
    sections = with_classes(parse(_text(cfg), source=str(cfg)), len(found.names))
    return _layers(write(sections)) == _layers(found.cfg)


def _layers(text: str) -> list[tuple[str, dict[str, str]]]:
    """List the sections but [net], which says how to train and not what the network is."""
    layers = parse(build(text).cfg_text())[1:]
    return [(section.kind, dict(section.options)) for section in layers]


def _text(cfg: Path) -> str:
    try:
        return cfg.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CfgError(f"cannot read {cfg}: {unreadable(error)}") from error
