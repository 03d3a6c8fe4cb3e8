"""The parts of a training run that change while it trains, and how they are set up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from prune.common.size import Size
from prune.data.batch import share
from prune.errors import DeviceError, InputError
from prune.models.groups import detector_groups
from prune.train import sampling as scales
from prune.train.distributed import SharedStatistics, Team
from prune.train.optim import Average, Schedule, build_optimizer, in_last_fraction, plan_schedule
from prune.train.passes import Eager, Graphed, Passes, build_forward
from prune.train.profile import Unwatched, Watch
from prune.train.settings import Settings
from prune.train.sparsity import PENALTIES, Penalty

if TYPE_CHECKING:
    from torch import Tensor

    from prune.models.darknet import Darknet


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
        watch: notes where the time goes.
        team: the processes that train together.
    """

    net: Darknet
    passes: Passes
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Average
    schedule: Schedule
    settings: Settings
    hyp: Mapping[str, float]
    device: torch.device
    teacher: Darknet | None = None
    adapters: list[Tensor] = field(default_factory=list)
    penalty: Penalty | None = None
    watch: Watch = field(default_factory=Unwatched)
    team: Team = Team()  # noqa: RUF009  # frozen

    @property
    def averaged(self) -> Darknet:
        """The running average: what is scored and kept."""
        return cast("Darknet", self.ema.module)

    @property
    def precision(self) -> torch.dtype:
        """The type that convolutions compute in."""
        return self.settings.dtype

    def size(self, position: int) -> Size:
        """Return the height and width of the batch at this position."""
        settings, stride = self.settings, self.net.stride
        if not settings.multi_scale:
            return settings.imgsz
        return scales.draw_size(
            settings.imgsz, stride=stride, seed=settings.seed, position=position
        )

    def closes(self, what: str, epoch: int) -> bool:
        """Tell whether a hyper-parameter, a share of the run's end, covers this epoch, from 0.

        What the last cut of a run that prunes left has a whole epoch first: its BatchNorms learn
        their statistics anew.
        """
        settled = not self.settings.best_after or epoch > self.settings.best_after
        return settled and in_last_fraction(
            epoch, epochs=self.settings.epochs, share=self.hyp[what]
        )

    def distills(self, what: str) -> bool:
        """Tell whether the teacher's "output" or "feature" counts."""
        return self.teacher is not None and self.settings.distills(what)


def start(
    net: Darknet,
    batches: int,
    *,
    settings: Settings,
    hyp: Mapping[str, float],
    device: torch.device,
    teacher: Darknet | None = None,
    team: Team | None = None,
    watch: Watch | None = None,
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
        watch: notes where the time goes.

    Raises:
        DeviceError: float16 on a CPU.
    """
    team = team or Team()
    half = settings.precision == "float16"
    if half and device.type != "cuda":
        raise DeviceError("precision float16 needs a GPU; on a CPU use float32 or bfloat16")
    for each in (net, teacher) if teacher is not None else (net,):
        # The type checker misses this overload; convolutions run fastest with channels innermost.
        each.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if teacher is not None:
        teacher.eval().requires_grad_(False)
    schedule = plan_schedule(
        hyp,
        epochs=settings.epochs,
        batches=batches,
        accumulate=settings.accumulate,
        shape=settings.schedule,
    )
    return Run(
        net=net,
        passes=_passes(net, settings, teacher=teacher, device=device, team=team),
        optimizer=_optimiser(net, settings, hyp),
        scaler=torch.amp.GradScaler(device.type, enabled=half),
        ema=Average(net, updates=schedule.updates()),
        schedule=schedule,
        settings=settings,
        hyp=hyp,
        device=device,
        teacher=teacher,
        penalty=_penalty(net, settings),
        watch=watch or Unwatched(),
        team=team,
    )


def _optimiser(net: Darknet, settings: Settings, hyp: Mapping[str, float]) -> torch.optim.Optimizer:
    share = settings.batch_size * settings.accumulate / settings.nominal_batch
    return build_optimizer(net, hyp, decay_share=share, factors=settings.lr_factors)


def rebuild(run: Run, cut: Callable[[Darknet], Darknet]) -> Run:
    """Go on with a smaller network: weights, average and momentum lose the same channels.

    Args:
        run: stays as it is; nothing of it is used on.
        cut: returns a network without some channels; the one it is given stays as it is.
    """
    batches = run.schedule.total // run.settings.epochs
    averaged = cut(run.averaged)
    kept = {key: dict(cut(_as_network(run, key)).named_parameters()) for key in _state_names(run)}
    new = start(
        cut(run.net),
        batches,
        settings=run.settings,
        hyp=run.hyp,
        device=run.device,
        teacher=run.teacher,
        team=run.team,
        watch=run.watch,
    )
    new.averaged.load_state_dict(averaged.state_dict())
    new.ema.updates = run.ema.updates
    new.scaler.load_state_dict(run.scaler.state_dict())
    own = dict(run.net.named_parameters())
    for name, parameter in new.net.named_parameters():
        if state := run.optimizer.state.get(own[name]):
            new.optimizer.state[parameter] = {
                key: kept[key][name].detach().clone() if key in kept else copy.deepcopy(value)
                for key, value in state.items()
            }
    return new


def _state_names(run: Run) -> set[str]:
    """Name what the optimizer keeps per weight: momentum, or AdamW's two averages."""
    states = run.optimizer.state.items()
    return {
        key
        for parameter, state in states
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
    }


def _as_network(run: Run, key: str) -> Darknet:
    """Return a network whose parameters are what the optimizer of the run keeps as `key`."""
    net = copy.deepcopy(run.net)
    for own, parameter in zip(net.parameters(), run.net.parameters(), strict=True):
        value = run.optimizer.state.get(parameter, {}).get(key)
        own.data = torch.zeros_like(parameter) if value is None else value
    return net


def _passes(
    net: Darknet,
    settings: Settings,
    *,
    teacher: Darknet | None,
    device: torch.device,
    team: Team,
) -> Passes:
    shared = settings.sync_bn and team.size > 1
    look = build_forward(
        net,
        teacher=teacher,
        features=teacher is not None and settings.distills("feature"),
        device=device,
        precision=settings.dtype,
        compiled=settings.compiled,
        statistics=SharedStatistics(team) if shared else None,
    )
    # Processes whose shares differ in shape record at different times, and so could not meet there.
    if shared or not settings.graphed(device):
        return Eager(look)
    own = len(share(settings.batch_size, team.part))
    return Graphed(net, look, settings.imgsz.batch(own))


def _penalty(net: Darknet, settings: Settings) -> Penalty | None:
    if settings.sparsity is None:
        return None
    groups = detector_groups(net)
    return PENALTIES[settings.sparsity.kind](net, groups)


def freeze(net: Darknet, layers: Sequence[int]) -> int:
    """Take layers, by their indices, out of training; return how many parameters these are.

    Raises:
        InputError: nothing would be left to train.
    """
    chosen = [parameter for i in layers for parameter in net.module_list[i].parameters()]
    for parameter in chosen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise InputError("every layer is frozen; leave at least one to train")
    return sum(parameter.numel() for parameter in chosen)


def training_mode(net: nn.Module, *, norms: bool = True) -> None:
    """Put a network in training mode, but for BatchNorms that do not train.

    Args:
        net: the network.
        norms: whether BatchNorms normalise by the batch, and learn its statistics; otherwise all
            go by what they have learned, as they will in use.
    """
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and not (norms and module.weight.requires_grad):
            module.eval()
