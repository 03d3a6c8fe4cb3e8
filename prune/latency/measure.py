"""Fill the table: networks of random widths, the time of each layer from the runtime's profile.

A profile gives the fraction of a run that each layer takes; the run of a network is timed in turn
with that of the original. So the table contains ratios, whatever the machine does meanwhile, in one
unit: the milliseconds of the original.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from prune.common.progress import tracked
from prune.core.cut import apply_plan
from prune.core.plan import Plan, cut_of
from prune.core.select.constraints import multiple_of
from prune.core.trace.groups import Group
from prune.latency.form import Form
from prune.latency.layers import NOBODY, Timed, Widths, timed
from prune.latency.table import Sample, Table
from prune.models.darknet import Darknet
from prune.quantize.run import quantize_with_noise
from prune.runtimes.backends import Setting
from prune.runtimes.compare import File, timed_files
from prune.runtimes.profiles import calm

Counts = NDArray[np.int64]

NETWORKS = 10  # of random widths, where the table lacks a layer of the network
NUMBERS = 4  # coefficients that are fitted per kind; as many widths are needed
LEAST = 8  # samples of a kind that are enough for a fit
NARROWEST = 0.15  # minimum fraction of its channels that a group keeps
BEYOND = 1.25  # factor beyond the widest sample that a model is used for
ROUNDS = 12  # of each network in turn with the original
_STEP_ROUNDS = 40
_CHAIN = 8  # convolutions; in INT8 the first and the last remain in float


def measured(
    table: Table,
    net: Darknet,
    groups: Sequence[Group],
    *,
    form: Form,
    setting: Setting,
    seed: int,
    whole_ms: float | None = None,
) -> Table:
    """Add samples of a network and of the same in random widths.

    Args:
        table: of this machine.
        net: the network.
        groups: all coupled groups of it.
        form: the form in which they are timed; its runtime is a key of PROFILERS.
        setting: threads, size and batch.
        seed: of the random widths.
        whole_ms: time of the network in its form, with nothing cut; None to measure it.
    """
    deployed = form.network(net)
    known = {layer.kind for layer in timed(deployed, setting.imgsz)}
    samples: list[Sample] = []
    with TemporaryDirectory() as folder:
        path = form.write(deployed, Path(folder) / "whole.onnx", imgsz=setting.imgsz)
        whole = File(form.runtime, path, setting)
        unit = timed_files([whole]).ms() if whole_ms is None else whole_ms
        drawn = list(random_widths(groups, table.step, networks=NETWORKS, seed=seed))
        for kept in tracked(drawn, "layer timing", len(drawn)):
            narrow = apply_plan(net, groups, _plan(groups, kept), share=True)
            samples += sampled(narrow, form=form, beside=whole, beside_ms=unit, known=known)
    return table.with_samples(samples)


def knows(table: Table, layers: Sequence[Timed], drawn: Sequence[int]) -> bool:
    """Return whether a table has enough samples of every layer, of about its width.

    Args:
        table: of this machine.
        layers: of a network.
        drawn: in how many widths each is measured, see `variety`.
    """
    for layer, some in zip(layers, drawn, strict=True):
        own = table.samples.get(layer.kind, ())
        different = {(sample.channels_in, sample.channels_out) for sample in own}
        if len(own) < LEAST or len(different) < min(some, NUMBERS):
            return False
        if layer.channels_in > BEYOND * max(sample.channels_in for sample in own):
            return False
        if layer.channels_out > BEYOND * max(sample.channels_out for sample in own):
            return False
    return True


def variety(groups: Sequence[Group], of: Widths, step: int, *, seed: int) -> list[int]:
    """Count the widths, in and out, that each layer has in the networks that are measured, [L]."""
    kept = np.array(list(random_widths(groups, step, networks=NETWORKS, seed=seed)))  # [n, G]
    pairs = np.stack(of.of(kept), axis=-1)  # [n, L, 2]
    return [len(np.unique(own, axis=0)) for own in pairs.swapaxes(0, 1)]


def random_widths(
    groups: Sequence[Group], step: int, *, networks: int, seed: int
) -> Iterator[Counts]:
    """Draw the channels that each group keeps, [G]: first all, then random multiples of the step.

    A step counts outputs; a channel of a grouped convolution is several of them.
    """
    random = np.random.default_rng(seed)
    steps = np.array([multiple_of(group, step) for group in groups], dtype=np.int64)
    full = np.array([group.channels for group in groups], dtype=np.int64)
    free = np.array([not group.protected for group in groups])
    yield full
    for _ in range(networks - 1):
        # A fraction for the network, and one per group: narrow and wide ones of either kind.
        fraction = random.uniform(NARROWEST, 1) * random.uniform(0.5, 1.5, len(full))
        target = np.ceil(full * np.clip(fraction, NARROWEST, 1) / steps) * steps
        yield np.where(free, np.minimum(target.astype(np.int64), full), full)


def sampled(
    net: Darknet,
    *,
    form: Form,
    beside: File,
    beside_ms: float,
    known: Collection[str] | None = None,
) -> list[Sample]:
    """Time every layer of a network, and what belongs to no layer.

    Args:
        net: the network.
        form: the form in which it is timed.
        beside: a file that it is timed in turn with, in the same setting.
        beside_ms: the time of that file in milliseconds.
        known: see `layers.timed`.
    """
    deployed, setting = form.network(net), beside.setting
    with TemporaryDirectory() as folder:
        path = form.write(deployed, Path(folder) / "net.onnx", imgsz=setting.imgsz)
        own = File(form.runtime, path, setting)
        both = timed_files([beside, own], rounds=ROUNDS)
        profile = calm(form.runtime, path, setting)
    # Profiling slows a run down, but not the fractions of its nodes.
    scale = both.ratio(1).middle * beside_ms / sum(profile.values())
    taken: dict[int, float] = defaultdict(float)
    for name, ms in profile.items():
        found = re.search(r"module_list\.(\d+)/", name)
        taken[int(found[1]) if found else NOBODY] += scale * ms
    return [
        Sample(layer.kind, layer.channels_in, layer.channels_out, taken[layer.index])
        for layer in timed(deployed, setting.imgsz, known=known)
    ]


def step_of(form: Form, setting: Setting) -> int:
    """Measure in what blocks a runtime computes channels on this machine: 16, 8 or 4.

    A block takes as long as a full one: 64 channels take no longer than 52, which fill the last of
    four blocks of 16 by a quarter, or than 60, which fill the last of eight blocks of 8 by half.
    """
    with TemporaryDirectory() as folder:
        files = []
        for channels in (64, 52, 60):
            path = Path(folder) / f"{channels}.onnx"
            chain = _chain(channels)
            onnx.save(quantize_with_noise(chain, form.runtime) if form.int8 else chain, path)
            files.append(File(form.runtime, path, Setting(setting.threads, (40, 40))))
        found = timed_files(files, rounds=_STEP_ROUNDS)
    most, some = (found.ratio(which).middle for which in (1, 2))
    if most > 0.9:
        return 16
    return 8 if some > 0.965 else 4


def _chain(channels: int) -> onnx.ModelProto:
    """Build a chain of convolutions of so many channels on maps of 40 x 40."""
    random = np.random.default_rng(0)
    nodes, weights, read, wide = [], [], "images", 3
    for number in range(_CHAIN):
        kernel = random.normal(0, 0.05, (channels, wide, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{number}"))
        names = [read, f"w{number}"]
        nodes.append(helper.make_node("Conv", names, [f"x{number}"], pads=[1, 1, 1, 1]))
        read, wide = f"x{number}", channels
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 40, 40])
    output = helper.make_tensor_value_info(read, TensorProto.FLOAT, [1, channels, 40, 40])
    graph = helper.make_graph(nodes, "chain", [images], [output], weights)
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])


def _plan(groups: Sequence[Group], kept: Counts) -> Plan:
    """Return the plan that keeps the first so many channels of each group."""
    cuts = tuple(
        cut_of(group, range(int(number), group.channels))
        for group, number in zip(groups, kept, strict=True)
        if number < group.channels
    )
    return Plan("", "random", cuts)
