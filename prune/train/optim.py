"""How weights are updated: optimizer and learning rate, gradients, and the average of the weights.

The schedule consists of pure functions of the batch's position (and, for a plateau, of the metrics
so far), so that a resumed run needs to know nothing but its position.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from prune.common.hyperparameters import choice_name

GROUPS = ("weights", "scales", "biases")
_SECOND_BETA = 0.999


def build_optimizer(
    net: nn.Module,
    hyp: Mapping[str, float],
    *,
    decay_factor: float,
    factors: Mapping[int, float] | None = None,
) -> torch.optim.Optimizer:
    """Make the optimizer; only the kernels of convolutions and linears decay.

    Args:
        net: the network to train.
        hyp: `optimizer`, `lr0`, `momentum`, `weight_decay`, `l1`.
        decay_factor: images per update, as a fraction of the nominal batch; weight decay and L1
            penalty, which are meant for the nominal batch, are scaled by it.
        factors: index of a layer -> factor of its learning rate.
    """
    groups = [
        {
            "params": list(members.values()),
            "weight_decay": hyp["weight_decay"] * decay_factor if kind == "weights" else 0.0,
            "l1": hyp["l1"] * decay_factor if kind == "weights" else 0.0,
            "kind": kind,
            "factor": factor,
        }
        for (kind, factor), members in group_parameters(net, factors).items()
    ]
    return OPTIMIZERS[choice_name("optimizer", hyp)](groups, hyp)


def _sgd(groups: list[dict[str, Any]], hyp: Mapping[str, float]) -> torch.optim.Optimizer:
    # fused: half the time of the loop over tensors on a CPU, a few launches on a GPU
    return torch.optim.SGD(
        groups, lr=hyp["lr0"], momentum=hyp["momentum"], nesterov=True, fused=True
    )


def _adamw(groups: list[dict[str, Any]], hyp: Mapping[str, float]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        groups, lr=hyp["lr0"], betas=(hyp["momentum"], _SECOND_BETA), fused=True
    )


# Each takes the groups of `group_parameters` and the hyper-parameters.
OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}
# Copies of the weights that each optimizer keeps between updates.
COPIES = {"sgd": 1, "adamw": 2}


def group_parameters(
    net: nn.Module, factors: Mapping[int, float] | None = None
) -> dict[tuple[str, float], dict[str, nn.Parameter]]:
    """Sort the trained parameters into kernels, biases, and scales or shifts of channels.

    Each kind is split further by the factors of the layers, where they differ.
    """
    found: dict[tuple[str, float], dict[str, nn.Parameter]] = {(kind, 1.0): {} for kind in GROUPS}
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                key = _kind(module, name), _factor(prefix, factors or {})
                found.setdefault(key, {})[f"{prefix}.{name}".lstrip(".")] = parameter
    return found


def apply_setting(optimizer: torch.optim.Optimizer, setting: Setting) -> None:
    """Set the learning rates and momentum of the next update."""
    for options in optimizer.param_groups:
        rate = setting.bias_rate if options["kind"] == "biases" else setting.rate
        options["lr"] = options["factor"] * rate
        if "betas" in options:
            options["betas"] = (setting.momentum, _SECOND_BETA)
        else:
            options["momentum"] = setting.momentum


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the current learning rate of each group."""
    return {_group_name(options): float(options["lr"]) for options in optimizer.param_groups}


def _group_name(options: Mapping[str, Any]) -> str:
    """Name a group of parameters: weights, or weights x 0.1."""
    kind, factor = options["kind"], options["factor"]
    return str(kind) if factor == 1 else f"{kind} x {factor:g}"


def _kind(module: nn.Module, name: str) -> str:
    if name == "bias":
        return "biases"
    kernel = isinstance(module, (nn.Conv2d, nn.Linear)) and name == "weight"
    return "weights" if kernel else "scales"


def _factor(module: str, factors: Mapping[int, float]) -> float:
    """Look up the factor of the layer that a module such as module_list.7.Conv2d belongs to."""
    parent, _, rest = module.partition(".")
    index = rest.partition(".")[0]
    return factors.get(int(index), 1.0) if parent == "module_list" and index else 1.0


# The published code warms up for at least 1000 batches, which is more than a whole run on a few
# hundred images. Rates and momentum therefore warm up for a tenth of a run at most. The number of
# batches per update grows over the published time: a short run needs updates most of all.
_WARMUP_FRACTION = 0.1
_LEAST_RAMP = 1000

_STEPS, _STEP = (0.8, 0.9), 0.1  # where in a run its rate drops, and the factor
_PEAK, _LOWEST = (
    0.3,
    0.1,
)  # one cycle: where its rate is highest, and the fraction it starts at
_PLATEAU = 0.3  # factor of the rate after a plateau


def cosine(done: float, lrf: float) -> float:
    """Fall along half a cosine (Loshchilov, Hutter 2017, arXiv:1608.03983, without restarts)."""
    return _between(1.0, lrf, (1 - math.cos(math.pi * done)) / 2)


def linear(done: float, lrf: float) -> float:
    """Decrease along a straight line."""
    return _between(1.0, lrf, done)


def multistep(done: float, lrf: float) -> float:
    """Drop to a tenth at 80 % and again at 90 % of the run, as Darknet does; lrf is not used."""
    return math.prod(_STEP for step in _STEPS if done >= step)


def one_cycle(done: float, lrf: float) -> float:
    """Rise from a tenth for 30 % of the run (Smith 2018, arXiv:1803.09820), then as the cosine."""
    if done < _PEAK:
        return _between(_LOWEST, 1.0, done / _PEAK)
    return cosine((done - _PEAK) / (1 - _PEAK), lrf)


def plateau(done: float, lrf: float) -> float:
    """Stay at lr0, which `plateau_factor` lowers by the metrics; lrf is not used."""
    return 1.0


# Name -> function of the fraction of the run that is done and of lrf, which returns the learning
# rate as a fraction of lr0, without warm-up.
SHAPES: dict[str, Callable[[float, float], float]] = {
    "cosine": cosine,
    "linear": linear,
    "multistep": multistep,
    "one-cycle": one_cycle,
    "plateau": plateau,
}


def plateau_factor(fitnesses: Sequence[float], patience: int) -> float:
    """Return the factor of the rate: 0.3 for each `patience` evaluations without a better one.

    Args:
        fitnesses: of all evaluated epochs so far.
        patience: number of evaluations, from 1.
    """
    best, waited, factor = -math.inf, 0, 1.0
    for fitness in fitnesses:
        waited = 0 if fitness > best else waited + 1
        best = max(best, fitness)
        if waited == patience:
            waited, factor = 0, factor * _PLATEAU
    return factor


class Setting(NamedTuple):
    """Learning rates and momentum at one batch; biases have a rate of their own."""

    rate: float
    bias_rate: float
    momentum: float


@dataclass(frozen=True)
class Schedule:
    """The settings of a whole run.

    Attributes:
        total: batches of the run.
        batches: batches per epoch.
        warmup: batches over which rates and momentum warm up.
        ramp: batches over which the number of batches per update grows.
        accumulate: batches per update after the ramp.
        shape: a key of SHAPES.
        lr0: hyper-parameter, as are the following.
        lowered: factor of the rate after plateaus.
    """

    total: int
    batches: int
    warmup: int
    ramp: int
    accumulate: int
    shape: str
    lr0: float
    lrf: float
    momentum: float
    warmup_momentum: float
    warmup_bias_lr: float
    lowered: float = 1.0

    def at(self, batch: int) -> Setting:
        """Return the settings for the batch at this position, counted from the run's start."""
        rate = self.lr0 * self.factor(batch)
        warm = min(batch / self.warmup, 1.0) if self.warmup else 1.0
        return Setting(
            rate=warm * rate,
            bias_rate=_between(self.warmup_bias_lr, rate, warm),
            momentum=_between(self.warmup_momentum, self.momentum, warm),
        )

    def accumulated(self, batch: int) -> int:
        """Return the number of batches per update at this position."""
        grown = min(batch / self.ramp, 1.0) if self.ramp else 1.0
        return round(_between(1, self.accumulate, grown))

    def update_due(self, batch: int, *, waiting: int) -> bool:
        """Tell whether an update follows the batch at this position.

        One always follows the last batch of an epoch.

        Args:
            batch: its position, counted from the run's start.
            waiting: number of batches since the last update, this one included.
        """
        return waiting >= self.accumulated(batch) or (batch + 1) % self.batches == 0

    def updates(self) -> int:
        """Count the run's updates."""
        epochs = math.ceil(min(self.ramp, self.total) / self.batches)  # that the ramp reaches into
        count = waiting = 0
        for batch in range(epochs * self.batches):
            waiting += 1
            if self.update_due(batch, waiting=waiting):
                count, waiting = count + 1, 0
        rest = self.total // self.batches - epochs
        return count + rest * math.ceil(self.batches / self.accumulate)

    def factor(self, batch: int) -> float:
        """Return the learning rate as a fraction of lr0, without warm-up."""
        return self.lowered * SHAPES[self.shape](batch / max(self.total, 1), self.lrf)


def plan_schedule(
    hyp: Mapping[str, float], *, epochs: int, batches: int, accumulate: int, shape: str = "cosine"
) -> Schedule:
    """Plan a run of `epochs` times `batches`, with one of SHAPES.

    One cycle begins with a low rate: it has no warm-up of its own.
    """
    total, warmup = epochs * batches, hyp["warmup_epochs"] * batches
    return Schedule(
        total=total,
        batches=batches,
        warmup=0 if shape == "one-cycle" else round(min(warmup, _WARMUP_FRACTION * total)),
        ramp=round(max(warmup, _LEAST_RAMP)) if warmup else 0,
        accumulate=accumulate,
        shape=shape,
        lr0=hyp["lr0"],
        lrf=hyp["lrf"],
        momentum=hyp["momentum"],
        warmup_momentum=hyp["warmup_momentum"],
        warmup_bias_lr=hyp["warmup_bias_lr"],
    )


def in_last_fraction(epoch: int, *, epochs: int, fraction: float) -> bool:
    """Tell whether an epoch, counted from 0, is in the last fraction of a run."""
    return epoch >= epochs - round(fraction * epochs)


def _between(start: float, end: float, fraction: float) -> float:
    return start * (1 - fraction) + end * fraction


def prepare_gradients(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    clip: float,
    penalty: Callable[[], None] | None = None,
) -> None:
    """Clip the gradients of the loss, then add those of penalties, which are not clipped.

    Otherwise a penalty that is added for several updates at once would use up the limit of one
    update, and be weaker than one that is added each time.

    Args:
        optimizer: its groups have the strength of the L1 penalty (`l1`), whose gradient is
            l1 * sign(w).
        scaler: what the loss was scaled by.
        clip: the largest norm of all gradients together (Pascanu et al. 2013, arXiv:1211.5063); 0
            for no limit.
        penalty: adds the gradients of another penalty; see `sparsity.PENALTIES`.
    """
    shrinking = [group for group in optimizer.param_groups if group["l1"]]
    if not clip and not shrinking and penalty is None:
        return
    scaler.unscale_(optimizer)
    if clip:
        clip_grad_norm_(
            [p for group in optimizer.param_groups for p in group["params"]],
            clip,
        )
    for group in shrinking:
        for parameter in group["params"]:
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach().sign(), alpha=group["l1"])
    if penalty is not None:
        penalty()


# The published decay and ramp suit runs of many thousand updates. A small data set gives a few
# hundred: there the average spans the last tenth of the run, after a ramp of a tenth.
_DECAY, _RAMP = 0.9999, 2000.0
_SPAN_FRACTION = 0.1


class Average(nn.Module):
    """A running average of a network's parameters and buffers.

    The decay at update t is d * (1 - exp(-t / ramp)): young averages forget fast. It does what
    torch's AveragedModel does; that one sorts all tensors by device and type at every update, ten
    times the work of the averaging (13.9 beside 1.4 ms for yolor_csp_n on one core of a CPU).

    Attributes:
        module: the average, in eval mode, without gradients.
        updates: number of updates that it averages.
    """

    def __init__(self, net: nn.Module, *, updates: int) -> None:
        """Start an average of `net` for a run of so many updates."""
        super().__init__()
        self.module = copy.deepcopy(net).eval().requires_grad_(False)
        self.updates = 0
        self._limit, self._ramp = _limits(updates)
        self._pairs = _pairs(self.module, net)

    @torch.no_grad()
    def update(self) -> None:
        """Add the network as it is now."""
        decay = self._limit * (1 - math.exp(-self.updates / self._ramp)) if self.updates else 0.0
        (averaged, current), (counted, counts) = self._pairs
        torch._foreach_lerp_(averaged, current, 1 - decay)
        torch._foreach_copy_(counted, counts)  # BatchNorm's counters have no average
        self.updates += 1


def _pairs(own: nn.Module, net: nn.Module) -> list[tuple[list[Tensor], list[Tensor]]]:
    """List the tensors to average, and those to copy, each with its source."""
    both = [list(chain(module.parameters(), module.buffers())) for module in (own, net)]
    found: list[tuple[list[Tensor], list[Tensor]]] = [([], []), ([], [])]
    for to, source in zip(*both, strict=True):
        targets, sources = found[0 if to.is_floating_point() else 1]
        targets.append(to.detach())
        sources.append(source.detach())
    return found


def _limits(updates: int) -> tuple[float, float]:
    """Return the final decay, and the number of updates of the ramp to it."""
    span = max(_SPAN_FRACTION * updates, 1.0)
    return min(_DECAY, 1 - 1 / span), min(_RAMP, span)
