"""What a training run is asked for, and what it holds while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch.optim.swa_utils import AveragedModel

from prune.data.batch import share
from prune.errors import DeviceError, InputError
from prune.graph import trace
from prune.train.ema import average
from prune.train.graphed import Graphed
from prune.train.optimiser import optimiser
from prune.train.passes import Eager, Passes, looking
from prune.train.schedule import Schedule, plan
from prune.train.shared import SharedStatistics
from prune.train.sparsity import PENALTIES, Penalty, Sparsity
from prune.train.team import Team

if TYPE_CHECKING:
    from torch import Tensor

    from prune.models.darknet import Darknet

PRECISIONS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
# What of a teacher is imitated.
DISTILLED: dict[str, tuple[str, ...]] = {
    "output": ("output",),
    "feature": ("feature",),
    "both": ("output", "feature"),
}
_LOWEST = {
    "epochs": 1,
    "imgsz": 1,
    "batch_size": 1,
    "nominal_batch": 1,
    "seed": 0,
    "val_every": 0,
    "save_period": 0,
}


@dataclass(frozen=True)
class Settings:
    """What a run is asked for.

    `imgsz` is in pixels; `nominal_batch` is how many pictures an update sees, from several batches
    if need be; `val_every` and `save_period` are epochs (0: only the last is scored, no snapshots);
    `precision` is that of the convolutions, one of PRECISIONS; `distill` is what of a teacher is
    imitated, a key of DISTILLED; `sparsity` is a penalty that makes channels fade; `eager` launches
    every operation of its own on a GPU; `compiled` asks torch.compile; `sync_bn` lets BatchNorms
    see what all processes see.

    Raises:
        InputError: a number too low, an unknown precision, nothing of that name to imitate, or
            `compiled` with `sync_bn`.
    """

    epochs: int
    imgsz: int
    batch_size: int = 16
    nominal_batch: int = 64
    seed: int = 0
    linear_lr: bool = False
    val_every: int = 1
    save_period: int = 0
    precision: str = "float32"
    distill: str = "output"
    sparsity: Sparsity | None = None
    eager: bool = False
    compiled: bool = False
    sync_bn: bool = False

    def __post_init__(self) -> None:
        for name, low in _LOWEST.items():
            value = getattr(self, name)
            if value < low:
                raise InputError(f"{name.replace('_', ' ')} is {value}; it must be {low} or more")
        if self.precision not in PRECISIONS:
            raise InputError(f"precision is {self.precision!r}; it can be {', '.join(PRECISIONS)}")
        if self.distill not in DISTILLED:
            raise InputError(f"distill is {self.distill!r}; it can be {', '.join(DISTILLED)}")
        if self.compiled and self.sync_bn:
            raise InputError("--sync-bn does not go with --compile; leave one of them out")

    def scored(self, epoch: int) -> bool:
        """Tell whether this epoch, counted from 0, ends with a score."""
        due = self.val_every > 0 and (epoch + 1) % self.val_every == 0
        return due or epoch + 1 == self.epochs


@dataclass(frozen=True)
class Run:
    """The parts of a run that change as it goes on, and what they go by.

    Attributes:
        net: what trains; on the device.
        passes: how batches go through it and back.
        optimizer: of its parameters.
        scaler: of its loss, where it computes in float16.
        ema: its running average.
        schedule: what the optimiser is told when.
        settings: the run's options.
        hyp: hyper-parameters.
        device: where all this is.
        teacher: a network to imitate, if any: on the device, in eval mode, without gradients.
        adapters: what takes the network's features to the teacher's, worked out every epoch.
        penalty: adds a sparse run's penalty to the gradients.
        team: the processes that train together.
    """

    net: Darknet
    passes: Passes
    optimizer: torch.optim.SGD
    scaler: torch.amp.GradScaler
    ema: AveragedModel
    schedule: Schedule
    settings: Settings
    hyp: Mapping[str, float]
    device: torch.device
    teacher: Darknet | None = None
    adapters: list[Tensor] = field(default_factory=list)
    penalty: Penalty | None = None
    team: Team = Team()  # noqa: RUF009  # frozen

    @property
    def averaged(self) -> Darknet:
        """The running average: what is scored and kept."""
        return cast("Darknet", self.ema.module)

    @property
    def precision(self) -> torch.dtype:
        """The type that convolutions compute in."""
        return PRECISIONS[self.settings.precision]

    def imitates(self, what: str) -> bool:
        """Tell whether the teacher's "output" or "feature" counts."""
        return self.teacher is not None and what in DISTILLED[self.settings.distill]


def start(
    net: Darknet,
    batches: int,
    *,
    settings: Settings,
    hyp: Mapping[str, float],
    device: torch.device,
    teacher: Darknet | None = None,
    team: Team | None = None,
) -> Run:
    """Put `net` on the device and set up all that trains it; optimiser and average start fresh.

    Args:
        net: the network; its weights change in place.
        batches: batches an epoch.
        settings: the run's options.
        hyp: hyper-parameters.
        device: where to compute.
        teacher: a network with heads alike, to imitate; its weights stay as they are.
        team: the processes that train together; none, if this one works alone.

    Raises:
        DeviceError: float16 on a CPU.
    """
    team = team or Team()
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
        linear=settings.linear_lr,
    )
    return Run(
        net=net,
        passes=_passes(net, settings, teacher=teacher, device=device, team=team),
        optimizer=optimiser(net, hyp, decay_share=decay_share),
        scaler=torch.amp.GradScaler(device.type, enabled=half),
        ema=average(net, updates=schedule.updates()),
        schedule=schedule,
        settings=settings,
        hyp=hyp,
        device=device,
        teacher=teacher,
        penalty=_penalty(net, settings),
        team=team,
    )


def _passes(
    net: Darknet,
    settings: Settings,
    *,
    teacher: Darknet | None,
    device: torch.device,
    team: Team,
) -> Passes:
    shared = settings.sync_bn and team.size > 1
    look = looking(
        net,
        teacher=teacher,
        features=teacher is not None and "feature" in DISTILLED[settings.distill],
        device=device,
        precision=PRECISIONS[settings.precision],
        compiled=settings.compiled,
        statistics=SharedStatistics(team) if shared else None,
    )
    # Processes whose shares differ in shape record at different times, and so could not meet there.
    if device.type != "cuda" or settings.eager or shared:
        return Eager(look)
    own = len(share(settings.batch_size, team.part))
    return Graphed(net, look, (own, 3, settings.imgsz, settings.imgsz))


def _penalty(net: Darknet, settings: Settings) -> Penalty | None:
    if settings.sparsity is None:
        return None
    groups = trace(net, net.small_picture, protected=net.head_convolutions())
    return PENALTIES[settings.sparsity.kind](net, groups)
