"""Every coupled group of every shipped network is cut once at 50 %, and the cut is proved.

The networks have a sixteenth of their widths: the same layers, coupled the same way. In `make test`
several groups that are far apart leave in one cut; `make prove` takes each alone.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from plans import plan_of

from prune import proof, surgery
from prune.graph import trace
from prune.models.darknet import Darknet
from prune.models.sections import head_path, heads, parse, with_classes, with_options

CFGS = sorted((Path(__file__).parents[1] / "cfg").glob("*.cfg"))
ALONE = int(os.environ.get("PRUNE_RANDOM_NETWORKS", "0")) > 200
HANDS = 3  # cuts that the groups of a network are dealt to


@cache
def _narrow(path: Path) -> Darknet:
    sections = list(with_classes(parse(path.read_text(encoding="utf-8")), 1))
    fixed = {layer for head in heads(sections) for layer in head_path(sections, head)}
    for layer, section in enumerate(sections[1:]):
        if "filters" in section.options and layer not in fixed:
            filters = max(int(section.options["filters"]) // 16, 2)
            sections[layer + 1] = with_options(section, filters=filters)
    torch.manual_seed(0)
    return Darknet(sections).double().eval()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_every_group_is_cut_in_half_and_proved(path: Path) -> None:
    net = _narrow(path)
    shape = (1, 3, net.stride, net.stride)
    groups = trace(net, shape, protected=net.head_convolutions())
    free = [i for i, group in enumerate(groups) if not group.kept]
    assert len(groups) - len(free) == len(net.head_convolutions())
    assert all(groups[i].channels > 1 for i in free)
    hands = len(free) if ALONE else HANDS
    assert free, "a network without groups proves nothing"
    for hand in range(hands):
        chosen = {i: range(0, groups[i].channels - 1, 2) for i in free[hand::hands]}
        plan = plan_of(groups, chosen)
        pruned = surgery.apply(net, groups, plan, share=True)
        proof.prove(net, pruned, groups, plan, shape=shape, tolerance=1e-9)
