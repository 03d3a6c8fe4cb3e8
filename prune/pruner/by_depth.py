"""Prune whole residual blocks: a number of them, or as many as a budget of MACs requires."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from prune.common.amounts import read_amount
from prune.common.notes import Report
from prune.common.size import Size
from prune.core.cost.macs import count
from prune.core.plan import Plan
from prune.errors import PlanError
from prune.pruner import depth, width_and_depth
from prune.pruner.block_importance import training_images
from prune.pruner.config import PruneConfig
from prune.pruner.depth import Block
from prune.pruner.session import Choice, Session


@dataclass(frozen=True)
class DepthConfig(PruneConfig):
    """`prune depth`. Exactly one of `blocks` and `macs` is given.

    Attributes:
        blocks: number of blocks to remove.
        macs: MACs that may be left: a fraction of the original's, or a number such as "30G".
        criterion: a key of `block_importance.CRITERIA`; None takes output with `data`, else l1.
        images: number of training images of `data` that "output" looks at, at least 1.
        rescore: compute the importance of the rest again after each removal.
        img_size: size of the image that MACs are counted for; None for the checkpoint's.
    """

    command: ClassVar[str] = "depth"

    out: Path = Path("model_data/depth_pruning.pt")
    blocks: int | None = None
    macs: float | str | None = None
    criterion: str | None = None
    images: int = 8
    rescore: bool = False
    img_size: Size | None = None

    def __post_init__(self) -> None:
        if (self.blocks is None) == (self.macs is None):
            raise PlanError("give exactly one of blocks and macs, e.g. blocks=8")
        if self.images < 1:
            raise PlanError(f"images is {self.images}; it must be at least 1, e.g. 8")

    def choose(self, session: Session, report: Report) -> Choice:
        """See `PruneConfig`."""
        # Noise ranked blocks worse than weights did, on the one trained network it was tried on.
        criterion = self.criterion or ("l1" if self.data is None else "output")
        imgsz = self.img_size or session.checkpoint.imgsz
        found = depth.blocks(session.net, imgsz=imgsz)
        if self.blocks is not None:
            enough = depth.by_number(found, self.blocks)
        else:
            total = count(session.net, imgsz.batch()).macs
            amount = read_amount(self.macs or 0, option="--macs")
            enough = depth.by_macs(found, total, amount if amount > 1 else amount * total)
        images = None
        if self.data is not None and criterion == "output":
            images = training_images(
                self.data, session.net, images=self.images, imgsz=imgsz, device_name=self.device
            )
        net = session.net if images is None else width_and_depth.near(session.net, images)

        def importance(blocks: Sequence[Block], gone: Sequence[Block]) -> tuple[float, ...]:
            return depth.importance_of(
                net, blocks, criterion=criterion, images=images, gone=gone, seed=self.seed
            )

        removed = depth.choose(found, enough, importance, again=self.rescore)
        layers = sorted(layer for each in removed for layer in each.block.layers)
        plan = Plan("", criterion, (), blocks=tuple(layers))
        return Choice(plan, {each.block.place.shortcut: each.importance for each in removed})
