"""What a run that cannot write leaves: its last good checkpoint, and word of the cause."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prune import checkpoint
from prune.common.files import probe, sweep
from prune.errors import DataError, InputError, LoaderError, TrainError, WriteError

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


def prepare(folder: Path) -> None:
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
def saving(folder: Path, epoch: int) -> Iterator[None]:
    """Let a failed write end the run with its cause, and with what there is to go on from.

    Args:
        folder: the run's, as `prepare` left it; if it is gone, nothing makes it anew.
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
        left = _left(weights / "last.pt")
        raise TrainError(f"cannot save epoch {epoch}: {error}; {left}") from error


@contextmanager
def loading(folder: Path) -> Iterator[None]:
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
        raise TrainError(f"{error}; {_left(last)}") from error
    except LoaderError as error:
        raise LoaderError(f"{error}; {_left(last, '--workers', '0')}") from error


@contextmanager
def tensorboard(folder: Path) -> Iterator[SummaryWriter]:
    """Open a TensorBoard file, and close it whatever comes.

    Raises:
        WriteError: the file cannot be written, and nothing worse came before.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    with _overhearing() as failed:
        with _blaming(folder):
            board = SummaryWriter(str(folder))
        try:
            yield board
        except BaseException:
            with suppress(WriteError):
                _close(board, folder, failed)
            raise
        _close(board, folder, failed)


def _close(board: SummaryWriter, folder: Path, failed: Sequence[OSError]) -> None:
    """Close the file under the board, which itself leaves its thread running when a write fails."""
    with _blaming(folder):
        if board.file_writer is not None:
            board.file_writer.close()
        if failed:
            raise failed[0]


@contextmanager
def _overhearing() -> Iterator[list[OSError]]:
    """Gather what TensorBoard's own thread cannot write; it would print a traceback of it."""
    failed: list[OSError] = []
    before = threading.excepthook

    def hear(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        if type(args.thread).__module__.startswith("tensorboard.") and isinstance(error, OSError):
            failed.append(error)
        else:
            before(args)

    threading.excepthook = hear
    try:
        yield failed
    finally:
        threading.excepthook = before


@contextmanager
def _blaming(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write into {folder}: {error.strerror or error}") from error


def _left(last: Path, *words: str) -> str:
    """Say from where the run can go on, with some options."""
    if not last.is_file():
        return "nothing was saved before"
    epoch = checkpoint.load(last).history[-1]["epoch"]
    again = shlex.join(["prune", "train", "--resume", str(last), *words])
    return f"{last} of epoch {epoch} stays; to resume: {again}"
