"""The files of a run: the last weights with the training state, the best by six metrics."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from prune import checkpoint
from prune.checkpoint import Checkpoint
from prune.common.files import probe, replacing, sweep
from prune.common.run_dir import versions
from prune.errors import DataError, InputError, LoaderError, TrainError, WriteError
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

    `pictures` is the training pictures' `images_digest`.
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
    finished = _capture(run, origin=origin, epoch=epoch, scores=_scores(rows[-1]))
    _expect_finite(finished, f"after epoch {epoch}")
    if not run.team.leads:
        return
    wanted = [folder / f"{name}.pt" for name in improved_measures(rows[run.settings.best_after :])]
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
    finished = _capture(run, origin=origin, epoch=len(rows))
    _expect_finite(finished, f"in epoch {len(rows) + 1}")
    if not run.team.leads:
        return
    state = _state(run, rows, at, origin)
    checkpoint.save(replace(finished, training=state), folder / "last.pt")


def improved_measures(rows: Sequence[Row]) -> list[str]:
    """Name the measures in which the last row is better than every row before it."""
    if not rows or "map" not in rows[-1]:
        return []
    *earlier, latest = [row for row in rows if "map" in row]
    return [
        name
        for name, (_, value) in BEST.items()
        if all(value(latest) > value(row) for row in earlier)
    ]


def images_digest(pictures: Sequence[Path]) -> str:
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


def _capture(
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


def prepare_folder(folder: Path) -> None:
    """Make a run's folder of weights, and clear both of what a killed process left half written.

    Raises:
        TrainError: that cannot be done, or nothing can be written there.
    """
    weights = folder / "weights"
    try:
        weights.mkdir(parents=True, exist_ok=True)
        for place in (folder, weights):
            sweep(place)
            probe(place)
    except (InputError, OSError) as error:
        raise TrainError(f"cannot use the folder {folder}: {error}") from error


@contextmanager
def explain_save_errors(folder: Path, epoch: int) -> Iterator[None]:
    """Let a failed write end the run with its cause, and with what there is to go on from.

    Args:
        folder: the run's, as `prepare_folder` left it; if it is gone, nothing makes it anew.
        epoch: the one at hand, counted from 1.

    Raises:
        TrainError: the block could not write.
    """
    weights = folder / "weights"
    if not weights.is_dir():
        raise TrainError(f"cannot save epoch {epoch}: the folder {weights} is gone, with all in it")
    try:
        yield
    except (InputError, WriteError, OSError) as error:
        left = _how_to_resume(weights / "last.pt")
        raise TrainError(f"cannot save epoch {epoch}: {error}; {left}") from error


@contextmanager
def explain_load_errors(folder: Path) -> Iterator[None]:
    """Let images that cannot be loaded end the run with what there is to go on from.

    The data set was whole when the run began: an image that is lost since is the run's failure.

    Raises:
        TrainError: the block raised a DataError; with what there is to go on from.
        LoaderError: the block raised it; with the same.
    """
    last = folder / "weights" / "last.pt"
    try:
        yield
    except DataError as error:
        raise TrainError(f"{error}; {_how_to_resume(last)}") from error
    except LoaderError as error:
        raise LoaderError(f"{error}; {_how_to_resume(last, '--workers', '0')}") from error


def _how_to_resume(last: Path, *words: str) -> str:
    """Say from where the run can go on, with some options."""
    if not last.is_file():
        return "nothing was saved before"
    epoch = checkpoint.load(last).history[-1]["epoch"]
    again = shlex.join(["prune", "train", "--resume", str(last), *words])
    return f"{last} of epoch {epoch} stays; to resume: {again}"
