"""The network that a run starts from: that of a checkpoint, of a cfg, or of an interrupted run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.checkpoint.convert import Reading, fresh_sections, open_weights
from prune.checkpoint.foreign.parameters import tensors
from prune.checkpoint.foreign.part import part_of
from prune.checkpoint.foreign.structure import read_cfg
from prune.checkpoint.reading import class_names
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
from prune.train.config import TrainConfig
from prune.train.distillation import expect_alike
from prune.train.resume import expect_state
from prune.train.transfer import Transferred, class_rows, transfer


@dataclass(frozen=True)
class Source:
    """A network to train, and where it comes from.

    Attributes:
        net: the network.
        imgsz: the image size that it was trained at, in pixels.
        pruned: whether it was pruned.
        history: what was done to it before.
        parent: digest of the file that it comes from.
        teacher: digest of the teacher of an interrupted run.
        notes: remarks for the user.
    """

    net: Darknet
    imgsz: Size
    pruned: bool = False
    history: Sequence[Mapping[str, object]] = ()
    parent: str | None = None
    teacher: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Teacher:
    """A network to distill from, the digest of its file, and remarks for the user."""

    net: Darknet
    digest: str
    notes: tuple[str, ...] = ()


def open_source(config: TrainConfig, *, names: Sequence[str]) -> Source:
    """Open the network that a new run starts from, with heads for the data's classes.

    Args:
        config: the run's options.
        names: the data's classes.

    Raises:
        CheckpointError: a file that cannot be read, or nothing in it fits.
        CfgError: the cfg cannot be read.
        InputError: neither weights nor a cfg are given, or an option does not go with them.
    """
    if config.weights is not None:
        if config.partial and config.cfg is None:
            raise InputError("--partial takes --weights into another network; give that as --cfg")
        source = start_from_weights(config.weights, config, names=names)
    else:
        for field in ("partial", "keep_classes", "names", "decoding"):
            if getattr(config, field):
                option = field.replace("_", "-")
                raise InputError(f"--{option} needs --weights, the checkpoint to start from")
        if config.cfg is None:
            raise InputError("nothing to train; give --weights (a checkpoint) or --cfg (a network)")
        source = build_fresh(config.cfg, names=names, seed=config.seed)
    if config.activation is None:
        return source
    return replace(source, net=reactivated(source.net, config.activation))


def build_fresh(cfg: Path, *, names: Sequence[str], seed: int) -> Source:
    """Build the cfg's network with the data's classes and random weights.

    Raises:
        CfgError: the cfg cannot be read, or it describes no network of RGB images.
    """
    torch.manual_seed(seed)
    sections = fresh_sections(cfg, classes=len(names))
    net = Darknet(sections)
    imgsz, notes = image_size(net)
    return Source(net=net, imgsz=imgsz, notes=(*remarks(sections), *notes))


def open_interrupted(last: Path, *, names: Sequence[str]) -> tuple[Source, dict[str, object]]:
    """Open the network of an interrupted run, with its averaged weights, and its training state.

    Args:
        last: the run's last.pt.
        names: the data's classes.

    Raises:
        CheckpointError: not one of our checkpoints, or the run is finished.
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


def open_teacher(weights: Path, student: Source, *, names: Sequence[str], resumed: bool) -> Teacher:
    """Open a checkpoint to distill from.

    Args:
        weights: a checkpoint of ours or public weights.
        student: what is trained.
        names: the data's classes.
        resumed: whether the run goes on; its teacher must be the one that it began with.

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
    if reordered(found.names, names):
        raise InputError(
            f"{weights} has the classes {few(found.names)} and the data {few(names)}; both must "
            "number them alike"
        )
    return Teacher(net, digest, (*notes, f"the teacher calls the classes {few(found.names)}"))


def start_from_weights(weights: Path, config: TrainConfig, *, names: Sequence[str]) -> Source:
    """Open weights and return their network, with heads for the data's classes.

    Where the cfg beside an unpruned checkpoint of ours describes other layers, that network is
    built instead and takes over what fits.

    Args:
        weights: a checkpoint of ours, a public .pt, or Darknet .weights.
        config: how they are read and used.
        names: the data's classes.

    Raises:
        CheckpointError: a file that cannot be read, or nothing in it fits.
        CfgError: the cfg cannot be read.
        InputError: the data has another number of classes than `keep_classes` needs.
    """
    found, layers = _open(weights, config)
    if config.keep_classes and len(found.names) != len(names):
        raise InputError(
            f"--keep-classes: {weights} predicts {len(found.names)} classes ({few(found.names)}) "
            f"and the data has {len(names)} ({few(names)}); it needs as many; leave the option out"
        )
    notes = _notes(weights, config, found)
    other = None if found.foreign else _other_network(weights, config, found, notes)
    # A teacher's classes are the same ones, as many, whatever they are called.
    same_classes = config.teacher is not None and not reordered(found.names, names)
    rows = class_rows(found.names, names, keep=config.keep_classes or same_classes)
    net = checkpoint.network(found)
    unchanged = other is None and layers is None and len(names) == len(found.names)
    if not unchanged or any(rows.get(i) != i for i in range(len(names))):
        sections = with_classes(other or net.sections, len(names))
        expect_rgb(sections)
        done = transfer(net, sections, rows=rows, seed=config.seed, layers=layers)
        if not done.taken:
            raise CheckpointError(
                f"nothing of {weights} fits {config.cfg}; they are other networks"
            )
        net = done.net
        notes.append(_transfer_note(weights, done, own=found.names, names=names, rows=rows))
    elif list(names) != found.names:
        notes.append(f"the classes are called {few(names)} from now on, not {few(found.names)}")
    return Source(
        net=net,
        imgsz=found.imgsz,
        pruned=found.pruned and other is None,
        history=found.history if other is None else (),
        parent=checkpoint.digest(weights),
        notes=tuple(notes),
    )


def _open(weights: Path, config: TrainConfig) -> tuple[Checkpoint, frozenset[int] | None]:
    """Read weights; where they fit their cfg in part, also return the layers that they are of."""
    names = class_names(config.names)
    try:
        return open_weights(weights, Reading(config.cfg, names, config.decoding)), None
    except (CfgError, CheckpointError):
        with checkpoint.naming(weights):
            part = config.cfg and part_of(weights, config.cfg, decoding=config.decoding)
        if not part:
            raise
    # The layers that the file lacks are drawn.
    torch.manual_seed(config.seed)
    net = Darknet(part.sections)
    net.load_state_dict(part.weights, strict=False)
    classes = net.heads[0].classes
    numbers = [str(number) for number in range(classes)]
    own = names or (part.names if len(part.names) == classes else numbers)
    size, notes = image_size(net)
    found = checkpoint.capture(net, names=own, imgsz=size)
    return replace(found, foreign=True, remarks=(part.note, *notes)), part.layers


def _notes(weights: Path, config: TrainConfig, found: Checkpoint) -> list[str]:
    """Return how public weights were read, and which option says otherwise than the file."""
    if found.remarks:
        return [f"{weights}: {'; '.join(found.remarks)}"]
    if config.pt and not found.pruned:
        return [f"--pt: {weights} is not pruned; it is trained all the same"]
    if found.pruned and not config.pt and not config.partial:
        return [f"{weights} is pruned; its structure is kept, as with --pt"]
    return []


def _other_network(
    weights: Path, config: TrainConfig, found: Checkpoint, notes: list[str]
) -> tuple[Section, ...] | None:
    """Return the cfg whose network is trained in place of that of a checkpoint of ours, if any.

    A note is added where the cfg describes another network and is ignored.
    """
    if config.cfg is None:
        return None
    orders = [s.options["order"] for s in parse(found.cfg) if "order" in s.options]
    wanted = read_cfg(config.cfg)
    wanted = with_reorg_order(wanted, orders[0]) if orders else with_own_reorg(wanted)
    kept = found.pruned or config.pt or _fits(wanted, found)
    if config.partial or not kept:
        return wanted
    if not _same_network(wanted, found):
        notes.append(f"{config.cfg} is another network than {weights}; the checkpoint's is kept")
    return None


def _fits(sections: Sequence[Section], found: Checkpoint) -> bool:
    """Tell whether a cfg, with the checkpoint's classes, needs the checkpoint's tensors."""
    needed = tensors(with_classes(sections, len(found.names)))
    present = {name: tuple(value.shape) for name, value in found.model.items() if value.dim()}
    return needed == present


def _same_network(sections: Sequence[Section], found: Checkpoint) -> bool:
    """Tell whether a cfg, with the checkpoint's classes, describes the checkpoint's layers."""
    return _layers(write(with_classes(sections, len(found.names)))) == _layers(found.cfg)


def _layers(text: str) -> list[tuple[str, dict[str, str]]]:
    """List all sections but [net], which says how to train and not what the network is."""
    layers = parse(build(text).cfg_text())[1:]
    return [(section.kind, dict(section.options)) for section in layers]


def _transfer_note(
    weights: Path,
    done: Transferred,
    *,
    own: Sequence[str],
    names: Sequence[str],
    rows: Mapping[int, int],
) -> str:
    """Return one note on what a transfer took over and what starts fresh."""
    total = len(done.taken) + len(done.fresh)
    parts = [
        f"{len(done.taken)} of {total} layers with weights, {done.fraction:.0%} of the parameters, "
        f"are taken over from {weights}"
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
