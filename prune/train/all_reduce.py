"""Where processes that train together meet: to sum what they gathered, and to agree to stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prune.errors import TrainError

if TYPE_CHECKING:
    from prune.train.distributed import Team
    from prune.train.run import Run
    from prune.train.stopping import Asked


def meet(run: Run, *, share: float) -> None:
    """Bring together what the processes have gathered since the last update.

    Args:
        run: the run.
        share: of those pictures, what this process saw; so much its BatchNorm statistics count.
    """
    with run.watch("step"):
        run.team.sum_gradients(run.net.parameters())
        if not run.settings.sync_bn:  # else they are the same everywhere
            run.team.average(_statistics(run.net), share=share)


def _statistics(net: nn.Module) -> list[Tensor]:
    """List what BatchNorms have seen, but for frozen ones: an average would round theirs."""
    norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    live = [norm for norm in norms if norm.training]
    found = [buffer for norm in live for buffer in (norm.running_mean, norm.running_var)]
    return [buffer for buffer in found if buffer is not None]


def agreed(team: Team, asked: Asked) -> bool:
    """Tell whether anybody was asked to stop; all processes ask this at the same step."""
    return team.any(asked())


def looked_at(unseen: Sequence[tuple[Tensor, Sequence[Path]]], team: Team) -> Tensor:
    """Sum everybody's losses on the host, [4] or with a teacher [5].

    Raises:
        TrainError: one is not finite; names the pictures it came from.
    """
    losses = team.sum(torch.stack([items for items, _ in unseen]).cpu())  # [K, 4] or [K, 5]
    for row, (_, paths) in zip(losses, unseen, strict=True):
        if not row.isfinite().all():
            names = ", ".join(str(path) for part in team.gather(paths) for path in part)
            raise TrainError(
                f"the loss is {float(row[3:].sum())} on the batch {names}; nothing of this epoch "
                "is kept. A lower lr0 may help, or a look at those pictures' labels"
            )
    return losses.sum(dim=0)
