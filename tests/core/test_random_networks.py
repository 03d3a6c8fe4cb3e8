"""Random networks and random cuts: pruned equals masked, or the network says what it needs whole.

200 networks in `make test`; `make prove` sets PRUNE_RANDOM_NETWORKS to 2,000 and prints the tally.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import nets
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from plans import plan_of
from random_nets import PICTURES, SIDE, STEPS, RandomNet, Step
from torch import Tensor, nn

import prune
from prune.core import verify
from prune.core.cut import apply_plan
from prune.core.plan import Plan
from prune.core.trace.groups import Group
from prune.errors import PlanError

CASES = int(os.environ.get("PRUNE_RANDOM_NETWORKS", "200"))
SHARES = 4  # tests, so that several processes may take part

NUMBERS = re.compile(r"\d[\d, ]*|\[.*\]|(layers|values)[\w.]*")
MISSED = "without one of its channels"  # how a trial cut on shapes begins its objection

steps = st.builds(
    Step,
    st.sampled_from([*(name for name in STEPS if name != "mixed"), "conv", "conv", "mixed"]),
    st.integers(0, 3),
    st.integers(0, 7),
    st.integers(0, 23),
)
programs = st.lists(steps, min_size=2, max_size=9).map(tuple)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Counter[str]]:
    """Count what was found; print it at the end where many networks were asked for."""
    counts: Counter[str] = Counter()
    yield counts
    if CASES > 200:
        capture = request.config.pluginmanager.getplugin("capturemanager")
        assert capture is not None
        with capture.global_and_fixture_disabled():
            print("", *(f"{n:7,} {what}" for what, n in counts.most_common()), sep="\n")


def _inputs(seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.rand(2, channels, SIDE, SIDE, generator=generator, dtype=torch.float64)
        for channels in PICTURES
    )


def _plan(groups: tuple[Group, ...], seed: int) -> Plan:
    """Take any channels off any groups, and leave something of each."""
    random = Random(seed)
    chosen = {
        i: random.sample(range(group.channels), random.randint(0, group.channels - 1))
        for i, group in enumerate(groups)
        if not group.protected
    }
    return plan_of(groups, chosen)


def _agrees(module: nn.Module) -> bool:
    """Say whether a layer's attributes are what its weights are."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        pair = [module.out_channels, module.in_channels // module.groups]
        if module.transposed:
            pair = [module.in_channels, module.out_channels // module.groups]
        return list(module.weight.shape[:2]) == pair
    if isinstance(module, nn.Linear):
        return list(module.weight.shape) == [module.out_features, module.in_features]
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        return len(module.running_mean) == module.num_features
    return True


def _check_replay(graph: prune.Graph, plan: Plan, smaller: nn.Module) -> None:
    """Carry the plan out again, from its file alone."""
    assert isinstance(graph.model, RandomNet)
    shapes = tuple((key, tuple(t.shape)) for key, t in graph.model.state_dict().items())
    plan = replace(plan, inputs=graph.inputs, keep=graph.keep, shapes=shapes)
    fresh = RandomNet(graph.model.program)
    again = prune.cut(fresh, prune.from_json(prune.to_json(plan)))
    left = {key: tensor.shape for key, tensor in smaller.state_dict().items()}
    assert {key: tensor.shape for key, tensor in again.state_dict().items()} == left


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("share", range(SHARES))
@settings(
    max_examples=-(-CASES // SHARES),
    deadline=None,
    derandomize=CASES <= 200,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
@given(program=programs, seed=st.integers(0, 2**16))
def test_a_random_network_is_cut_rightly_or_says_why_not(
    program: tuple[Step, ...], seed: int, share: int, tally: Counter[str]
) -> None:
    net = nets.settled(lambda: RandomNet(program), seed=seed)
    tally["networks"] += 1
    try:
        graph = prune.trace(net, _inputs(seed))
    except PlanError as error:
        assert str(error).startswith("nothing in the network can be cut: "), error
        assert MISSED not in str(error)
        tally["networks refused whole"] += 1
        return
    tally["groups"] += len(graph.groups)
    for reason in graph.protected.values():
        assert MISSED not in reason, "the trace had overlooked a coupling"
        tally[f"groups kept: {NUMBERS.sub('#', reason)}"] += 1
    plan = _plan(graph.groups, seed)
    smaller = apply_plan(net, graph.groups, plan)
    assert all(map(_agrees, smaller.modules()))
    for other in (seed, seed + 1):
        given = _inputs(other)
        verify.verify_on(net, smaller, graph.groups, plan, inputs=given, tolerance=1e-9)
    if seed % 8 == 0:
        _check_replay(graph, plan, smaller)
    tally["networks cut"] += 1
    tally["channels cut"] += sum(len(cut.remove) for cut in plan.cuts)
