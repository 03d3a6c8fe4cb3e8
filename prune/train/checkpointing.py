"""The files a run leaves: the last weights with all it takes to go on, the best by six measures."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.common.files import replacing
from prune.common.run_dir import versions
from prune.errors import CheckpointError, InputError, TrainError
from prune.train.resume_state import expect_momentum, taking_up
from prune.train.run import Run
from prune.train.run_log import SCORES

Row = dict[str, float]


def fitness(row: Mapping[str, float]) -> float:
    """Weigh the two mean average precisions into one number, as YOLO trainers do."""
    return 0.1 * row["map50"] + 0.9 * row["map"]


# File name -> (the checkpoint's key for the best value so far, the value of one epoch's row).
BEST: dict[str, tuple[str, Callable[[Row], float]]] = {
    "best": ("best_fitness", fitness),
    "best_p": ("best_fitness_p", lambda row: row["precision"]),
    "best_r": ("best_fitness_r", lambda row: row["recall"]),
    "best_ap50": ("best_fitness_ap50", lambda row: row["map50"]),
    "best_ap": ("best_fitness_ap", lambda row: row["map"]),
    "best_f": ("best_fitness_f", lambda row: row["f1"]),
}


@dataclass(frozen=True)
class Origin:
    """What the kept files say of where they come from: names, earlier history, files' digests.

    `pictures` is the training pictures' `listing`.
    """

    names: tuple[str, ...]
    data: str
    history: Sequence[Mapping[str, object]] = ()
    parent: str | None = None
    teacher: str | None = None
    pictures: str | None = None


@dataclass(frozen=True)
class Position:
    """Where in an epoch a run stands: batches done, and the sums of their losses."""

    batch: int = 0
    losses: tuple[float, ...] = ()


def save(run: Run, rows: Sequence[Row], *, origin: Origin, folder: Path) -> None:
    """Write last.pt, and the files of every measure in which the last row beats all before it.

    Where several processes train, the first one writes for all.

    Raises:
        InputError: the folder cannot be written.
        WriteError: the disk is full.
        TrainError: the weights are no longer finite; the files stay as they were.
    """
    epoch = len(rows)
    finished = _finished(run, origin=origin, epoch=epoch, scores=_scores(rows[-1]))
    _expect_finite(finished, f"after epoch {epoch}")
    if not run.team.leads:
        return
    wanted = [folder / f"{name}.pt" for name in records(rows[run.settings.best_after :])]
    if run.settings.save_period and epoch % run.settings.save_period == 0:
        wanted.append(folder / f"epoch{epoch:03d}.pt")
    _save_under(finished, wanted)
    state = _state(run, rows, Position(), origin)
    checkpoint.save(replace(finished, training=state), folder / "last.pt")


def save_within(
    run: Run, rows: Sequence[Row], at: Position, *, origin: Origin, folder: Path
) -> None:
    """Write last.pt in the middle of an epoch, just after an update; the first process alone.

    Raises:
        InputError: the folder cannot be written.
        WriteError: the disk is full.
        TrainError: the weights are no longer finite; the files stay as they were.
    """
    finished = _finished(run, origin=origin, epoch=len(rows))
    _expect_finite(finished, f"in epoch {len(rows) + 1}")
    if not run.team.leads:
        return
    state = _state(run, rows, at, origin)
    checkpoint.save(replace(finished, training=state), folder / "last.pt")


def records(rows: Sequence[Row]) -> list[str]:
    """Name the measures in which the last row is better than every row before it."""
    if not rows or "map" not in rows[-1]:
        return []
    *earlier, latest = [row for row in rows if "map" in row]
    return [
        name
        for name, (_, value) in BEST.items()
        if all(value(latest) > value(row) for row in earlier)
    ]


def listing(pictures: Sequence[Path]) -> str:
    """Return the SHA-256 of pictures' names and sizes in bytes, in their order, in hexadecimal.

    Names count from the folder that all have in common, so that a data set may move as a whole.
    """
    paths = [path.absolute() for path in pictures]
    common = os.path.commonpath({path.parent for path in paths})
    lines = (f"{_bytes(path)} {str(path)[len(common) :].lstrip(os.sep)}" for path in paths)
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _bytes(picture: Path) -> int:
    """Return a file's size; one that cannot be read is named later, by who reads it."""
    try:
        return picture.stat().st_size
    except OSError:
        return -1


def expect_pictures(state: Mapping[str, object], pictures: Sequence[Path]) -> None:
    """Check that a run goes on with the pictures it was trained on, by their names and sizes.

    Args:
        state: the checkpoint's training state; those of early versions do not tell.
        pictures: what it is to go on with, at least one.

    Raises:
        InputError: they are others, or in another order.
    """
    told = cast("dict[str, Any]", state.get("scheduler", {})).get("picture_files")
    if told is not None and told != listing(pictures):
        raise InputError(
            f"the run was trained on other pictures than the {len(pictures)} that the data has "
            "now; a run goes on with the data it began with"
        )


def restore(run: Run, state: Mapping[str, object], *, batches: int) -> tuple[list[Row], Position]:
    """Put a run back to where `save` left it; return its rows so far, and where it stands.

    Args:
        run: started on the network of the same checkpoint, so that the average holds its weights.
        state: the checkpoint's training state.
        batches: batches an epoch, which must be what they were.

    Raises:
        CheckpointError: the state is incomplete, or belongs to other data or another batch size.
    """
    try:
        position = cast("dict[str, Any]", state["scheduler"])
        parts = cast("dict[str, Any]", state["optimizer"])
        generators = cast("dict[str, Any]", state["rng"])
        rows = cast("list[Row]", state["training_results"])
        updates = cast(int, state["ema_updates"])
    except KeyError as error:
        raise CheckpointError(
            f"the run is finished or its state incomplete (no {error}); start from --weights"
        ) from error
    if position["batches"] != batches:
        raise CheckpointError(
            f"the run had {position['batches']} batches an epoch and the data now gives {batches}; "
            "resume needs the same pictures and batch size"
        )
    run.adapters[:] = [adapter.to(run.device) for adapter in position["adapters"]]
    with taking_up("optimizer.weights"):
        run.net.load_state_dict(parts["weights"])
    # Momentum is state; what the groups hold beside it is told anew, by this version's names.
    groups = run.optimizer.state_dict()["param_groups"]
    own = parts.get("state") or parts["sgd"]  # as runs before AdamW called it
    with taking_up("optimizer.state"):
        run.optimizer.load_state_dict({**own, "param_groups": groups})
    expect_momentum(run.optimizer)
    if parts["scaler"]:  # empty where float32 or bfloat16 scaled no loss
        with taking_up("optimizer.scaler"):
            run.scaler.load_state_dict(parts["scaler"])
    run.ema.updates = updates
    with taking_up("rng.cpu"):
        torch.set_rng_state(generators["cpu"])
    if "cuda" in generators and run.device.type == "cuda":
        with taking_up("rng.cuda"):
            torch.cuda.set_rng_state(generators["cuda"], run.device)
    done = Position(position["batch"] - len(rows) * batches, tuple(position["losses"]))
    return [dict(row) for row in rows], done


def finish(folder: Path) -> None:
    """Take the training state out of last.pt: it is a checkpoint like any other now.

    Raises:
        WriteError: the disk is full.
    """
    last = folder / "last.pt"
    checkpoint.save(replace(checkpoint.load(last), training={}), last)


def _scores(row: Row) -> Row:
    """Take the scores out of an epoch's row; none where it was not scored."""
    return {name: row[name] for name in SCORES if name in row}


def _finished(
    run: Run, *, origin: Origin, epoch: int, scores: Mapping[str, float] | None = None
) -> Checkpoint:
    """Capture the averaged weights; `scores` are theirs, where they were scored."""
    entry = {
        "command": "train",
        "epochs": run.settings.epochs,
        "epoch": epoch,
        "data": origin.data,
        "params": sum(parameter.numel() for parameter in run.net.parameters()),
        "seed": run.settings.seed,
        "versions": versions(),
        "parent": origin.parent,
        **({"teacher": origin.teacher} if origin.teacher else {}),
        **({"scores": dict(scores)} if scores else {}),
    }
    shot = checkpoint.capture(
        run.averaged,
        names=origin.names,
        imgsz=run.settings.imgsz,
        history=[*origin.history, entry],
    )
    # Training's order in memory (channels innermost) is no property of the network.
    return replace(shot, model={name: value.contiguous() for name, value in shot.model.items()})


def _expect_finite(finished: Checkpoint, when: str) -> None:
    if not all(value.isfinite().all() for value in finished.model.values()):
        raise TrainError(
            f"the weights are no longer finite {when}, which is not kept; a lower lr0 may help"
        )


def _state(run: Run, rows: Sequence[Row], at: Position, origin: Origin) -> dict[str, object]:
    """Return everything beside the averaged weights that the next epoch depends on.

    `optimizer` holds the weights under training too: the checkpoint's `model` is their average.
    """
    generators = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(run.device)
    scored = [row for row in rows[run.settings.best_after :] if "map" in row]
    best = {key: max(map(value, scored), default=0.0) for key, value in BEST.values()}
    return {
        "epoch": len(rows) - 1,
        **best,
        "training_results": list(rows),
        "ema_updates": run.ema.updates,
        "optimizer": {
            "state": run.optimizer.state_dict(),
            "weights": run.net.state_dict(),
            "scaler": run.scaler.state_dict(),
        },
        "scheduler": {
            "batch": len(rows) * _batches(run) + at.batch,
            "batches": _batches(run),
            "picture_files": origin.pictures,
            "losses": list(at.losses),
            "adapters": [adapter.cpu() for adapter in run.adapters] if at.batch else [],
        },
        "rng": generators,
    }


def _batches(run: Run) -> int:
    return run.schedule.total // run.settings.epochs


def _save_under(finished: Checkpoint, targets: Sequence[Path]) -> None:
    """Write one file, and the others as links to it: early epochs are best in everything."""
    if not targets:
        return
    first, *others = targets
    checkpoint.save(finished, first)
    for target in others:
        with replacing(target) as part:
            part.unlink()
            try:
                os.link(first, part)
            except OSError:  # no links on this file system
                shutil.copyfile(first, part)
