"""The network that a new run starts from, taken from weights: whole where it fits, else in part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.data.spec import few, reordered
from prune.errors import CheckpointError, InputError
from prune.foreign.parameters import tensors
from prune.foreign.structure import read_cfg
from prune.models.darknet import build
from prune.models.sections import Section, expect_rgb, parse, with_classes, write
from prune.train.source import Source
from prune.train.transfer import Transferred, class_rows, transfer
from prune.whole import Reading, open_weights


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
    found, ours = _opened(start)
    _expect_as_many(start, found.names, names)
    named = read_cfg(start.cfg) if start.cfg is not None and ours else None
    other = named if named and _replaces(named, found, start) else None
    remarks = _remarks(start, found)
    if named and not other and not _same_network(named, found):
        remarks.append(
            f"{start.cfg} is another network than {start.weights} holds; the checkpoint's is kept"
        )
    rows = class_rows(
        found.names,
        names,
        keep=start.keep_classes or (start.teacher and not reordered(found.names, names)),
    )
    net = checkpoint.network(found)
    same = len(names) == len(found.names) and all(rows.get(i) == i for i in range(len(names)))
    if other or not same:
        sections = with_classes(other or net.sections, len(names))
        expect_rgb(sections)
        done = transfer(net, sections, rows=rows, seed=start.seed)
        if not done.taken:
            other_file = start.cfg or "the data's classes"
            raise CheckpointError(
                f"nothing of {start.weights} fits {other_file}; they are other networks"
            )
        net = done.net
        remarks.append(_taken_over(start, done, own=found.names, names=names, rows=rows))
    elif list(names) != found.names:
        remarks.append(f"the classes are called {few(names)} from now on, not {few(found.names)}")
    return Source(
        net=net,
        imgsz=found.imgsz,
        pruned=found.pruned and not other,
        history=() if other else found.history,
        parent=checkpoint.digest(start.weights),
        notes=tuple(remarks),
    )


def _opened(start: Start) -> tuple[Checkpoint, bool]:
    """Read the weights; say whether they are a checkpoint of ours, whose cfg is in the file."""
    found = open_weights(start.weights, Reading(start.cfg, start.names, start.decoding))
    return found, not found.foreign


def _expect_as_many(start: Start, own: Sequence[str], names: Sequence[str]) -> None:
    if start.keep_classes and len(own) != len(names):
        raise InputError(
            f"--keep-classes: {start.weights} predicts {len(own)} classes ({few(own)}) and the "
            f"data has {len(names)} ({few(names)}); it needs as many; leave the option out"
        )


def _replaces(named: Sequence[Section], found: Checkpoint, start: Start) -> bool:
    """Tell whether the cfg's network is trained, and not that of a checkpoint of ours."""
    if start.partial:
        return True
    return not (found.pruned or start.pt) and not _fits(named, found)


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
        fresh_layers = [str(layer) for layer in done.fresh]
        parts.append(f"{len(done.fresh)} layers do not fit and start fresh ({few(fresh_layers)})")
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
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({few(names)})"
