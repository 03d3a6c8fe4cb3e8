"""Width and depth together: blocks leave first, then channels of what is left, in one plan.

How many blocks go is decided by looking: every number is tried with the same budget, and the
network whose head maps stay nearest to the original's is taken: as it is after its recovery, if one
follows, since bare cuts that are alike recover differently.
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

# Cuts the widths of a subject that lost blocks already.
Narrow = Callable[[Session], Selected]


@dataclass(frozen=True)
class DepthTrial:
    """A number of blocks, the plan that meets the budget with it, and how far the maps move.

    `change` is ||map - original map|| / ||original map||, the mean over the heads.
    """

    blocks: int
    chosen: Selected
    change: float


@dataclass(frozen=True)
class DepthChoice:
    """What blocks go by, and whole networks.

    Attributes:
        pictures: RGB in 0..1, [N, 3, H, W]; on the device that is to look at them.
        criterion: a name in `worth.CRITERIA`, of the blocks.
        recovered: carries a plan out and makes good what it can; None to judge bare cuts.
    """

    pictures: Tensor
    criterion: str = "output"
    recovered: Callable[[Plan], Darknet] | None = None


def with_blocks(
    subject: Session, found: Sequence[Block], narrow: Narrow, *, judge: DepthChoice, number: int
) -> DepthTrial:
    """Take so many blocks out, the least worthy first, then cut widths of what is left.

    Widths stay where the network is within the budget without the blocks.

    Args:
        subject: the checkpoint.
        found: its residual blocks.
        narrow: meets the budget by width.
        judge: what blocks are judged by, and the result.
        number: of blocks.

    Raises:
        PlanError: there are not so many blocks, or the budget cannot be met.
    """
    if not number:
        chosen = narrow(subject)
        return DepthTrial(0, chosen, _change(subject, chosen.plan, judge))

    net = near(subject.net, judge.pictures)

    def score(blocks: Sequence[Block], gone: Sequence[Block]) -> tuple[float, ...]:
        return depth.block_scores(
            net, blocks, criterion=judge.criterion, pictures=judge.pictures, gone=gone
        )

    gone = depth.choose(found, depth.by_number(found, number), score, again=True)
    chosen = _narrowed(subject, [choice.block for choice in gone], narrow, judge.criterion)
    return DepthTrial(number, chosen, _change(subject, chosen.plan, judge))


def with_same_blocks(
    subject: Session, found: Sequence[Block], before: Plan, narrow: Narrow
) -> Selected:
    """Cut other widths after the blocks that a plan took out; arguments as of `with_blocks`."""
    gone = [block for block in found if set(block.layers) <= set(before.blocks)]
    return _narrowed(subject, gone, narrow, before.criterion) if gone else narrow(subject)


def _narrowed(subject: Session, gone: Sequence[Block], narrow: Narrow, criterion: str) -> Selected:
    """Take blocks out and cut widths of what is left, in the names of the whole network."""
    names = {
        new: old
        for old, new in depth.skip(subject.net, [block.place for block in gone]).names.items()
    }
    shallow = _without(subject, gone, called=names)
    try:
        chosen = narrow(shallow)
    except WithinBudgetError:  # without the blocks the network is within the budget
        chosen = Selected(Plan("", criterion, ()), ())
    plan = _named_as_before(subject.groups, chosen.plan, names)
    plan = replace(plan, blocks=tuple(sorted(layer for block in gone for layer in block.layers)))
    whole = tuple((names.get(root, root), reason) for root, reason in chosen.whole)
    return Selected(plan, whole)


def automatic(
    subject: Session, found: Sequence[Block], narrow: Narrow, *, judge: DepthChoice
) -> tuple[DepthTrial, ...]:
    """Try numbers of blocks, the best first; those that cannot meet the budget are left out.

    Raises:
        PlanError: none can.
    """
    apart = max(1, -(-len(found) // MOST_TRIED))
    trials, reasons = [], []
    numbers = range(0, len(found) + 1, apart)
    for number in tracked(numbers, "numbers of blocks", len(numbers)):
        try:
            trials.append(with_blocks(subject, found, narrow, judge=judge, number=number))
        except PlanError as error:
            reasons.append(str(error))
    if not trials:
        raise PlanError(reasons[0])
    return tuple(sorted(trials, key=lambda trial: trial.change))


def _without(subject: Session, gone: Sequence[Block], *, called: dict[str, str]) -> Session:
    net = depth.without(subject.net, [block.place for block in gone])
    groups = detector_groups(net)
    return replace(subject, net=net, groups=groups, called=called)


def _named_as_before(groups: Sequence[Group], plan: Plan, names: dict[str, str]) -> Plan:
    """Say a plan for the network without blocks in the layers of the whole one.

    A channel has one position in a layer in both; only names differ, and a group of the whole
    network may have a first layer that went with a block.
    """
    cuts: list[Cut] = []
    for cut in plan.cuts:
        cuts += by_channels(groups, names[cut.layer], cut.remove).cuts
    return replace(plan, cuts=tuple(cuts))


def near(net: Darknet, pictures: Tensor) -> Darknet:
    """Return a network where the pictures are: itself, or a copy."""
    here = next(net.parameters()).device == pictures.device
    return net if here else copy.deepcopy(net).to(pictures.device)


def _change(subject: Session, plan: Plan, judge: DepthChoice) -> float:
    cut = judge.recovered or partial(bare, subject)
    net, original = (near(each, judge.pictures) for each in (cut(plan), subject.net))
    return _apart(original, net, judge.pictures)


def bare(subject: Session, plan: Plan) -> Darknet:
    """Carry a plan out and do no more: for a look at the network, or at the clock."""
    net: Darknet = apply_plan(subject.net, subject.groups, plan, share=True)
    places = depth.places_of(subject.net, plan.blocks)
    return depth.without(net, places) if places else net


@torch.inference_mode()
def _apart(original: Darknet, net: Darknet, pictures: Tensor) -> float:
    moved = torch.zeros(len(net.heads), dtype=torch.float64)
    whole = torch.zeros(len(net.heads), dtype=torch.float64)
    for batch in torch.split(pictures, 8):
        pairs = zip(original(batch), net(batch), strict=True)
        for head, (before, after) in enumerate(pairs):
            moved[head] += (after - before).double().square().sum().cpu()
            whole[head] += before.double().square().sum().cpu()
    return float((moved / whole).sqrt().mean())
