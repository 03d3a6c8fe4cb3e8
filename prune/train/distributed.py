"""Processes that train one network together, a part of every batch each, started by torchrun.

No wrapper stands around the network: it may be rebuilt while it trains, its passes may be CUDA
graphs, and a process may have no image of a batch. Instead gradients are summed just before each
update, so that every process steps its own copy of the weights, and all copies stay identical to
the bit. If a process dies, all end at once; if one hangs, all end within a minute.

BatchNorms can share their statistics (--sync-bn). The network stays as it is: while it computes,
another function takes the place of the one that its BatchNorms call. torch's own SyncBatchNorm
replaces modules, and supports GPUs only.
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (torch's own habit)
from torch.overrides import TorchFunctionMode

from prune.errors import InputError, PruneError, TrainError

if TYPE_CHECKING:
    from prune.train.run import Run
    from prune.train.stopping import StopRequested


Thing = TypeVar("Thing")

# Longer than any work that one process does while the others wait. After it torchrun allows 30 s
# more for a process that hangs, which does not react to the signal to end.
TIMEOUT_S = 20.0
_TIMEOUT = "PRUNE_TIMEOUT_S"  # environment variable, for machines with slow disks
_BUCKET_BYTES = 25 * 2**20  # large enough for the links' full rate, small enough to overlap copies


@dataclass(frozen=True)
class Team:
    """The processes that train together; the default is one process alone.

    Alone, every method returns its argument and communicates with nobody. Otherwise all processes
    must call the same methods in the same order.

    Attributes:
        rank: the number of this process, from 0.
        size: how many processes there are.

    Raises:
        TrainError: from every method, where another process has ended or does not answer.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, which writes files and reports."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """This process's number, and how many there are."""
        return self.rank, self.size

    def any(self, flag: bool) -> bool:
        """Tell whether the flag of any process is set; all get the same answer."""
        return bool(self._reduce(torch.tensor(int(flag)), dist.ReduceOp.MAX).item())

    def wait(self) -> None:
        """Wait until all processes have called this."""
        self.any(False)

    def counts(self, own: Sequence[int]) -> list[int]:
        """Sum the counts of all processes."""
        return [int(count) for count in self.sum(torch.tensor(own, dtype=torch.int64))]

    def sum(self, own: Tensor) -> Tensor:
        """Sum the tensors of all processes, which have one shape."""
        return own if self.size == 1 else self._reduce(own.clone(), dist.ReduceOp.SUM)

    def stack(self, own: Tensor) -> Tensor:
        """Stack the tensors [...] of all processes, which have one shape, to [size, ...]."""
        if self.size == 1:
            return own[None]
        found = [torch.empty_like(own) for _ in range(self.size)]
        with _explain_lost_process():
            dist.all_gather(found, own)
        return torch.stack(found)

    def gather(self, own: Thing) -> list[Thing]:
        """Return the objects of all processes, in their order; they are pickled."""
        if self.size == 1:
            return [own]
        found: list[Thing | None] = [None] * self.size
        with _explain_lost_process():
            dist.all_gather_object(found, own)
        return cast(list[Thing], found)

    def make_on_main(self, make: Callable[[], Thing]) -> Thing:
        """Make an object on the main process and return it on all; it is pickled.

        Raises:
            PruneError: what `make` raised, as `make_on_all` does.
        """
        made = self.make_on_all(make if self.is_main else lambda: None)
        if self.size > 1:
            shared = [made]
            with _explain_lost_process():
                dist.broadcast_object_list(shared, src=0)
            (made,) = shared
        return cast(Thing, made)

    def make_on_all(self, make: Callable[[], Thing]) -> Thing:
        """Make an object on every process; where one fails, all end.

        Raises:
            PruneError: what `make` raised; from one process alone, so that it is printed once.
            SystemExit: from the others.
        """
        if self.size == 1:
            return make()
        made: list[Thing] = []
        failure: PruneError | None = None
        try:
            made = [make()]
        except PruneError as error:
            failure = error
        failures = self.gather(failure)
        failed = [rank for rank, each in enumerate(failures) if each is not None]
        if failure is not None and self.rank == failed[0]:
            raise failure
        if failed:
            with suppress(TrainError):
                self.wait()  # until the one that reports ends: torchrun ends all after the first
            raise SystemExit(PruneError.exit_code)
        return made[0]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum the gradients of each parameter over all processes; a missing one counts as zero."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self._sum_in_place([p.grad for p in trained if p.grad is not None])

    def average(self, tensors: Sequence[Tensor], *, fraction: float) -> None:
        """Average tensors in place, weighted by each process's `fraction`; these sum to 1."""
        if self.size == 1 or not tensors:
            return
        torch._foreach_mul_(list(tensors), fraction)
        self._sum_in_place(tensors)

    def _reduce(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            with _explain_lost_process():
                dist.all_reduce(tensor, operation)
        return tensor

    def _sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Sum tensors over all processes; a bucket is sent while the next one is packed."""
        with torch.no_grad(), _explain_lost_process():
            sent = []
            for bucket in buckets(tensors):
                flat = torch.cat([tensor.flatten() for tensor in bucket])
                sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
            for bucket, flat, work in sent:
                work.wait()
                parts = torch.split(flat, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view(tensor.shape))


def buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Split tensors of one type, in order, into lists of at most `_BUCKET_BYTES`, or of one."""
    bucket: list[Tensor] = []
    room = _BUCKET_BYTES
    for tensor in tensors:
        if bucket and tensor.nbytes > room:
            yield bucket
            bucket, room = [], _BUCKET_BYTES
        bucket.append(tensor)
        room -= tensor.nbytes
    if bucket:
        yield bucket


def local_rank() -> int | None:
    """Return this process's number on its machine; None where it works alone."""
    return int(os.environ["LOCAL_RANK"]) if _size() > 1 else None


@contextmanager
def join() -> Iterator[Team]:
    """Join the other processes that torchrun started, if it started any.

    Objects, counts and flags are exchanged through the CPU's memory even where gradients are on
    GPUs: no process has to wait for a GPU to get what is on the CPU already.

    Raises:
        InputError: the environment variable PRUNE_TIMEOUT_S is no time.
        TrainError: the others did not join in time.
    """
    if _size() == 1:
        yield Team()
        return
    # Imported later, as optimizers do, it would keep the group past its end (as a default of its
    # functions); gloo's threads then outlive Python, and sometimes abort the process.
    importlib.import_module("torch.distributed.nn.functional")
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    with _explain_lost_process():
        dist.init_process_group(backend, timeout=timedelta(seconds=_timeout_s()))
    yield Team(dist.get_rank(), dist.get_world_size())
    # Not after an error: the others are elsewhere, and this would wait for them.
    dist.destroy_process_group()


def _size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _timeout_s() -> float:
    """Return how long a process waits for the others."""
    text = os.environ.get(_TIMEOUT, str(TIMEOUT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise InputError(f"{_TIMEOUT} is {text!r}; it must be a number of seconds, e.g. 60")
    return seconds


@contextmanager
def _explain_lost_process() -> Iterator[None]:
    """Raise an error of one line where torch raises fifty because a process has ended."""
    try:
        yield
    except RuntimeError as error:
        if re.search("timed? ?out", str(error), flags=re.IGNORECASE):
            raise TrainError(
                f"another process of this run has not answered for {_timeout_s():g} s; if it is "
                f"slow and does not hang, set {_TIMEOUT} to more"
            ) from error
        reason = re.sub(r"^\[[^]]*\] |\. .*", "", str(error), flags=re.DOTALL)
        raise TrainError(
            f"another process of this run has ended ({reason}); see its own message"
        ) from error


def all_reduce(run: Run, *, fraction: float) -> None:
    """Sum gradients, and average BatchNorm statistics, over all processes before an update.

    Args:
        run: the run.
        fraction: of the images since the last update, those of this process: the weight of its
            BatchNorm statistics.
    """
    with run.watch("step"):
        run.team.sum_gradients(run.net.parameters())
        if not run.settings.sync_bn:  # else they are the same everywhere
            run.team.average(_statistics(run.net), fraction=fraction)


def _statistics(net: nn.Module) -> list[Tensor]:
    """List the statistics of BatchNorms that train: an average would round those of frozen ones."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    training = [norm for norm in norms if norm.training]
    found = [buffer for norm in training for buffer in (norm.running_mean, norm.running_var)]
    return [buffer for buffer in found if buffer is not None]


def any_requested(team: Team, stop_requested: StopRequested) -> bool:
    """Tell whether any process was asked to stop; all call this at the same step."""
    return team.any(stop_requested())


def sum_losses(unread: Sequence[tuple[Tensor, Sequence[Path]]], team: Team) -> Tensor:
    """Sum the losses of all processes on the host, [4] or with a teacher [5].

    Raises:
        TrainError: one is not finite; names the images that it is of.
    """
    losses = team.sum(torch.stack([items for items, _ in unread]).cpu())  # [K, 4] or [K, 5]
    for row, (_, paths) in zip(losses, unread, strict=True):
        if not row.isfinite().all():
            names = ", ".join(str(path) for part in team.gather(paths) for path in part)
            raise TrainError(
                f"the loss is {float(row[3:].sum())} on the batch {names}; this epoch is not "
                "saved. Try a lower lr0, or check the labels of these images"
            )
    return losses.sum(dim=0)


class SharedStatistics(TorchFunctionMode):
    """While entered, BatchNorms in training mode normalise by what all processes see."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call a function of torch, or ours instead."""
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))  # type: ignore[arg-type]  # torch's own
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        weight: Tensor,
        bias: Tensor,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, eps=eps)
        mean, squares, count = batch_moments(input.detach(), self.team)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(squares / (count - 1).clamp(min=1), momentum)
        fixed = mean, (squares / count + eps).rsqrt(), count
        normalize = cast(Callable[..., Tensor], _Normalize.apply)
        return normalize(input, weight, bias, fixed, self.team)


def batch_moments(values: Tensor, team: Team) -> tuple[Tensor, Tensor, Tensor]:
    """Return the moments of the values [N, C, H, W] of all processes; N may be zero on some.

    The moments of each process are combined (Chan et al. 1979), which loses no digits.

    Returns:
        Mean [C], sum of squared deviations from it [C], values per channel [1]; float32.
    """
    values, channels = values.float(), values.shape[1]
    count = values.numel() // channels
    mean = values.sum(dim=(0, 2, 3)) / max(count, 1)  # [C]
    squares = (values - _along(mean)).square().sum(dim=(0, 2, 3))  # [C]
    all_moments = team.stack(torch.cat((mean, squares, mean.new_tensor([count]))))  # [R, 2 C + 1]
    means, squares, counts = torch.split(all_moments, [channels, channels, 1], dim=1)
    total = counts.sum(dim=0)  # [1]
    mean = (counts * means).sum(dim=0) / total
    return mean, (squares + counts * (means - mean).square()).sum(dim=0), total


class _Normalize(torch.autograd.Function):
    """(x - mean) / deviation * weight + bias, where mean and deviation depend on all processes."""

    @staticmethod
    def forward(
        ctx: Any,  # torch's own type lacks the attributes that are set here
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        fixed: tuple[Tensor, Tensor, Tensor],
        team: Team,
    ) -> Tensor:
        mean, inverse, count = fixed
        ctx.save_for_backward(values, weight, mean, inverse, count)
        ctx.team = team
        scale = weight * inverse
        normalized = values.float() * _along(scale) + _along(bias - mean * scale)
        return normalized.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, inverse, count = ctx.saved_tensors
        slope = gradient.float()
        unit = (values.float() - _along(mean)) * _along(inverse)
        own = torch.stack((slope.sum(dim=(0, 2, 3)), (slope * unit).sum(dim=(0, 2, 3))))  # [2, C]
        shift, stretch = ctx.team.sum(own) / count  # [C] each
        back = _along(weight * inverse) * (slope - _along(shift) - unit * _along(stretch))
        # The scale's and shift's gradients are this process's; they are summed like all others.
        return back.to(values.dtype), own[1], own[0], None, None


def _along(channels: Tensor) -> Tensor:
    """Reshape values per channel, [C], to [1, C, 1, 1]."""
    return channels[None, :, None, None]
