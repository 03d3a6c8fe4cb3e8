"""Couplings: each group once, everything that cannot be followed kept with its reason."""

from collections import Counter

import nets
import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from prune.core.trace.groups import Group, trace
from prune.errors import PlanError


def _groups(name: str) -> dict[str, Group]:
    return {group.root: group for group in trace(nets.net(name), nets.CASES[name].shape)}


def _places(group: Group, channel: int) -> set[tuple[str, str, int]]:
    return {(s.name, s.side, position) for s in group.slots for position in s.index[channel]}


@pytest.mark.parametrize("name", nets.CASES)
def test_every_output_of_every_layer_is_in_one_group_once(name: str) -> None:
    net = nets.net(name)
    found: Counter[tuple[str, int]] = Counter()
    for group in trace(net, nets.CASES[name].shape):
        assert all(len(slot.index) == group.channels for slot in group.slots)
        assert group.producers[0] == group.root
        for slot in group.slots:
            if slot.name in group.producers and slot.side == "out":
                found.update((slot.name, p) for positions in slot.index for p in positions)
    layers = {
        n: m for n, m in net.named_modules() if isinstance(m, (nn.Linear, *nets.CONVOLUTIONS))
    }
    expected = {(n, i) for n, m in layers.items() for i in range(nets.outputs(m))}
    assert found == Counter(expected)


@pytest.mark.parametrize("name", nets.CASES)
def test_what_must_stay_is_kept_with_its_reason(name: str) -> None:
    kept = {root: group.protected for root, group in _groups(name).items() if group.protected}
    assert kept.keys() == nets.CASES[name].kept.keys()
    for root, word in nets.CASES[name].kept.items():
        assert word in str(kept[root])


# What leaves with a channel, found by reading the network: root, channel -> all it takes along.
BY_HAND: dict[str, dict[tuple[str, int], set[tuple[str, str, int]]]] = {
    "residual": {
        ("stem.0", 2): {
            *((f"{n}.{i}", "out", 2) for n in ("stem", "out1", "out2") for i in (0, 1)),
            *((n, "in", 2) for n in ("in1.0", "in2.0", "end")),
        },
    },
    "concat": {
        ("a.0", 1): {("a.0", "out", 1), ("a.1", "out", 1), ("norm", "out", 9), ("end", "in", 9)},
        ("b.0", 1): {
            *(("b.0", "out", 1), ("b.1", "out", 1), ("norm", "out", 1)),
            *(("end", "in", 1), ("c.0", "in", 1)),
        },
    },
    "self_concat": {
        ("a.0", 3): {("a.0", "out", 3), ("a.1", "out", 3), ("b.0", "in", 3), ("b.0", "in", 7)},
    },
    "depthwise": {
        ("stem.0", 4): {
            *((f"{n}.{i}", "out", 4) for n in ("stem", "depth") for i in (0, 1)),
            ("point.0", "in", 4),
        },
    },
    "grouped": {
        ("stem.0", 1): {
            *(("stem.0", "out", 1), ("stem.0", "out", 4), ("stem.1", "out", 1)),
            *(("stem.1", "out", 4), ("two.0", "in", 1), ("two.0", "in", 4)),
        },
    },
    "implicit": {
        ("stem.0", 5): {
            *(("stem.0", "out", 5), ("stem.1", "out", 5)),
            *(("shift", "out", 5), ("mid.0", "in", 5)),
        },
    },
    "flat": {
        ("b.0", 1): {
            *(("b.0", "out", 1), ("b.1", "out", 1)),
            *(("hidden", "in", i) for i in (4, 5, 6, 7)),
        },
    },
    "chunk": {
        ("stem.0", 1): {
            *((f"stem.{i}", "out", p) for i in (0, 1) for p in (1, 5)),
            *(("inner.0", "in", 1), ("inner.0", "out", 1), ("inner.1", "out", 1)),
            *(("join.0", "in", p) for p in (1, 5, 9)),
        },
        ("join.0", 0): {
            *((f"join.{i}", "out", p) for i in (0, 1) for p in (0, 3)),
            *(("part.0", "in", 0), ("end", "in", 5), ("end", "in", 8)),
        },
    },
    "attention": {("look", 0): {("look", "out", 0)}},
}


@pytest.mark.parametrize(
    ("name", "root", "channel"), [(n, *key) for n, cases in BY_HAND.items() for key in cases]
)
def test_a_channel_takes_along_what_reading_the_network_says(
    name: str, root: str, channel: int
) -> None:
    assert _places(_groups(name)[root], channel) == BY_HAND[name][root, channel]


@pytest.mark.parametrize("name", ["chain", "residual", "csp", "depthwise", "concat_plus"])
def test_couplings_agree_with_torch_prunings_own_groups(name: str) -> None:
    """Where nothing is tied and nothing refused, its group of one channel is one channel here."""
    net, shape = nets.net(name).float(), nets.CASES[name].shape
    graph = tp.DependencyGraph().build_dependency(net, (torch.rand(shape),))
    modules = dict(net.named_modules())
    names = {module: n for n, module in modules.items()}
    for group in trace(net, shape):
        for channel in range(group.channels):
            (position,) = group.slot(group.root).index[channel]
            theirs = graph.get_pruning_group(
                modules[group.root], tp.prune_conv_out_channels, [position]
            )
            found = {
                (names[dep.layer], _side(dep.pruning_fn.__name__, dep.layer), index)
                for dep, indices in theirs
                if dep.layer in names
                for index in indices
            }
            assert found == _places(group, channel)


def _side(function: str, layer: nn.Module) -> str:
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
    reads = function == "prune_in_channels" and not isinstance(layer, nn.BatchNorm2d)
    return "in" if reads and not depthwise else "out"


def test_protected_outputs_stay() -> None:
    groups = trace(nets.net("csp"), (1, 3, 8, 8), protected=["left.0"])
    kept = {group.root: group.protected for group in groups if group.protected}
    assert kept["left.0"] == "it reaches left.0, whose outputs must stay"
    assert set(kept) == {"left.0", "end"}


def test_a_kept_convolution_still_reads_what_may_go() -> None:
    groups = _groups("chain")
    assert ("c", "in", 0) in _places(groups["b.0"], 0)
    assert groups["b.0"].protected is None


def test_tracing_leaves_the_network_as_it_was() -> None:
    net = nets.net("csp").train()
    net.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    trace(net, (2, 3, 8, 8))
    assert net.training
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert all(not module._forward_hooks for module in net.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_groups_are_the_same_at_any_image_size_and_batch() -> None:
    net = nets.net("pool_up")
    assert trace(net, (1, 3, 8, 8)) == trace(net, (5, 3, 8, 8))
    csp = nets.net("csp")
    assert trace(csp, (1, 3, 8, 8)) == trace(csp, (1, 3, 64, 32))


def test_a_image_the_network_cannot_take_is_named() -> None:
    with pytest.raises(PlanError, match=r"cannot be run with \[1, 4, 8, 8\]"):
        trace(nets.net("chain"), (1, 4, 8, 8))


def test_a_network_without_layers_has_no_groups() -> None:
    assert trace(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)), (1, 3, 8, 8)) == ()


class _Odd(nn.Module):
    """A layer never reached, a normalisation of the image, a depthwise one on the image."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.depth = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1, groups=3)
        self.body, self.end = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)
        self.never = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.end(self.body(self.depth(self.norm(x * 2 - 1))))
        return out


def test_the_images_own_channels_stay_and_unreached_layers_have_no_group() -> None:
    groups = {group.root: group for group in trace(_Odd(), (1, 3, 8, 8))}
    assert groups.keys() == {"depth", "body", "end"}
    assert groups["depth"].protected == "it is joined with the network's input"
    assert groups["body"].protected is None
