"""Milliseconds predicted from layers: widths, the table, the model, the knapsack."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime
import public
import pytest
import stacks
import tiny
import torch
from clocks import SyntheticMachine
from numpy.typing import NDArray
from plans import plan_of
from shipped import CFGS, narrow
from torch import Tensor

from prune import checkpoint
from prune.core.cost.cost_model import cost_model
from prune.core.cut import apply_plan
from prune.core.select.constraints import Limit
from prune.core.trace.groups import Group
from prune.errors import InputError, PlanError
from prune.export.fold import folded
from prune.export.onnx import draft
from prune.latency import measure
from prune.latency import table as tables
from prune.latency.form import Form
from prune.latency.knapsack import allocate
from prune.latency.layers import Timed, timed, widths
from prune.latency.measure import knows, measured, random_widths, sampled, step_of, variety
from prune.latency.model import Model, coefficients, total_ms
from prune.latency.table import Sample, Table
from prune.models.darknet import Darknet, build
from prune.models.groups import detector_groups
from prune.runtimes.backends import Setting
from prune.runtimes.compare import File, timed_files

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

FLOAT, INT8 = Form("onnxruntime"), Form("onnxruntime", int8=True)

# What folding leaves: a shift that a 3x3 convolution reads, a control that two layers read; and
# every layer whose widths differ from what it reads, or that counts its own.
ODD = """\
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=12
size=3
stride=2
pad=1
activation=silu
[convolutional]
batch_normalize=1
filters=12
groups=12
size=3
stride=1
pad=1
activation=silu
[convolutional]
filters=24
groups=2
size=3
stride=1
pad=1
activation=leaky
[route]
layers=-1
groups=2
group_id=1
[reorg]
stride=2
[convolutional]
filters=16
size=1
stride=1
activation=leaky
[avgpool]
[convolutional]
filters=16
size=1
stride=1
activation=logistic
[scale_channels]
from=5
[convolutional]
filters=16
size=1
stride=1
activation=leaky
[shortcut]
from=-2,5
weights_type=per_channel
weights_normalization=softmax
activation=linear
[implicit_add]
filters=16
[route]
layers=10
[shift_channels]
from=11
[convolutional]
filters=20
size=3
stride=1
pad=1
activation=linear
[implicit_mul]
filters=20
[route]
layers=14
[control_channels]
from=15
[upsample]
stride=2
[maxpool]
size=2
stride=2
[route]
layers=-1,14,10
[convolutional]
filters=18
size=1
stride=1
activation=linear
[yolo]
mask=0,1,2
anchors=10,10, 16,16, 24,24
classes=1
num=3
"""

NETWORKS: dict[str, Callable[[], Darknet]] = {
    "tiny": lambda: build(tiny.CFG.format(width=32)),
    "residual blocks": stacks.net,
    "yolor": lambda: public.trained(public.yolor_cfg(), decoding="torch"),
    "yolov3-tiny": lambda: public.trained(public.yolov3_tiny_cfg(), decoding="torch"),
    "odd": lambda: build(ODD).eval(),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_widths_of_the_groups_are_those_of_the_cut_network(name: str) -> None:
    _expect_widths_of_cuts(NETWORKS[name](), deployed=folded)


@pytest.mark.parametrize("path", CFGS, ids=lambda path: path.stem)
def test_widths_of_shipped_networks_are_followed(path: Path) -> None:
    """Not folded, which would take most of the time: then their implicit layers are there, too."""
    _expect_widths_of_cuts(narrow(path), deployed=lambda net: net)


def _expect_widths_of_cuts(net: Darknet, *, deployed: Callable[[Darknet], Darknet]) -> None:
    groups = detector_groups(net)
    sides = (2 * net.stride, 3 * net.stride)
    of = cost_model(net, groups, (1, 3, *sides))
    kept = _some(groups, seed=1)
    cut = apply_plan(net, groups, plan_of(groups, _gone(groups, kept)), share=True)
    whole = deployed(net)
    found = widths(whole, of)
    before, after = timed(whole, sides), timed(deployed(cut), sides)
    assert [layer.kind for layer in before] == [layer.kind for layer in after]
    for layers, left in ((before, of.full), (after, kept)):
        wide_in, wide_out = found.of(left)
        np.testing.assert_allclose(wide_in, [layer.channels_in for layer in layers])
        np.testing.assert_allclose(wide_out, [layer.channels_out for layer in layers])


def _samples(net: Darknet, setting: Setting, *, form: Form = FLOAT) -> list[Sample]:
    """Sample a network timed in turn with itself, as it is, which says what that takes."""
    with TemporaryDirectory() as folder:
        path = FLOAT.write(FLOAT.network(net), Path(folder) / "net.onnx", imgsz=setting.imgsz)
        beside = File("onnxruntime", path, setting)
        return sampled(net, form=form, beside=beside, beside_ms=timed_files([beside]).ms())


def test_what_cannot_be_folded_is_timed_and_constants_are_not() -> None:
    kinds = {layer.kind.split()[0] for layer in timed(folded(NETWORKS["odd"]()), (64, 64))}
    assert {"shift_channels", "control_channels", "scale_channels", "reorg", "rest"} < kinds
    assert not kinds & {"implicit_add", "implicit_mul"}


def test_a_layers_kind_says_its_map_down_and_across() -> None:
    layers = timed(build(tiny.CFG.format(width=32)), (320, 64))
    assert layers[0].kind == "convolutional size=3 stride=2 activation=leaky 160x32"
    assert layers[-1].kind == "rest 320x64"
    assert layers[-1].channels_in == sum(layer.channels_in for layer in layers[:-1])


def _some(groups: Sequence[Group], *, seed: int) -> Counts:
    """Keep random widths: whole blocks of one channel are the finest there are."""
    drawn = itertools.islice(random_widths(groups, 1, networks=9, seed=seed), 1, None)
    return next(drawn)


def _gone(groups: Sequence[Group], kept: Counts) -> dict[int, range]:
    return {i: range(group.channels - int(kept[i])) for i, group in enumerate(groups)}


def test_random_widths_are_whole_blocks_or_all_there_is() -> None:
    net = build(tiny.CFG.format(width=36))
    groups = detector_groups(net)
    full = np.array([group.channels for group in groups])
    drawn = list(random_widths(groups, 8, networks=30, seed=0))
    assert (drawn[0] == full).all()
    fixed = np.array([bool(group.protected) for group in groups])
    for kept in drawn:
        assert (kept[fixed] == full[fixed]).all()
        assert ((kept % 8 == 0) | (kept == full)).all()
        assert (kept > 0).all() and (kept <= full).all()
    assert {tuple(kept) for kept in drawn} == {
        tuple(kept) for kept in random_widths(groups, 8, networks=30, seed=0)
    }
    assert len({int(kept[~fixed].max()) for kept in drawn}) > 2


def test_random_widths_of_tied_channels_are_whole_blocks_of_outputs(tmp_path: Path) -> None:
    """Four channels of 32 outputs each, which are two blocks of 16."""
    net = checkpoint.network(checkpoint.load(tiny.grouped(tmp_path, groups=32, width=128)))
    groups = detector_groups(net)
    drawn = np.array(list(random_widths(groups, 16, networks=30, seed=0)))
    tied = [number for number, group in enumerate(groups) if group.channels < group.width]
    assert [groups[number].channels for number in tied] == [4]
    assert set(drawn[:, tied[0]].tolist()) == {1, 2, 3, 4}


# The table


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    samples = [Sample("a 4x4", 3, 8, 0.25), Sample("a 4x4", 3, 8, 0.5), Sample("b", 8, 8, 0.0)]
    table = Table(16, {}).with_samples(samples)
    path = tmp_path / "deep" / "table.json"
    assert tables.load(path) is None
    tables.save(table, path)
    assert tables.load(path) == table
    assert table.samples["a 4x4"] == tuple(samples[:2])


def test_new_samples_take_the_place_of_old_ones_as_wide() -> None:
    old = Table(8, {}).with_samples([Sample("a", 8, 8, 9.0), Sample("a", 8, 16, 1.0)])
    new = [Sample("a", 8, 8, 2.0), Sample("a", 8, 8, 3.0), Sample("b", 8, 8, 4.0)]
    table = old.with_samples(new)
    assert table.samples == {"a": (Sample("a", 8, 16, 1.0), *new[:2]), "b": (new[2],)}
    assert table.without({"a"}).samples == {"b": (new[2],)}
    assert old.samples["a"][0].ms == 9.0


_HEAD = '{"format": "prune-latency/1", "step": %s, "samples": %s}'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"format": "prune-plan/1", "step": 16, "samples": []}',
        *(
            (_HEAD % pair).encode()
            for pair in [
                (0, "[]"),
                ("Infinity", "[]"),
                ('"wide"', "[]"),
                (16, "3"),
                (16, '[["a", 8, 8]]'),
                (16, '[["a", 8, 8, NaN]]'),
                (16, '[["a", 8, -8, 1]]'),
                (16, '[["a", 8, 8, "1"]]'),
                (16, "[[1, 8, 8, 1]]"),
            ]
        ),
    ],
    ids=range(14),
)
def test_a_damaged_table_says_what_to_do(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=r"table\.json is damaged \(.*remove it") as told:
        tables.load(path)
    assert "\n" not in str(told.value)


def test_a_table_lies_in_the_users_cache_by_machine_runtime_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    one, two = (tables.place(FLOAT, threads=number) for number in (1, 2))
    assert tables.place(INT8, threads=1) != one
    assert one.parent == two.parent == tmp_path / "cache" / "prune" / "latency"
    assert one != two
    assert f"onnxruntime-{onnxruntime.__version__.partition('+')[0]}" in one.name
    monkeypatch.setenv("HOME", str(tmp_path))
    for said in ("", "not/absolute"):
        monkeypatch.setenv("XDG_CACHE_HOME", said)
        found = tables.place(FLOAT, threads=1)
        assert found == tmp_path / ".cache" / "prune" / "latency" / one.name


def test_a_table_knows_layers_about_as_wide_as_its_samples() -> None:
    layer = Timed(0, "a", 64, 128)
    samples = [Sample("a", 8 * i, 16 * i, 1.0) for i in range(1, 9)]
    table = Table(8, {}).with_samples(samples)
    assert knows(table, [layer], [8])
    assert knows(table, [Timed(0, "a", 80, 160)], [8])
    assert not knows(table, [Timed(0, "a", 81, 8)], [8])
    assert not knows(table, [Timed(0, "a", 8, 161)], [8])
    assert not knows(table, [layer, Timed(1, "b", 8, 8)], [8, 8])
    assert not knows(Table(8, {}).with_samples(samples[1:]), [layer], [8])


def test_a_table_knows_a_layer_that_can_be_cut_by_samples_of_several_widths() -> None:
    layer = Timed(0, "a", 64, 128)
    alike = Table(8, {}).with_samples([Sample("a", 64, 128, 1.0)] * 10)
    assert knows(alike, [layer], [1]), "it is always as wide"
    assert not knows(alike, [layer], [2])
    two = alike.with_samples([Sample("a", 64, 64, 1.0)])
    assert knows(two, [layer], [2]), "there are no more"
    assert not knows(two, [layer], [8])


def test_layers_are_drawn_in_as_many_widths_as_their_groups_have_blocks() -> None:
    net = build(tiny.CFG.format(width=32))
    groups = detector_groups(net)
    of = widths(net, cost_model(net, groups, (1, 3, 64, 64)))
    drawn = dict(zip(timed(net, (64, 64)), variety(groups, of, 16, seed=0), strict=True))
    by_index = {layer.index: number for layer, number in drawn.items()}
    assert by_index[0] == by_index[1] == 1, "8 and 16 channels are one block"
    assert by_index[2] == 2, "32 are two"
    assert by_index[6] == 1, "a head's outputs stay"
    assert 2 <= by_index[8] <= 4, "both sides have two"


# The model

STEP = 16
TRUE = {"conv": (0.02, 1e-4, 2e-4, 3e-6), "sum": (0.01, 2e-4, 0.0, 0.0), "none": (0, 0, 0, 0)}


def _true_ms(kind: str, wide_in: float, wide_out: float) -> float:
    i, o = (-(-wide // STEP) * STEP for wide in (wide_in, wide_out))
    a, b, c, d = TRUE[kind]
    return float(a + b * i + c * o + d * i * o)


def _table(*, noise: float = 0.0, samples: int = 40) -> Table:
    random = np.random.default_rng(0)
    rows = [
        Sample(kind, i, o, _true_ms(kind, i, o) * (1 + noise * random.normal()))
        for kind in TRUE
        for i, o in random.integers(1, 300, (samples, 2)).tolist()
    ]
    return Table(STEP, {}).with_samples(rows)


def test_the_fit_finds_the_numbers_that_made_the_samples() -> None:
    layers = [Timed(0, "none", 5, 5), Timed(1, "conv", 5, 5), Timed(2, "sum", 5, 5)]
    found = coefficients(_table(), layers)
    np.testing.assert_allclose(found, [TRUE[layer.kind] for layer in layers], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("samples", [8, 40])
def test_noise_in_the_samples_does_not_reach_the_prediction(samples: int) -> None:
    table = _table(noise=0.05, samples=samples)
    assert (coefficients(table, [Timed(0, "conv", 1, 1)]) >= 0).all()
    for i, o in ((48, 48), (128, 256), (300, 40)):
        assert total_ms(table, [Timed(0, "conv", i, o)]) == pytest.approx(
            _true_ms("conv", i, o), rel=0.15
        )


def test_a_layer_that_is_always_as_wide_is_predicted_too() -> None:
    rows = [Sample("first", 3, o, _true_ms("conv", 3, o)) for o in range(8, 73, 8)]
    table = Table(STEP, {}).with_samples(rows)
    for o in (1, 40, 64, 90):
        assert total_ms(table, [Timed(0, "first", 3, o)]) == pytest.approx(_true_ms("conv", 3, o))


def test_channels_cost_by_whole_blocks() -> None:
    table = _table()

    def ms(wide_out: int) -> float:
        return total_ms(table, [Timed(0, "conv", 36, wide_out)])

    assert ms(33) == ms(48) < ms(49) == ms(64)


def test_a_model_of_the_groups_agrees_with_the_layers_of_cut_networks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    SyntheticMachine(block=2).install(monkeypatch)
    monkeypatch.setattr(measure, "NETWORKS", 8)
    net = NETWORKS["odd"]()
    groups = detector_groups(net)
    setting = Setting(1, (2 * net.stride, 4 * net.stride))
    table = measured(Table(2, {}), net, groups, form=FLOAT, setting=setting, seed=0)
    whole = folded(net)
    of = cost_model(net, groups, setting.shape)
    layers = timed(whole, setting.imgsz)
    assert knows(table, layers, variety(groups, widths(whole, of), 2, seed=0))
    model = Model(coefficients(table, layers), widths(whole, of), 2, of.full)
    for kept in random_widths(groups, 1, networks=3, seed=5):
        cut = apply_plan(net, groups, plan_of(groups, _gone(groups, kept)), share=True)
        ms = total_ms(table, timed(folded(cut), setting.imgsz))
        assert float(model.ms(kept)) == pytest.approx(ms)
        whole_ms = sum(sample.ms for sample in _samples(cut, setting))
        assert ms == pytest.approx(whole_ms, rel=0.1)


def test_samples_of_narrow_networks_are_of_the_kinds_of_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its grouped convolution is left one channel a share in some of them."""
    SyntheticMachine().install(monkeypatch)
    net = checkpoint.network(checkpoint.load(tiny.grouped(tmp_path, groups=16)))
    setting = Setting(1, (64, 64))
    table = measured(Table(1, {}), net, detector_groups(net), form=FLOAT, setting=setting, seed=0)
    assert set(table.samples) == {layer.kind for layer in timed(folded(net), setting.imgsz)}
    own = next(own for kind, own in table.samples.items() if "groups" in kind)
    assert {sample.channels_out for sample in own} == {16, 32}


@pytest.mark.parametrize("block", [4, 8, 16])
def test_the_block_of_a_runtime_is_found(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    SyntheticMachine(block=block).install(monkeypatch)
    assert step_of(FLOAT, Setting(1, (64, 64))) == block
    assert step_of(INT8, Setting(1, (64, 64))) == block


def test_layers_add_up_to_what_the_whole_network_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The profile says a half more, since counting slows down."""
    machine = SyntheticMachine()
    machine.install(monkeypatch)
    net = build(tiny.CFG.format(width=32))
    setting = Setting(1, (64, 128))
    samples = _samples(net, setting)
    layers = machine.layers(draft(folded(net), tmp_path / "net.onnx", imgsz=setting.imgsz))
    assert sum(sample.ms for sample in samples) == pytest.approx(sum(layers.values()))
    third = sum(ms for name, ms in layers.items() if "module_list.2/" in name)
    assert samples[2].ms == pytest.approx(third)


def test_layers_are_timed_as_they_are_deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    SyntheticMachine().install(monkeypatch)
    net, setting = build(tiny.CFG.format(width=32)), Setting(1, (64, 128))
    floating = _samples(net, setting)
    samples = _samples(net, setting, form=Form("onnxruntime", "relu", int8=True))
    assert "activation=relu" in samples[2].kind
    assert samples[2].ms < 0.5 * floating[2].ms, "in INT8"
    assert samples[0].ms > 0.5 * floating[0].ms, "what reads the picture stays in float"
    assert samples[2].channels_out == floating[2].channels_out


# The knapsack


def _blocks(
    weights: Sequence[float], step: int, *, together: float = 0.0
) -> Callable[[Counts], Numbers]:
    """Milliseconds by whole blocks of each group, and of each group with the next one."""

    def predict(kept: Counts) -> Numbers:
        whole = np.ceil(kept / step)
        pairs = (whole[:, :-1] * whole[:, 1:]).sum(axis=1)
        ms: Numbers = whole @ np.array(weights) + together * pairs
        return ms

    return predict


def _loss(scores: Sequence[Tensor | None], counts: Sequence[int]) -> float:
    return sum(
        float(own.sort().values[:count].sum())
        for own, count in zip(scores, counts, strict=True)
        if own is not None
    )


def _allowed(channels: int, limit: Limit) -> list[int]:
    """Say in another way what may go: nothing, or what leaves whole multiples within the limit."""
    return [0] + [
        gone
        for gone in range(1, limit.most + 1)
        if (channels - gone) % limit.multiple == 0 and gone < channels
    ]


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_comes_near_the_best_there_is(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    full = random.integers(4, 11, 3)
    scores = [torch.tensor(random.exponential(size=n)) for n in full]
    limits = [Limit(int(n) - 1, int(random.integers(1, 3))) for n in full]
    predict = _blocks(random.uniform(0.5, 2, 3).tolist(), 2, together=0.3)
    ways = itertools.product(*(_allowed(int(n), one) for n, one in zip(full, limits, strict=True)))
    every = np.array(list(ways))
    ms = predict(full - every)
    budget = max(share * float(predict(full[None])[0]), float(ms.min()))
    counts = allocate(scores, full, limits, predict, budget=budget)
    assert float(predict((full - counts)[None])[0]) <= budget
    assert any((counts == way).all() for way in every), "within the limits"
    best = min(_loss(scores, way) for way in every[ms <= budget].tolist())
    assert _loss(scores, counts.tolist()) <= 1.5 * best + 1e-9


def test_what_saves_nothing_is_given_back() -> None:
    """Half a block of the second group would go with the first steps, and then serve nobody."""
    full = np.array([8, 8])
    scores = [torch.full((8,), 1.0), torch.full((8,), 1.1)]
    predict = _blocks([1.0, 1.0], 4)
    counts = allocate(scores, full, [Limit(7), Limit(7)], predict, budget=3.0)
    assert counts.tolist() == [4, 0]


def test_steps_smaller_than_a_block_reach_across_it() -> None:
    full = np.array([64])
    scores = [torch.ones(64)]
    counts = allocate(scores, full, [Limit(63, 2)], _blocks([1.0], 16), budget=2.5)
    assert counts.tolist() == [32]


def test_two_groups_that_share_a_block_leave_it_together() -> None:
    """They are joined: 12 + 12 channels fill two blocks of 16, 8 + 8 or 4 + 12 fill one."""

    def predict(kept: Counts) -> Numbers:
        ms: Numbers = np.ceil(kept.sum(axis=1) / 16)
        return ms

    scores = [torch.ones(12), torch.ones(12)]
    limits = [Limit(4, 4), Limit(4, 4)]
    counts = allocate(scores, np.array([12, 12]), limits, predict, budget=1.0)
    assert counts.tolist() == [4, 4]


def test_groups_without_scores_or_leave_stay_whole() -> None:
    full = np.array([8, 8, 8])
    scores = [None, torch.ones(8), torch.ones(8)]
    limits = [Limit(7), Limit(0, why="it is excluded"), Limit(7)]
    counts = allocate(scores, full, limits, _blocks([1.0] * 3, 1), budget=18.0)
    assert counts.tolist() == [0, 0, 6]


def test_a_latency_nobody_reaches_says_the_least() -> None:
    full = np.array([8, 8])
    scores = [torch.ones(8), None]
    with pytest.raises(PlanError, match=r"latency of 9\.000 ms.*within the limits 10\.000 ms"):
        allocate(scores, full, [Limit(6), Limit(7)], _blocks([1.0, 1.0], 1), budget=9.0)
    counts = allocate(scores, full, [Limit(6), Limit(7)], _blocks([1.0, 1.0], 1), budget=10.0)
    assert counts.tolist() == [6, 0]


def test_a_network_within_the_budget_loses_nothing() -> None:
    full = np.array([8])
    counts = allocate([torch.ones(8)], full, [Limit(7)], _blocks([1.0], 1), budget=8.0)
    assert counts.tolist() == [0]
