"""Every coupled group of every shipped network is cut once at 50 %, and the cut is proved.

The networks have a sixteenth of their widths: the same layers, coupled the same way. In `make test`
several groups that are far apart leave in one cut; `make prove` takes each alone.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from plans import plan_of
from shipped import CFGS, narrow

from prune.core import verify
from prune.core.cut import apply_plan
from prune.core.trace.groups import trace

ALONE = int(os.environ.get("PRUNE_RANDOM_NETWORKS", "0")) > 200
HANDS = 3  # cuts that the groups of a network are dealt to


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_every_group_is_cut_in_half_and_proved(path: Path) -> None:
    net = narrow(path)
    shape = (1, 3, net.stride, net.stride)
    groups = trace(net, shape, protected=net.head_convolutions())
    free = [i for i, group in enumerate(groups) if not group.protected]
    assert len(groups) - len(free) == len(net.head_convolutions())
    assert all(groups[i].channels > 1 for i in free)
    hands = len(free) if ALONE else HANDS
    assert free, "a network without groups proves nothing"
    for hand in range(hands):
        chosen = {i: range(0, groups[i].channels - 1, 2) for i in free[hand::hands]}
        plan = plan_of(groups, chosen)
        pruned = apply_plan(net, groups, plan, share=True)
        verify.verify(net, pruned, groups, plan, shape=shape, tolerance=1e-9)
