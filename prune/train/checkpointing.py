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
from prune.train.run_log import METRICS

Row = dict[str, float]


def fitness(row: Mapping[str, float]) -> float:
    """Weight the two mean average precisions into one number, as YOLO trainers do."""
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
    """What checkpoints say of where they come from.

    Attributes:
        names: the classes.
        data: path of the data set's description.
        history: what was done to the network before.
        parent: digest of the file that the network comes from.
        teacher: digest of the teacher's file.
        images: `images_digest` of the training images.
    """

    names: tuple[str, ...]
    data: str
    history: Sequence[Mapping[str, object]] = ()
    parent: str | None = None
    teacher: str | None = None
    images: str | None = None


@dataclass(frozen=True)
class Position:
    """How far a run is in an epoch: batches done, and the sums of their losses."""

    batch: int = 0
    losses: tuple[float, ...] = ()


def save(run: Run, rows: Sequence[Row], *, origin: Origin, folder: Path) -> None:
    """Write last.pt, and the files of all metrics in which the last row is better than all before.

    Of several processes the main one writes.

    Raises:
        InputError: the folder cannot be written.
        WriteError: the disk is full.
        TrainError: the weights are no longer finite; the files stay as they were.
    """
    epoch = len(rows)
    finished = _capture(run, origin=origin, epoch=epoch, metrics=rows[-1])
    _expect_finite(finished, f"after epoch {epoch}")
    if not run.team.is_main:
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
    """Write last.pt within an epoch, just after an update; of several processes the main one.

    Raises:
        InputError: the folder cannot be written.
        WriteError: the disk is full.
        TrainError: the weights are no longer finite; the files stay as they were.
    """
    finished = _capture(run, origin=origin, epoch=len(rows))
    _expect_finite(finished, f"in epoch {len(rows) + 1}")
    if not run.team.is_main:
        return
    state = _state(run, rows, at, origin)
    checkpoint.save(replace(finished, training=state), folder / "last.pt")


def improved_measures(rows: Sequence[Row]) -> list[str]:
    """Return the keys of BEST in which the last row is better than every row before it."""
    if not rows or "map" not in rows[-1]:
        return []
    *earlier, latest = [row for row in rows if "map" in row]
    return [
        name
        for name, (_, value) in BEST.items()
        if all(value(latest) > value(row) for row in earlier)
    ]


def images_digest(images: Sequence[Path]) -> str:
    """Return the SHA-256 of images' names and sizes in bytes, in their order, in hexadecimal.

    Names are relative to the folder that all have in common, so that a data set can be moved.
    """
    paths = [path.absolute() for path in images]
    common = os.path.commonpath({path.parent for path in paths})
    lines = (f"{_bytes(path)} {str(path)[len(common) :].lstrip(os.sep)}" for path in paths)
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()


def _bytes(image: Path) -> int:
    """Return a file's size; one that cannot be read is named later, when it is read."""
    try:
        return image.stat().st_size
    except OSError:
        return -1


def finish(folder: Path) -> None:
    """Remove the training state from last.pt, which becomes a checkpoint like any other.

    Raises:
        WriteError: the disk is full.
    """
    last = folder / "last.pt"
    checkpoint.save(replace(checkpoint.load(last), training={}), last)


def _capture(
    run: Run, *, origin: Origin, epoch: int, metrics: Mapping[str, float] | None = None
) -> Checkpoint:
    """Capture the averaged weights, with their metrics where they were evaluated."""
    scores = {name: metrics[name] for name in METRICS if name in metrics} if metrics else {}
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
        **({"scores": scores} if scores else {}),
    }
    shot = checkpoint.capture(
        run.averaged,
        names=origin.names,
        imgsz=run.settings.imgsz,
        history=[*origin.history, entry],
    )
    # The order in memory while training (channels innermost) is no property of the network.
    return replace(shot, model={name: value.contiguous() for name, value in shot.model.items()})


def _expect_finite(finished: Checkpoint, when: str) -> None:
    if not all(value.isfinite().all() for value in finished.model.values()):
        raise TrainError(
            f"the weights are no longer finite {when}, which is not saved; try a lower lr0"
        )


def _state(run: Run, rows: Sequence[Row], at: Position, origin: Origin) -> dict[str, object]:
    """Return everything beside the averaged weights that the next epoch depends on.

    `optimizer` also contains the weights under training: the checkpoint's `model` is their average.
    """
    generators = {"cpu": torch.get_rng_state()}
    if run.device.type == "cuda":
        generators["cuda"] = torch.cuda.get_rng_state(run.device)
    evaluated = [row for row in rows[run.settings.best_after :] if "map" in row]
    best = {key: max(map(value, evaluated), default=0.0) for key, value in BEST.values()}
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
            "picture_files": origin.images,
            "losses": list(at.losses),
            "adapters": [adapter.cpu() for adapter in run.adapters] if at.batch else [],
        },
        "rng": generators,
    }


def _batches(run: Run) -> int:
    return run.schedule.total // run.settings.epochs


def _save_under(finished: Checkpoint, targets: Sequence[Path]) -> None:
    """Write one file, and the others as links to it: early epochs are best in all metrics."""
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
    """Make a run's folder of weights, and remove partial files of a killed process from both.

    Raises:
        TrainError: the folders cannot be made or written.
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
    """Add to errors of writing which epoch is lost, and how the run can be resumed.

    Args:
        folder: the run's; it is not made again if it is missing.
        epoch: the one that is saved, counted from 1.

    Raises:
        TrainError: the block could not write.
    """
    weights = folder / "weights"
    if not weights.is_dir():
        raise TrainError(f"cannot save epoch {epoch}: the folder {weights} is missing")
    try:
        yield
    except (InputError, WriteError, OSError) as error:
        how = _how_to_resume(weights / "last.pt")
        raise TrainError(f"cannot save epoch {epoch}: {error}; {how}") from error


@contextmanager
def explain_load_errors(folder: Path) -> Iterator[None]:
    """Add to errors of loading images how the run can be resumed.

    The data set was complete when the run began: an image that is lost since is the run's failure.

    Raises:
        TrainError: the block raised a DataError.
        LoaderError: the block raised it.
    """
    last = folder / "weights" / "last.pt"
    try:
        yield
    except DataError as error:
        raise TrainError(f"{error}; {_how_to_resume(last)}") from error
    except LoaderError as error:
        raise LoaderError(f"{error}; {_how_to_resume(last, '--workers', '0')}") from error


def _how_to_resume(last: Path, *words: str) -> str:
    """Return from which epoch the run can be resumed, and the command, with some options."""
    if not last.is_file():
        return "nothing was saved before"
    epoch = checkpoint.load(last).history[-1]["epoch"]
    again = shlex.join(["prune", "train", "--resume", str(last), *words])
    return f"{last} of epoch {epoch} stays; to resume: {again}"
