"""The network that a run starts from: that of a checkpoint, of a cfg, or of an interrupted run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.checkpoint.convert import Reading, fresh_sections, open_weights
from prune.checkpoint.foreign.parameters import tensors
from prune.checkpoint.foreign.part import Part, part_of
from prune.checkpoint.foreign.structure import read_cfg
from prune.common.size import Size
from prune.common.wording import counted, few
from prune.data.spec import reordered
from prune.errors import CfgError, CheckpointError, InputError
from prune.models.darknet import Darknet, build, reactivated
from prune.models.image_size import image_size
from prune.models.sections import (
    Section,
    expect_rgb,
    parse,
    remarks,
    with_classes,
    with_own_reorg,
    with_reorg_order,
    write,
)
from prune.train.distillation import expect_alike
from prune.train.resume import expect_state
from prune.train.transfer import Transferred, class_rows, transfer


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


@dataclass(frozen=True)
class Start:
    """How weights are to be used.

    Attributes:
        weights: a checkpoint of ours, a public .pt, or Darknet .weights.
        cfg: the cfg that was named beside them.
        names: what the weights' classes are called, where the user says so.
        decoding: how the heads of public weights decode; see `foreign.decoding`.
        pt: whether the user said that the weights are pruned; being wrong is noted.
        partial: whether the network of `cfg` is to be built, whatever the weights hold.
        keep_classes: whether the data's class names are new names for the checkpoint's classes.
        teacher: whether the run has a teacher: what it teaches are the same classes, as many.
        seed: of the weights that start fresh.
    """

    weights: Path
    cfg: Path | None = None
    names: tuple[str, ...] | None = None
    decoding: str | None = None
    pt: bool = False
    partial: bool = False
    keep_classes: bool = False
    teacher: bool = False
    seed: int = 0


def begin(start: Start, *, names: Sequence[str]) -> Source:
    """Open weights and return the network to train, with heads for the data's classes.

    The structure is that of the weights. Where the cfg beside an unpruned checkpoint of ours
    describes other layers, that network is built instead and takes over what fits.

    Raises:
        CheckpointError: a file that cannot be read, or nothing in it fits.
        CfgError: the cfg cannot be read.
        InputError: classes that are to be kept and are not as many as the data's.
    """
    found, layers = _opened(start)
    _expect_as_many(start, found.names, names)
    remarks = _remarks(start, found)
    other = None if found.foreign else _other_network(start, found, remarks)
    same_classes = start.teacher and not reordered(found.names, names)
    rows = class_rows(found.names, names, keep=start.keep_classes or same_classes)
    net = checkpoint.network(found)
    unchanged = other is None and layers is None and len(names) == len(found.names)
    if not unchanged or any(rows.get(i) != i for i in range(len(names))):
        sections = with_classes(other or net.sections, len(names))
        expect_rgb(sections)
        done = transfer(net, sections, rows=rows, seed=start.seed, layers=layers)
        if not done.taken:
            raise CheckpointError(
                f"nothing of {start.weights} fits {start.cfg}; they are other networks"
            )
        net = done.net
        remarks.append(_taken_over(start, done, own=found.names, names=names, rows=rows))
    elif list(names) != found.names:
        remarks.append(f"the classes are called {few(names)} from now on, not {few(found.names)}")
    return Source(
        net=net,
        imgsz=found.imgsz,
        pruned=found.pruned and other is None,
        history=found.history if other is None else (),
        parent=checkpoint.digest(start.weights),
        notes=tuple(remarks),
    )


def _opened(start: Start) -> tuple[Checkpoint, frozenset[int] | None]:
    """Read the weights; where they fit their cfg in part, also say which layers they are of."""
    try:
        return open_weights(start.weights, Reading(start.cfg, start.names, start.decoding)), None
    except (CfgError, CheckpointError):
        with checkpoint.naming(start.weights):
            found = start.cfg and part_of(start.weights, start.cfg, decoding=start.decoding)
        if not found:
            raise
    return _in_part(found, start), found.layers


def _in_part(part: Part, start: Start) -> Checkpoint:
    """Make a checkpoint whose layers are the file's where it has them, and drawn elsewhere."""
    torch.manual_seed(start.seed)
    net = Darknet(part.sections)
    net.load_state_dict(part.weights, strict=False)
    classes = net.heads[0].classes
    numbers = [str(number) for number in range(classes)]
    names = start.names or (part.names if len(part.names) == classes else numbers)
    size, notes = image_size(net)
    found = checkpoint.capture(net, names=names, imgsz=size)
    return replace(found, foreign=True, remarks=(part.note, *notes))


def _other_network(
    start: Start, found: Checkpoint, remarks: list[str]
) -> tuple[Section, ...] | None:
    """Return the cfg whose network is trained in place of that of a checkpoint of ours, if any.

    Where a cfg is named that is passed over, this is added to the remarks.
    """
    if start.cfg is None:
        return None
    orders = [s.options["order"] for s in parse(found.cfg) if "order" in s.options]
    named = read_cfg(start.cfg)
    named = with_reorg_order(named, orders[0]) if orders else with_own_reorg(named)
    kept = found.pruned or start.pt or _fits(named, found)
    if start.partial or not kept:
        return named
    if not _same_network(named, found):
        remarks.append(
            f"{start.cfg} is another network than {start.weights} holds; the checkpoint's is kept"
        )
    return None


def _expect_as_many(start: Start, own: Sequence[str], names: Sequence[str]) -> None:
    if start.keep_classes and len(own) != len(names):
        raise InputError(
            f"--keep-classes: {start.weights} predicts {len(own)} classes ({few(own)}) and the "
            f"data has {len(names)} ({few(names)}); it needs as many; leave the option out"
        )


def _fits(named: Sequence[Section], found: Checkpoint) -> bool:
    """Tell whether a cfg, with the checkpoint's classes, asks for the checkpoint's tensors."""
    wanted = tensors(with_classes(named, len(found.names)))
    held = {name: tuple(value.shape) for name, value in found.model.items() if value.dim()}
    return wanted == held


def _remarks(start: Start, found: Checkpoint) -> list[str]:
    """Say how public weights were read, and what was meant otherwise than it is."""
    if found.remarks:
        return [f"{start.weights}: {'; '.join(found.remarks)}"]
    if start.pt and not found.pruned:
        return [f"--pt: {start.weights} is not pruned; it is trained all the same"]
    if found.pruned and not start.pt and not start.partial:
        return [f"{start.weights} is pruned; its structure is kept, as with --pt"]
    return []


def _same_network(named: Sequence[Section], found: Checkpoint) -> bool:
    """Tell whether a cfg, with the checkpoint's classes, describes the checkpoint's layers."""
    return _layers(write(with_classes(named, len(found.names)))) == _layers(found.cfg)


def _layers(text: str) -> list[tuple[str, dict[str, str]]]:
    """List the sections but [net], which says how to train and not what the network is."""
    layers = parse(build(text).cfg_text())[1:]
    return [(section.kind, dict(section.options)) for section in layers]


def _taken_over(
    start: Start,
    done: Transferred,
    *,
    own: Sequence[str],
    names: Sequence[str],
    rows: Mapping[int, int],
) -> str:
    """Say in one note what a transfer took over and what starts fresh."""
    total = len(done.taken) + len(done.fresh)
    parts = [
        f"{len(done.taken)} of {total} layers with weights, {done.share:.0%} of the parameters, "
        f"are taken over from {start.weights}"
    ]
    if done.fresh:
        layers = counted(len(done.fresh), "layer starts", "layers start")
        parts.append(f"{layers} fresh ({few(done.fresh)})")
    if done.heads and list(own) != list(names):
        by_name = [name for i, name in enumerate(names) if i in rows]
        fresh = [name for i, name in enumerate(names) if i not in rows]
        parts.append(
            f"it predicts {_classes(own)} and the data has {_classes(names)}: the heads keep "
            "their box and objectness rows"
        )
        if by_name:
            parts.append(f"class rows are taken over for {_classes(by_name)}")
        if fresh:
            parts.append(f"class rows start fresh for {_classes(fresh)}")
        if fresh and len(own) == len(names):
            parts.append("if these are new names for the same classes, use --keep-classes")
    return "; ".join(parts)


def _classes(names: Sequence[str]) -> str:
    return f"{counted(len(names), 'class', 'classes')} ({few(names)})"
