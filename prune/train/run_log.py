"""What a run tells while it goes on: a bar, a line an epoch, results.csv, TensorBoard, pictures."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prune.common.files import write_text
from prune.train import optim, plots
from prune.train.sparsity import scales

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from prune.data.loader import Batch
    from prune.evaluate.metrics import Metrics
    from prune.train.run import Run
    from prune.train.trackers import Board

_LOSSES = ("box", "obj", "cls", "loss")
_TAUGHT = "distill"  # the loss of training with a teacher, beside the others
SCORES = ("precision", "recall", "map50", "map", "f1")
COLUMNS = (
    "epoch",
    *(f"train_{name}" for name in (*_LOSSES, _TAUGHT)),
    *(f"val_{name}" for name in _LOSSES),
    *SCORES,
    "lr",
    "seconds",
)
_DRAWN_BATCHES = 3


def as_row(
    epoch: int, losses: Sequence[float], scores: Metrics | None, *, rate: float, seconds: float
) -> dict[str, float]:
    """Put an epoch's figures together; an epoch without a score lacks its columns."""
    row: dict[str, float] = {"epoch": epoch + 1}
    named = zip((*_LOSSES, _TAUGHT), losses, strict=False)  # the last with a teacher only
    row |= {f"train_{name}": value for name, value in named}
    if scores is not None:
        row |= {f"val_{name}": value for name, value in zip(_LOSSES, scores.losses, strict=False)}
        row |= {name: float(getattr(scores, name)) for name in SCORES}
    return {**row, "lr": rate, "seconds": seconds}


@dataclass
class _Clock:
    """The bar's present task, when it began, and what is done of the run since when."""

    task: TaskID | None = None
    began: float = 0.0
    pictures: int = 0
    started: float | None = None
    steps: int = 0
    ahead: int = 0  # batches of the run, once it started here


@dataclass(frozen=True)
class Log:
    """Where a run's figures go: `folder` for files, `say` for lines, `bar` and `board` if any."""

    folder: Path
    say: Callable[[str], None]
    bar: Progress | None = None
    board: Board | None = None
    clock: _Clock = field(default_factory=_Clock)

    @property
    def weights(self) -> Path:
        """The folder of kept checkpoints."""
        return self.folder / "weights"

    def begin(self, epoch: int, epochs: int, batches: int, *, done: int = 0) -> None:
        """Start an epoch's bar, of which some batches may be done; `epoch` counts from 0."""
        self.clock.began, self.clock.pictures = time.perf_counter(), 0
        if self.clock.started is None:
            self.clock.started = self.clock.began
            self.clock.ahead = (epochs - epoch) * batches - done
        if self.bar is not None:
            title = f"epoch {epoch + 1}/{epochs}"
            self.clock.task = self.bar.add_task(title, total=batches, completed=done, note="")

    def batch(self, position: int, batch: Batch) -> None:
        """Draw the run's first batches with their boxes."""
        if position < _DRAWN_BATCHES:
            plots.batch_picture(batch, self.folder / f"train_batch{position}.jpg")
        if position == 0 and self.board is not None:
            self.board.picture("train_batch0", plots.as_rgb(plots.batch_image(batch)), 1)

    def step(self, losses: Tensor, pictures: int, rate: float) -> None:
        """Move the bar by a batch.

        Args:
            losses: as `as_row` takes them.
            pictures: how many the batch has.
            rate: the learning rate.
        """
        self.clock.pictures += pictures
        self.clock.steps += 1
        if self.bar is None or self.clock.task is None:
            return
        speed = self.clock.pictures / (time.perf_counter() - self.clock.began)
        named = zip((*_LOSSES, _TAUGHT), losses, strict=False)
        parts = " ".join(f"{name} {value:.3f}" for name, value in named)
        # What matters most comes first: a narrow terminal shows the beginning.
        note = f"run {_left(self.clock)} left  {parts}  {speed:.1f} images/s"
        note += f"  lr {rate:.5f}  {memory_gib():.1f} GiB"
        self.bar.update(self.clock.task, advance=1, note=note)

    def end(self) -> None:
        """Take the epoch's bar away; a line will stand in its place."""
        if self.bar is not None and self.clock.task is not None:
            self.bar.remove_task(self.clock.task)
            self.clock.task = None

    def epoch(self, rows: Sequence[dict[str, float]], epochs: int) -> None:
        """Tell of the last row, and bring the files up to date."""
        self.say(_line(rows[-1], epochs))
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
    """The log of a process that another one speaks for."""

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


def _left(clock: _Clock) -> str:
    """Reckon how long the run will go on, from what is done: "1:02:03"."""
    assert clock.started is not None, "an epoch has begun"
    passed = time.perf_counter() - clock.started
    return str(timedelta(seconds=round(passed / clock.steps * (clock.ahead - clock.steps))))


_SHORT = {"precision": "P", "recall": "R", "map50": "mAP@.5", "map": "mAP"}


def _line(row: dict[str, float], epochs: int) -> str:
    """Write an epoch's line, within 80 columns; results.csv has all its figures."""
    scores = "  ".join(f"{short} {row[name]:.3f}" for name, short in _SHORT.items() if name in row)
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  loss {row['train_loss']:.4f}"
        f"  {scores or 'not scored'}  {_duration(row['seconds'])}"
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
    return f"metrics/{column}" if column in SCORES else f"run/{column}"
