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
    """The parts of a run that change while it trains, and its options.

    Attributes:
        net: the network under training; on the device.
        passes: how batches are passed through it, forward and backward.
        optimizer: of its parameters.
        scaler: of its loss, where it computes in float16.
        ema: its running average.
        schedule: learning rates and momentum of every batch.
        settings: the run's options.
        hyp: hyper-parameters.
        device: where all this is.
        teacher: a network to distill from, if any: on the device, in eval mode, without gradients.
        adapters: maps from the network's features to the teacher's, fitted in every epoch.
        penalty: adds a sparse run's penalty to the gradients.
        watch: measures where the time goes.
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
        """The running average, which is evaluated and saved."""
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
        """Tell whether a hyper-parameter, a last fraction of the run, covers this epoch, from 0.

        After the last cut of a run that prunes, BatchNorms first have a whole epoch to measure
        their statistics anew.
        """
        measured = not self.settings.best_after or epoch > self.settings.best_after
        return measured and in_last_fraction(
            epoch, epochs=self.settings.epochs, fraction=self.hyp[what]
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
    """Put a network on the device and set up its training; optimizer and average start fresh.

    Args:
        net: the network; its weights change in place.
        batches: batches per epoch.
        settings: the run's options.
        hyp: hyper-parameters.
        device: where to compute.
        teacher: a network with the same heads, to distill from; it stays as it is.
        team: the processes that train together (default: this one alone).
        watch: measures where the time goes.

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
    accumulated = settings.batch_size * settings.accumulate
    optimizer = build_optimizer(
        net,
        hyp,
        decay_factor=accumulated / settings.nominal_batch,
        factors=settings.lr_factors,
    )
    penalty = None
    if settings.sparsity is not None:
        penalty = PENALTIES[settings.sparsity.kind](net, detector_groups(net))
    return Run(
        net=net,
        passes=_passes(net, settings, teacher=teacher, device=device, team=team),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=half),
        ema=Average(net, updates=schedule.updates()),
        schedule=schedule,
        settings=settings,
        hyp=hyp,
        device=device,
        teacher=teacher,
        penalty=penalty,
        watch=watch or Unwatched(),
        team=team,
    )


def rebuild(run: Run, cut: Callable[[Darknet], Darknet]) -> Run:
    """Set up a run again for a smaller network: weights, average and momentum lose channels.

    Args:
        run: stays as it is, and must not be used any more.
        cut: returns a copy of a network without some channels.
    """
    batches = run.schedule.total // run.settings.epochs
    averaged = cut(run.averaged)
    states = {key: dict(cut(_as_network(run, key)).named_parameters()) for key in _state_names(run)}
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
                key: states[key][name].detach().clone() if key in states else copy.deepcopy(value)
                for key, value in state.items()
            }
    return new


def _state_names(run: Run) -> set[str]:
    """Return the names of the optimizer's state per weight: momentum, or AdamW's two averages."""
    states = run.optimizer.state.items()
    return {
        key
        for parameter, state in states
        for key, value in state.items()
        if isinstance(value, torch.Tensor) and value.shape == parameter.shape
    }


def _as_network(run: Run, key: str) -> Darknet:
    """Return a network whose parameters are the state `key` of the run's optimizer."""
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
    forward = build_forward(
        net,
        teacher=teacher,
        features=teacher is not None and settings.distills("feature"),
        device=device,
        precision=settings.dtype,
        compiled=settings.compiled,
        statistics=SharedStatistics(team) if shared else None,
    )
    # Processes whose parts of a batch differ in shape record at different times, where they could
    # not exchange statistics.
    if shared or not settings.graphed(device):
        return Eager(forward)
    own = len(share(settings.batch_size, team.part))
    return Graphed(net, forward, settings.imgsz.batch(own))


def freeze(net: Darknet, layers: Sequence[int]) -> int:
    """Exclude layers, by their indices, from training; return the number of their parameters.

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
    """Put a network in training mode, except for BatchNorms that are not trained.

    Args:
        net: the network.
        norms: whether BatchNorms normalize by the statistics of the batch, and average them;
            otherwise all use their running statistics, as the finished network does.
    """
    net.train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and not (norms and module.weight.requires_grad):
            module.eval()
