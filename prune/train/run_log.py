"""What a run reports: a progress bar, lines, results.csv, TensorBoard and services, images.

Packages of services are imported when they are requested; only TensorBoard's is always installed.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from prune.common.files import write_text
from prune.common.inputs import shown
from prune.common.notes import Report
from prune.errors import InputError, WriteError
from prune.train import optim, plots
from prune.train.sparsity import scales

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from rich.progress import Progress, TaskID
    from torch import Tensor
    from torch.utils.tensorboard.writer import SummaryWriter

    from prune.data.loader import Batch
    from prune.evaluate.metrics import Metrics
    from prune.train.run import Run

    Image = NDArray[uint8]  # [height, width, 3], RGB


_LOSSES = ("box", "obj", "cls", "loss")
_DISTILLATION = "distill"  # the loss that a teacher adds
METRICS = ("precision", "recall", "map50", "map", "f1")
COLUMNS = (
    "epoch",
    *(f"train_{name}" for name in (*_LOSSES, _DISTILLATION)),
    *(f"val_{name}" for name in _LOSSES),
    *METRICS,
    "lr",
    "seconds",
)
_DRAWN_BATCHES = 3


def as_row(
    epoch: int, losses: Sequence[float], metrics: Metrics | None, *, rate: float, seconds: float
) -> dict[str, float]:
    """Return an epoch's figures by column; without an evaluation those of metrics are missing."""
    row: dict[str, float] = {"epoch": epoch + 1}
    named = zip((*_LOSSES, _DISTILLATION), losses, strict=False)  # the last with a teacher only
    row |= {f"train_{name}": value for name, value in named}
    if metrics is not None:
        row |= {f"val_{name}": value for name, value in zip(_LOSSES, metrics.losses, strict=False)}
        row |= {name: float(getattr(metrics, name)) for name in METRICS}
    return {**row, "lr": rate, "seconds": seconds}


@dataclass
class _Clock:
    """The bar's current task, when it began, and how much of the run is done since it started."""

    task: TaskID | None = None
    began: float = 0.0
    images: int = 0
    started: float | None = None
    steps: int = 0
    ahead: int = 0  # batches left when the run was started or resumed


@dataclass(frozen=True)
class Log:
    """Where a run's figures go.

    Attributes:
        folder: the run's, for files.
        report: takes lines.
        bar: shows the progress, if given.
        board: shows curves, if given.
        clock: measures the speed.
    """

    folder: Path
    report: Report
    bar: Progress | None = None
    board: Board | None = None
    clock: _Clock = field(default_factory=_Clock)

    @property
    def weights(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "weights"

    def begin(self, epoch: int, epochs: int, batches: int, *, done: int = 0) -> None:
        """Start an epoch's bar, of which some batches may be done; `epoch` counts from 0."""
        self.clock.began, self.clock.images = time.perf_counter(), 0
        if self.clock.started is None:
            self.clock.started = self.clock.began
            self.clock.ahead = (epochs - epoch) * batches - done
        if self.bar is not None:
            title = f"epoch {epoch + 1}/{epochs}"
            self.clock.task = self.bar.add_task(title, total=batches, completed=done, note="")

    def batch(self, position: int, batch: Batch) -> None:
        """Draw the run's first batches with their boxes."""
        if position < _DRAWN_BATCHES:
            plots.write_batch(batch, self.folder / f"train_batch{position}.jpg")
        if position == 0 and self.board is not None:
            self.board.image("train_batch0", plots.as_rgb(plots.draw_batch(batch)), 1)

    def step(self, losses: Tensor, images: int, rate: float) -> None:
        """Move the bar by one batch.

        Args:
            losses: mean losses, as `as_row` takes them.
            images: number of images in the batch.
            rate: the learning rate.
        """
        self.clock.images += images
        self.clock.steps += 1
        if self.bar is None or self.clock.task is None:
            return
        speed = self.clock.images / (time.perf_counter() - self.clock.began)
        named = zip((*_LOSSES, _DISTILLATION), losses, strict=False)
        parts = " ".join(f"{name} {value:.3f}" for name, value in named)
        # What matters most stands first: a narrow terminal shows the beginning.
        note = f"run {_time_left(self.clock)} left  {parts}  {speed:.1f} images/s"
        note += f"  lr {rate:.5f}  {memory_gib():.1f} GiB"
        self.bar.update(self.clock.task, advance=1, note=note)

    def end(self) -> None:
        """Remove the epoch's bar; a line follows instead."""
        if self.bar is not None and self.clock.task is not None:
            self.bar.remove_task(self.clock.task)
            self.clock.task = None

    def epoch(self, rows: Sequence[dict[str, float]], epochs: int) -> None:
        """Report the last row, and write results.csv."""
        self.report(_line(rows[-1], epochs))
        self.table(rows)

    def board_epoch(self, row: Mapping[str, float], run: Run) -> None:
        """Show an epoch on the boards: its row, learning rates, a histogram of BatchNorm scales."""
        if self.board is None:
            return
        step = int(row["epoch"])
        figures = {_tag(name): value for name, value in row.items()}
        rates = {f"lr/{name}": rate for name, rate in optim.rates(run.optimizer).items()}
        self.board.figures(figures | rates, step)
        if len(found := scales(run.averaged)):
            self.board.histogram("scales", found, step)

    def table(self, rows: Sequence[dict[str, float]]) -> None:
        """Write results.csv."""
        write_text(self.folder / "results.csv", _csv(rows))


class Quiet(Log):
    """The log of a process that is not the main one."""

    def batch(self, position: int, batch: Batch) -> None:
        """Draw nothing."""

    def table(self, rows: Sequence[dict[str, float]]) -> None:
        """Write nothing."""


def memory_gib() -> float:
    """Return the peak memory of this process so far, on the GPU if it uses one.

    0 where the system does not tell, as on Windows.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved() / 2**30
    try:
        import resource
    except ImportError:
        return 0.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _time_left(clock: _Clock) -> str:
    """Estimate how long the run will take, e.g. "1:02:03"."""
    assert clock.started is not None, "an epoch has begun"
    passed = time.perf_counter() - clock.started
    return str(timedelta(seconds=round(passed / clock.steps * (clock.ahead - clock.steps))))


_SHORT = {"precision": "P", "recall": "R", "map50": "mAP@.5", "map": "mAP"}


def _line(row: dict[str, float], epochs: int) -> str:
    """Write an epoch's line, within 80 columns; results.csv has all figures."""
    metrics = "  ".join(f"{short} {row[name]:.3f}" for name, short in _SHORT.items() if name in row)
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  loss {row['train_loss']:.4f}"
        f"  {metrics or 'not evaluated'}  {_duration(row['seconds'])}"
    )


def _duration(seconds: float) -> str:
    """Write a duration: 9.3 s, 1:02:03."""
    return f"{seconds:.1f} s" if seconds < 600 else str(timedelta(seconds=round(seconds)))


def _csv(rows: Sequence[dict[str, float]]) -> str:
    lines = [",".join(COLUMNS)]
    for row in rows:
        lines.append(",".join(f"{row[name]:.6g}" if name in row else "" for name in COLUMNS))
    return "\n".join(lines) + "\n"


def _tag(column: str) -> str:
    """Sort TensorBoard's curves: train/..., val/..., metrics/..., and the rest."""
    group, _, name = column.partition("_")
    if name:
        return f"{group}/{name}"
    return f"metrics/{column}" if column in METRICS else f"run/{column}"


class Board(Protocol):
    """Shows figures and images; `step` is the epoch, counted from 1."""

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Add a histogram of values, [n]."""

    def image(self, name: str, image: Image, step: int) -> None:
        """Show an image, RGB."""


@dataclass(frozen=True)
class Boards:
    """Several boards as one."""

    each: Sequence[Board]

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""
        for board in self.each:
            board.figures(values, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Add a histogram."""
        for board in self.each:
            board.histogram(name, values, step)

    def image(self, name: str, image: Image, step: int) -> None:
        """Show an image."""
        for board in self.each:
            board.image(name, image, step)


@dataclass(frozen=True)
class _TensorBoard:
    writer: Any  # its methods are untyped

    def figures(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        self.writer.add_histogram(name, values, step)

    def image(self, name: str, image: Image, step: int) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")


@dataclass(frozen=True)
class _Wandb:
    module: Any  # a package that may be missing
    run: Any

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        self.run.log({name: self.module.Histogram(values.tolist())}, step=step)

    def image(self, name: str, image: Image, step: int) -> None:
        self.run.log({name: self.module.Image(image)}, step=step)


@dataclass(frozen=True)
class _Mlflow:
    module: Any  # a package that may be missing

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self.module.log_metrics(dict(values), step=step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Show nothing: MLflow has no histograms."""

    def image(self, name: str, image: Image, step: int) -> None:
        self.module.log_image(image, artifact_file=f"{name}.jpg")


@contextmanager
def _tensorboard(folder: Path, _: Mapping[str, object]) -> Iterator[Board]:
    with tensorboard(folder) as writer:
        yield _TensorBoard(writer)


@contextmanager
def tensorboard(folder: Path) -> Iterator[SummaryWriter]:
    """Open a TensorBoard file, and close it after the block however that ends.

    Raises:
        WriteError: the file cannot be written, and the block did not raise another error.
    """
    from torch.utils.tensorboard.writer import SummaryWriter

    with _collect_write_errors() as failed:
        with _explain_write_errors(folder):
            board = SummaryWriter(str(folder))
        try:
            yield board
        except BaseException:
            with suppress(WriteError):
                _close(board, folder, failed)
            raise
        _close(board, folder, failed)


def _close(board: SummaryWriter, folder: Path, failed: Sequence[OSError]) -> None:
    """Close the board's file; the board itself leaves its thread running when a write fails."""
    with _explain_write_errors(folder):
        if board.file_writer is not None:
            board.file_writer.close()
        if failed:
            raise failed[0]


@contextmanager
def _collect_write_errors() -> Iterator[list[OSError]]:
    """Collect the errors of TensorBoard's own thread, which would print their traceback."""
    failed: list[OSError] = []
    before = threading.excepthook

    def collect(args: threading.ExceptHookArgs) -> None:
        error = args.exc_value
        if type(args.thread).__module__.startswith("tensorboard.") and isinstance(error, OSError):
            failed.append(error)
        else:
            before(args)

    threading.excepthook = collect
    try:
        yield failed
    finally:
        threading.excepthook = before


@contextmanager
def _explain_write_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write into {folder}: {error.strerror or error}") from error


@contextmanager
def _wandb(folder: Path, options: Mapping[str, object]) -> Iterator[Board]:
    wandb = _service("wandb")
    run = wandb.init(project="prune", name=folder.name, dir=str(folder), config=dict(options))
    try:
        yield _Wandb(wandb, run)
    finally:
        run.finish()


@contextmanager
def _mlflow(folder: Path, options: Mapping[str, object]) -> Iterator[Board]:
    mlflow = _service("mlflow")
    mlflow.set_experiment("prune")
    with mlflow.start_run(run_name=folder.name):
        mlflow.log_params(dict(options))
        yield _Mlflow(mlflow)


# Name of a service and its package -> opens a board for a run's folder and its options.
SERVICES: dict[str, Callable[..., Any]] = {"wandb": _wandb, "mlflow": _mlflow}


@contextmanager
def open_boards(
    folder: Path, service: str | None, options: Mapping[str, object]
) -> Iterator[Boards]:
    """Open TensorBoard and the requested service, and close them after the block.

    Args:
        folder: the run's.
        service: a key of SERVICES, if any.
        options: the run's, which the service shows.
    """
    with ExitStack() as stack:
        boards = [stack.enter_context(_tensorboard(folder, options))]
        if service is not None:
            boards.append(stack.enter_context(SERVICES[service](folder, options)))
        yield Boards(boards)


def expect_service(service: str | None) -> None:
    """Check that a service's package can be imported.

    Raises:
        InputError: it cannot; says how to install it.
    """
    if service is not None:
        _service(service)


def _service(name: str) -> ModuleType:
    if name not in SERVICES:  # nothing else is imported, whatever opt.yaml says
        raise InputError(f"--log is {shown(name)}; it must be {' or '.join(SERVICES)}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"--log {name} needs a package that cannot be imported ({error}): pip install {name}"
        ) from error
