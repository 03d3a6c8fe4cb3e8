"""Every coupled group of every shipped network is cut once by half, and the cut is verified.

The networks have a sixteenth of their widths: the same layers, coupled the same way. Usually
several groups that are far apart are cut at once; the slow test cuts each alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from plans import plan_of
from shipped import CFGS, narrow

from prune.core.cut import apply_plan
from prune.core.trace.groups import trace
from prune.core.verify import verify

TOGETHER = 3  # cuts that the groups of a network are divided between


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "alone",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["several at once", "each alone"],
)
@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_every_group_is_cut_in_half_and_verified(path: Path, alone: bool) -> None:
    net = narrow(path)
    shape = (1, 3, net.stride, net.stride)
    groups = trace(net, shape, protected=net.head_convolutions())
    free = [i for i, group in enumerate(groups) if not group.protected]
    assert len(groups) - len(free) == len(net.head_convolutions())
    assert all(groups[i].channels > 1 for i in free)
    assert free, "a network without groups verifies nothing"
    cuts = len(free) if alone else TOGETHER
    for cut in range(cuts):
        chosen = {i: range(0, groups[i].channels - 1, 2) for i in free[cut::cuts]}
        plan = plan_of(groups, chosen)
        pruned = apply_plan(net, groups, plan, share=True)
        verify(net, pruned, groups, plan, shape=shape, tolerance=1e-9)
