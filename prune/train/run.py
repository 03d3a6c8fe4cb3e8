"""What a training run is asked for, and what it holds while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch.optim.swa_utils import AveragedModel

from prune.errors import DeviceError, InputError
from prune.train.ema import average
from prune.train.optimiser import optimiser
from prune.train.schedule import SHAPES, Schedule, plan

if TYPE_CHECKING:
    from prune.models.darknet import Darknet

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_LOWEST = {
    "epochs": 1,
    "imgsz": 1,
    "batch_size": 1,
    "nominal_batch": 1,
    "seed": 0,
    "val_every": 0,
    "save_period": 0,
    "patience": 0,
}


@dataclass(frozen=True)
class Settings:
    """What a run is asked for.

    `imgsz` is in pixels; `nominal_batch` is how many pictures an update sees, from several batches
    if need be; `schedule` is one of SHAPES; `val_every` and `save_period` are epochs (0: only the
    last is scored, no snapshots); `precision` is that of the convolutions, one of PRECISIONS;
    `lr_factors` multiply the learning rate of some layers, by their indices; `patience` is how many
    scores without a better one end the run (0: any).

    Raises:
        InputError: a number too low, an unknown precision or schedule, or one that goes by scores
            where there are none.
    """

    epochs: int
    imgsz: int
    batch_size: int = 16
    nominal_batch: int = 64
    seed: int = 0
    schedule: str = "cosine"
    val_every: int = 1
    save_period: int = 0
    precision: str = "float32"
    patience: int = 0
    lr_factors: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if value < low:
                raise InputError(f"{name.replace('_', ' ')} is {value}; it must be {low} or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}; it can be {', '.join(PRECISIONS)}")
        if self.schedule not in SHAPES:
            raise InputError(f"schedule is {self.schedule!r}; it can be {', '.join(SHAPES)}")
        for name, asked in ("plateau", self.schedule == "plateau"), ("patience", self.patience):
            if asked and not self.val_every:
                raise InputError(f"{name} goes by scores; it needs epochs that are scored")

    def scored(self, epoch: int) -> bool:
        """Tell whether this epoch, counted from 0, ends with a score."""
        due = self.val_every > 0 and (epoch + 1) % self.val_every == 0
        return due or epoch + 1 == self.epochs

    @property
    def plateau(self) -> int:
        """Scores without a better one that lower the rate: 5, in a long run a tenth of all."""
        return max(5, round(0.1 * sum(map(self.scored, range(self.epochs)))))


@dataclass(frozen=True)
class Run:
    """The parts of a run that change as it goes on, and what they go by.

    `teacher` is a network to imitate, if any: on the device, in eval mode, without gradients.
    """

    net: Darknet
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    ema: AveragedModel
    schedule: Schedule
    settings: Settings
    hyp: Mapping[str, float]
    device: torch.device
    teacher: Darknet | None = None

    @property
    def averaged(self) -> Darknet:
        """The running average: what is scored and kept."""
        return cast("Darknet", self.ema.module)

    @property
    def precision(self) -> torch.dtype:
        """The type that convolutions compute in."""
        return PRECISIONS[self.settings.precision]


def start(
    net: Darknet,
    batches: int,
    *,
    settings: Settings,
    hyp: Mapping[str, float],
    device: torch.device,
    teacher: Darknet | None = None,
) -> Run:
    """Put `net` on the device and set up all that trains it; optimiser and average start fresh.

    Args:
        net: the network; its weights change in place.
        batches: batches an epoch.
        settings: the run's options.
        hyp: hyper-parameters.
        device: where to compute.
        teacher: a network with heads alike, to imitate; its weights stay as they are.

    Raises:
        DeviceError: float16 on a CPU.
    """
    half = settings.precision == "float16"
    if half and device.type != "cuda":
        raise DeviceError("precision float16 needs a GPU; on a CPU use float32 or bfloat16")
    # The type checker misses this overload; convolutions run fastest with channels innermost.
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if teacher is not None:
        teacher = teacher.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # as above
        teacher.eval().requires_grad_(False)
    accumulate = max(1, round(settings.nominal_batch / settings.batch_size))
    decay_share = settings.batch_size * accumulate / settings.nominal_batch
    schedule = plan(
        hyp,
        epochs=settings.epochs,
        batches=batches,
        accumulate=accumulate,
        shape=settings.schedule,
    )
    return Run(
        net=net,
        optimizer=optimiser(net, hyp, decay_share=decay_share, factors=settings.lr_factors),
        scaler=torch.amp.GradScaler(device.type, enabled=half),
        ema=average(net, updates=schedule.updates()),
        schedule=schedule,
        settings=settings,
        hyp=hyp,
        device=device,
        teacher=teacher,
    )
