"""Prune width and depth together: blocks are removed first, then channels of the rest, in one plan.

The number of blocks is chosen by trial: every number is tried with the same budget, and the network
whose head maps differ least from the original's is taken. If a recovery follows, the networks are
compared after it, since cuts that are alike recover differently.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from prune.common.progress import tracked
from prune.core.cut import apply_plan
from prune.core.plan import Cut, Plan
from prune.core.select.selection import Selected, by_channels
from prune.core.trace.groups import Group
from prune.errors import PlanError, WithinBudgetError
from prune.models.darknet import Darknet
from prune.models.groups import detector_groups
from prune.pruner import depth
from prune.pruner.depth import Block
from prune.pruner.session import Session

MOST_TRIED = 8  # numbers of blocks; of more blocks, evenly spread numbers are tried

Narrow = Callable[[Session], Selected]
"""Chooses channels of a session whose network may have lost blocks already."""


@dataclass(frozen=True)
class DepthTrial:
    """A number of blocks, and the plan that meets the budget with it.

    Attributes:
        blocks: the number of blocks.
        chosen: the plan.
        change: ||map - original map|| / ||original map||, the mean over the heads.
    """

    blocks: int
    chosen: Selected
    change: float


@dataclass(frozen=True)
class DepthChoice:
    """How blocks, and networks that lost some, are compared.

    Attributes:
        images: RGB in 0..1, [N, 3, H, W]; on the device that looks at them.
        criterion: a key of `block_importance.CRITERIA`, for the blocks.
        recovered: carries a plan out and recovers the result; None to compare bare cuts.
    """

    images: Tensor
    criterion: str = "output"
    recovered: Callable[[Plan], Darknet] | None = None


def with_blocks(
    session: Session,
    found: Sequence[Block],
    narrow: Narrow,
    *,
    comparison: DepthChoice,
    number: int,
) -> DepthTrial:
    """Remove so many blocks, the least important first, then cut the widths of the rest.

    Widths do not change where the network is within the budget without the blocks.

    Args:
        session: the checkpoint.
        found: its residual blocks.
        narrow: meets the budget by width.
        comparison: how blocks, and the result, are compared.
        number: how many blocks to remove.

    Raises:
        PlanError: there are not so many blocks, or the budget cannot be met.
    """
    if not number:
        chosen = narrow(session)
        return DepthTrial(0, chosen, _change(session, chosen.plan, comparison))

    net = near(session.net, comparison.images)

    def importance(blocks: Sequence[Block], gone: Sequence[Block]) -> tuple[float, ...]:
        return depth.importance_of(
            net, blocks, criterion=comparison.criterion, images=comparison.images, gone=gone
        )

    removed = depth.choose(found, depth.by_number(found, number), importance, again=True)
    chosen = _narrow(session, [each.block for each in removed], narrow, comparison.criterion)
    return DepthTrial(number, chosen, _change(session, chosen.plan, comparison))


def with_same_blocks(
    session: Session, found: Sequence[Block], before: Plan, narrow: Narrow
) -> Selected:
    """Cut other widths after the blocks that a plan removed; arguments as of `with_blocks`."""
    gone = [block for block in found if set(block.layers) <= set(before.blocks)]
    return _narrow(session, gone, narrow, before.criterion) if gone else narrow(session)


def _narrow(session: Session, gone: Sequence[Block], narrow: Narrow, criterion: str) -> Selected:
    """Remove blocks and cut the widths of the rest; the plan names layers as the original does."""
    names = {
        new: old
        for old, new in depth.skip(session.net, [block.place for block in gone]).names.items()
    }
    net = depth.without(session.net, [block.place for block in gone])
    shallow = replace(session, net=net, groups=detector_groups(net), called=names)
    try:
        chosen = narrow(shallow)
    except WithinBudgetError:  # without the blocks the network is within the budget
        chosen = Selected(Plan("", criterion, ()), ())
    plan = _named_as_before(session.groups, chosen.plan, names)
    plan = replace(plan, blocks=tuple(sorted(layer for block in gone for layer in block.layers)))
    untouched = tuple((names.get(root, root), reason) for root, reason in chosen.untouched)
    return Selected(plan, untouched)


def automatic(
    session: Session, found: Sequence[Block], narrow: Narrow, *, comparison: DepthChoice
) -> tuple[DepthTrial, ...]:
    """Try numbers of blocks; return the trials that meet the budget, the best first.

    Raises:
        PlanError: none does.
    """
    apart = max(1, -(-len(found) // MOST_TRIED))
    trials, reasons = [], []
    numbers = range(0, len(found) + 1, apart)
    for number in tracked(numbers, "numbers of blocks", len(numbers)):
        try:
            trials.append(with_blocks(session, found, narrow, comparison=comparison, number=number))
        except PlanError as error:
            reasons.append(str(error))
    if not trials:
        raise PlanError(reasons[0])
    return tuple(sorted(trials, key=lambda trial: trial.change))


def _named_as_before(groups: Sequence[Group], plan: Plan, names: dict[str, str]) -> Plan:
    """Rewrite a plan for the network without blocks in the names of the original.

    A channel has the same position in a layer of both; only names differ, and a group of the
    original may have a first layer that was removed with a block.
    """
    cuts: list[Cut] = []
    for cut in plan.cuts:
        cuts += by_channels(groups, names[cut.layer], cut.remove).cuts
    return replace(plan, cuts=tuple(cuts))


def near(net: Darknet, images: Tensor) -> Darknet:
    """Return a network on the device of the images: itself, or a copy."""
    here = next(net.parameters()).device == images.device
    return net if here else copy.deepcopy(net).to(images.device)


def _change(session: Session, plan: Plan, comparison: DepthChoice) -> float:
    cut = comparison.recovered or partial(bare, session)
    net, original = (near(each, comparison.images) for each in (cut(plan), session.net))
    return _distance(original, net, comparison.images)


def bare(session: Session, plan: Plan) -> Darknet:
    """Carry a plan out without verification and recovery, to evaluate or time the network."""
    net: Darknet = apply_plan(session.net, session.groups, plan, share=True)
    places = depth.places_of(session.net, plan.blocks)
    return depth.without(net, places) if places else net


@torch.inference_mode()
def _distance(original: Darknet, net: Darknet, images: Tensor) -> float:
    moved = torch.zeros(len(net.heads), dtype=torch.float64)
    whole = torch.zeros(len(net.heads), dtype=torch.float64)
    for batch in torch.split(images, 8):
        pairs = zip(original(batch), net(batch), strict=True)
        for head, (before, after) in enumerate(pairs):
            moved[head] += (after - before).double().square().sum().cpu()
            whole[head] += before.double().square().sum().cpu()
    return float((moved / whole).sqrt().mean())
