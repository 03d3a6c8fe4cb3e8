"""Plan a cut to milliseconds on this machine, and see afterwards whether they came."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from prune.bench.latency import Compared, comparison
from prune.bench.machine import machine
from prune.bench.runtimes import Setting, open_model
from prune.bench.timing import in_turn
from prune.costs import costs
from prune.errors import InputError, PruneError, WithinBudgetError
from prune.export.fold import folded
from prune.export.onnx import draft
from prune.graph import Group
from prune.latency import table as tables
from prune.latency.knapsack import allocate
from prune.latency.layers import Timed, timed, widths
from prune.latency.measure import NETWORKS, knows, measured, step_of, whole_ms
from prune.latency.model import Model, coefficients, total_ms
from prune.latency.table import Table
from prune.limits import Wish, limits
from prune.measured import Scores
from prune.models.darknet import Darknet
from prune.pruning import Subject
from prune.selection import Selected, by_counts

RUNTIMES = ("onnxruntime", "openvino")  # that say what each layer took
ROUNDS = 30
AMISS = 1.25  # times off that a table of other days may be, for a network as it is
Say = Callable[[str], None]


@dataclass(frozen=True)
class Clock:
    """This machine, with what it takes for the layers of a network.

    Attributes:
        table: of layers.
        runtime: one of RUNTIMES.
        setting: threads, picture size and batch.
        before_ms: what the network took when it was measured whole.
        scale: of all predictions, so that this network's is what it took.
    """

    table: Table
    runtime: str
    setting: Setting
    before_ms: float
    scale: float = 1.0

    def model(self, net: Darknet, groups: tuple[Group, ...]) -> Model:
        """Say how long the network, or the same without some blocks, takes with fewer channels."""
        deployed = folded(net)
        of = costs(net, groups, self.setting.shape)
        return Model(
            coefficients(self.table, timed(deployed, self.setting.imgsz)),
            widths(deployed, of),
            self.table.step,
            of.full,
            self.scale,
        )

    def predicted(self, net: Darknet) -> float:
        """Predict the milliseconds of a network as it is."""
        return self.scale * total_ms(self.table, timed(folded(net), self.setting.imgsz))

    def anchored(self, layers: Sequence[Timed]) -> Clock:
        """Scale all predictions so that the network of these layers takes what it took."""
        return replace(self, scale=self.before_ms / total_ms(self.table, layers))


def opened(subject: Subject, *, runtime: str, setting: Setting, seed: int, say: Say) -> Clock:
    """Measure what is not known yet of this machine, and the subject's network as it is.

    Args:
        subject: the checkpoint.
        runtime: one of RUNTIMES.
        setting: threads, size and batch.
        seed: of the random widths that are measured.
        say: told what takes its time.

    Raises:
        InputError: the runtime is not installed or says nothing of its layers, the table of this
            machine is damaged, or the network takes no pictures of this size.
    """
    if runtime not in RUNTIMES:
        raise InputError(f"runtime is {runtime!r}; layers are timed in {' or '.join(RUNTIMES)}")
    _check_size(setting.imgsz, subject.net)
    path = tables.place(runtime, threads=setting.threads)
    if (here := machine([runtime])).busy:
        say(f"the machine is busy, load {here.load} on {here.cores} core(s); times are of that")
    table = tables.load(path) or Table(step_of(runtime, setting), {})
    deployed = folded(subject.net)
    layers = timed(deployed, setting.imgsz)
    with TemporaryDirectory() as folder:
        file = draft(deployed, Path(folder) / "net.onnx", imgsz=setting.imgsz)
        clock = Clock(table, runtime, setting, whole_ms(file, runtime, setting))
    if knows(table, layers):
        clock = clock.anchored(layers)
        if 1 / AMISS <= clock.scale <= AMISS:
            return clock
        say(f"the network takes {clock.scale:.2f} times what {path} says; it is measured anew")
        table = table.without({layer.kind for layer in layers})
    say(f"measuring layers in {runtime}: {NETWORKS} networks of random widths")
    full = measured(table, subject.net, subject.groups, runtime=runtime, setting=setting, seed=seed)
    _keep(full, path, say)
    return replace(clock, table=full).anchored(layers)


def _check_size(imgsz: tuple[int, int], net: Darknet) -> None:
    for side in imgsz:
        if side < 1 or side % net.stride:
            raise InputError(
                f"picture size is {side}; it must be a multiple of the network's stride, "
                f"{net.stride}"
            )


def _keep(table: Table, path: Path, say: Say) -> None:
    """Write the table; where that cannot be, the layers are measured again next time."""
    try:
        tables.save(table, path)
    except PruneError as error:
        say(f"{error}; the layers are measured again next time")
    else:
        say(f"kept in {path}")


def to_latency(
    subject: Subject,
    score: Callable[[Subject], Scores],
    clock: Clock,
    *,
    limit_ms: float,
    criterion: str,
    everywhere: Wish,
    layers: Mapping[str, Mapping[str, object]] | None = None,
) -> Selected:
    """Choose channels until the subject's network is predicted to take at most so long.

    Args:
        subject: the checkpoint, whole or without some blocks.
        score: scores its channels.
        clock: of the whole network.
        limit_ms: what a picture may take.
        criterion: what the scores are of, for the plan to say.
        everywhere: limits of every group; where it rounds to nothing, widths stay whole blocks of
            the runtime.
        layers: limits that differ, by a pattern of layer names.

    Raises:
        WithinBudgetError: it is as fast as that already.
        PlanError: it cannot be so fast.
    """
    model = clock.model(subject.net, subject.groups)
    now = float(model.ms(model.full))
    if now <= limit_ms:
        raise WithinBudgetError(
            f"nothing to remove: the network takes {now:.3g} ms, within {limit_ms:.3g}"
        )
    wish = everywhere if everywhere.round_to > 1 else replace(everywhere, round_to=model.step)
    allowed = limits(subject.groups, wish, layers, called=subject.called)
    scores = score(subject)
    counts = allocate(scores, model.full, allowed, model.ms, budget=limit_ms)
    return by_counts(subject.groups, scores, allowed, counts, criterion=criterion)


def compared(clock: Clock, before: Darknet, after: Darknet) -> Compared:
    """Time two networks as they are deployed."""
    with TemporaryDirectory() as folder:
        runs = []
        for number, net in enumerate((before, after)):
            file = draft(folded(net), Path(folder) / f"{number}.onnx", imgsz=clock.setting.imgsz)
            runs.append(open_model(clock.runtime, file, clock.setting).run)
        times = in_turn(runs, rounds=ROUNDS)
    return comparison(times)
