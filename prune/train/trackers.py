"""Where a run's figures can be watched beside its files: TensorBoard, and services on request.

Their packages are imported late; only TensorBoard's comes with this one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from prune.common.inputs import shown
from prune.errors import InputError
from prune.train.write_failures import tensorboard

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from torch import Tensor

    Image = NDArray[uint8]  # [height, width, 3], RGB


class Board(Protocol):
    """Shows figures and pictures; `step` is the epoch, counted from 1."""

    def figures(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve."""

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Add a histogram of values, [n]."""

    def picture(self, name: str, image: Image, step: int) -> None:
        """Show a picture, RGB."""


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

    def picture(self, name: str, image: Image, step: int) -> None:
        """Show a picture."""
        for board in self.each:
            board.picture(name, image, step)


@dataclass(frozen=True)
class _TensorBoard:
    writer: Any  # its methods are untyped

    def figures(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        self.writer.add_histogram(name, values, step)

    def picture(self, name: str, image: Image, step: int) -> None:
        self.writer.add_image(name, image, step, dataformats="HWC")


@dataclass(frozen=True)
class _Wandb:
    module: Any  # a package that need not be there
    run: Any

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self.run.log(dict(values), step=step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        self.run.log({name: self.module.Histogram(values.tolist())}, step=step)

    def picture(self, name: str, image: Image, step: int) -> None:
        self.run.log({name: self.module.Image(image)}, step=step)


@dataclass(frozen=True)
class _Mlflow:
    module: Any  # a package that need not be there

    def figures(self, values: Mapping[str, float], step: int) -> None:
        self.module.log_metrics(dict(values), step=step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Leave it out: MLflow has none."""

    def picture(self, name: str, image: Image, step: int) -> None:
        self.module.log_image(image, artifact_file=f"{name}.jpg")


@contextmanager
def _tensorboard(folder: Path, _: Mapping[str, object]) -> Iterator[Board]:
    with tensorboard(folder) as writer:
        yield _TensorBoard(writer)


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


# Opens a board for a run's folder and its options; the name is that of the package, too.
SERVICES: dict[str, Callable[..., Any]] = {"wandb": _wandb, "mlflow": _mlflow}


@contextmanager
def opened(folder: Path, service: str | None, options: Mapping[str, object]) -> Iterator[Boards]:
    """Open TensorBoard and what was asked for, and close them after the block.

    Args:
        folder: the run's.
        service: a key of SERVICES, if any.
        options: the run's, for the service to show.
    """
    with ExitStack() as stack:
        boards = [stack.enter_context(_tensorboard(folder, options))]
        if service is not None:
            boards.append(stack.enter_context(SERVICES[service](folder, options)))
        yield Boards(boards)


def expect(service: str | None) -> None:
    """See to it that a service's package is there.

    Raises:
        InputError: it is not, or cannot be imported; says how to install it.
    """
    if service is not None:
        _service(service)


def _service(name: str) -> ModuleType:
    if name not in SERVICES:  # nothing else is imported, whoever says so
        raise InputError(f"--log is {shown(name)}; it must be {' or '.join(SERVICES)}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"--log {name} needs a package that cannot be imported ({error}): pip install {name}"
        ) from error
