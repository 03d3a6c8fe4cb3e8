"""Plan a cut to a part of the time that the network takes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from prune.core.cost.cost_model import costs
from prune.core.select.constraints import Constraints, limits
from prune.core.select.selection import Selected, by_counts
from prune.core.trace.groups import Group
from prune.errors import InputError, PruneError, WithinBudgetError
from prune.export.onnx import expect_size
from prune.latency import table as tables
from prune.latency.form import Form
from prune.latency.knapsack import allocate
from prune.latency.layers import Timed, timed, widths
from prune.latency.measure import NETWORKS, knows, measured, step_of, variety
from prune.latency.model import Model, coefficients, total_ms
from prune.latency.table import Table
from prune.models.darknet import Darknet
from prune.pruner.importance import Scores
from prune.pruner.session import Session
from prune.runtimes import other_processes
from prune.runtimes.backends import Setting
from prune.runtimes.compare import ROUNDS, Compared, File, TimedFiles, comparison, timed_files

RUNTIMES = ("onnxruntime", "openvino")  # that say what each layer took
AMISS = 1.25  # times off that a table of other days may be, for a network with nothing cut
Say = Callable[[str], None]


@dataclass(frozen=True)
class Clock:
    """This machine, with what it takes for the layers of a network.

    Attributes:
        table: of layers.
        form: what is timed of a network; its runtime is one of RUNTIMES.
        setting: threads, image size and batch.
        before_ms: what the network took when it was measured whole, as it is.
        start_ms: likewise in its form, with nothing cut yet.
        busy: whether other processes wanted the cores meanwhile.
        scale: of all predictions, so that this network's is `start_ms`.
    """

    table: Table
    form: Form
    setting: Setting
    before_ms: float
    start_ms: float
    busy: bool
    scale: float = 1.0

    @property
    def of_layers(self) -> Setting:
        """What layers are timed in: threads wait for each other on a busy machine, one does not."""
        return replace(self.setting, threads=1) if self.busy else self.setting

    def model(self, net: Darknet, groups: tuple[Group, ...]) -> Model:
        """Say how long the network, or the same without some blocks, takes with fewer channels."""
        deployed = self.form.network(net)
        of = costs(net, groups, self.setting.shape)
        return Model(
            coefficients(self.table, timed(deployed, self.setting.imgsz)),
            widths(deployed, of),
            self.table.step,
            of.full,
            self.scale,
        )

    def predicted(self, net: Darknet) -> float:
        """Predict the milliseconds of the network, cut, in the form that is timed."""
        deployed, known = self.form.network(net), self.table.samples
        return self.scale * total_ms(self.table, timed(deployed, self.setting.imgsz, known=known))

    def anchored(self, layers: Sequence[Timed]) -> Clock:
        """Scale all predictions so that the network of these layers takes what it took."""
        return replace(self, scale=self.start_ms / total_ms(self.table, layers))


def opened(subject: Session, *, form: Form, setting: Setting, say: Say) -> Clock:
    """Time the subject's network, with nothing cut, and look up what is known of this machine.

    Args:
        subject: the checkpoint.
        form: what is timed of a network.
        setting: threads, size and batch.
        say: told if the machine is busy.

    Raises:
        InputError: the runtime is not installed or says nothing of its layers, the table of this
            machine is damaged, or the network takes no pictures of this size.
    """
    if form.runtime not in RUNTIMES:
        known = " or ".join(RUNTIMES)
        raise InputError(f"runtime is {form.runtime!r}; layers are timed in {known}")
    expect_size(setting.imgsz, subject.net)
    here = other_processes.look()
    busy = here.busy(setting.threads)
    layers = replace(setting, threads=1) if busy else setting
    table = tables.load(tables.place(form, threads=layers.threads))
    if note := other_processes.note(here, threads=setting.threads):
        say(note)
    table = table or Table(step_of(form, layers), {})
    return Clock(table, form, setting, *_start(subject.net, form, setting), busy)


def filled(clock: Clock, subject: Session, *, seed: int, say: Say, anew: bool = False) -> Clock:
    """Measure the layers of the subject's network that a clock does not know; keep its table.

    Args:
        clock: of the subject, as `opened` gave it.
        subject: the checkpoint.
        seed: of the random widths that are measured.
        say: told what takes its time.
        anew: measure them although they are known.
    """
    table, form, setting = clock.table, clock.form, clock.of_layers
    path = tables.place(form, threads=setting.threads)
    deployed = form.network(subject.net)
    layers = timed(deployed, setting.imgsz)
    of = widths(deployed, costs(subject.net, subject.groups, setting.shape))
    known = knows(table, layers, variety(subject.groups, of, table.step, seed=seed))
    if known and not anew:
        clock = clock.anchored(layers)
        # Of a busy machine all layers are slow, which says nothing of their ratios.
        if clock.busy or 1 / AMISS <= clock.scale <= AMISS:
            return clock
        say(f"the network takes {clock.scale:.2f} times what {path} says; it is measured anew")
    if known:
        others = table.without({layer.kind for layer in layers})
        table = Table(step_of(form, setting), others.samples)
    say(f"measuring layers in {form.called}: {NETWORKS} networks of random widths")
    full = measured(
        table,
        subject.net,
        subject.groups,
        form=form,
        setting=setting,
        seed=seed,
        whole_ms=clock.start_ms,
    )
    _keep(full, path, say)
    return replace(clock, table=full).anchored(layers)


def _keep(table: Table, path: Path, say: Say) -> None:
    """Write the table; where that cannot be, the layers are measured again next time."""
    try:
        tables.save(table, path)
    except PruneError as error:
        say(f"{error}; the layers are measured again next time")
    else:
        say(f"kept in {path}")


def to_latency(
    subject: Session,
    score: Callable[[Session], Scores],
    clock: Clock,
    *,
    limit_ms: float,
    criterion: str,
    everywhere: Constraints,
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
        OutOfReachError: it cannot be so fast.
    """
    model = clock.model(subject.net, subject.groups)
    now = float(model.ms(model.full))
    expect_more(now, limit_ms, clock.form)
    wish = everywhere if everywhere.round_to > 1 else replace(everywhere, round_to=model.step)
    allowed = limits(subject.groups, wish, layers, called=subject.called)
    scores = score(subject)
    counts = allocate(scores, model.full, allowed, model.ms, budget=limit_ms)
    return by_counts(subject.groups, scores, allowed, counts, criterion=criterion)


def expect_more(ms: float, limit_ms: float, form: Form) -> None:
    """Refuse a limit that a network is within already.

    Raises:
        WithinBudgetError: it is.
    """
    if ms <= limit_ms:
        raise WithinBudgetError(
            f"nothing to remove: the network takes {ms:.3g} ms in {form.called}, within "
            f"{limit_ms:.3g}"
        )


def compared(clock: Clock, before: Darknet, after: Darknet) -> Compared:
    """Time a network as it is beside another in the form that is deployed."""
    plain = Form(clock.form.runtime)
    return comparison(timed_in_turn(((before, plain), (after, clock.form)), clock.setting))


def _start(net: Darknet, form: Form, setting: Setting) -> tuple[float, float]:
    """Time a network as it is and in its form, milliseconds."""
    plain = Form(form.runtime)
    found = timed_in_turn([(net, plain), (net, form)][: 1 + (form != plain)], setting)
    return found.ms(), found.ms(int(form != plain))


def timed_in_turn(
    files: Sequence[tuple[Darknet, Form]], setting: Setting, *, rounds: int = ROUNDS
) -> TimedFiles:
    """Time networks, each in its form, in turn."""
    with TemporaryDirectory() as folder:
        written = []
        for number, (net, form) in enumerate(files):
            target = Path(folder) / f"{number}.onnx"
            path = form.write(form.network(net), target, imgsz=setting.imgsz)
            written.append(File(form.runtime, path, setting))
        return timed_files(written, rounds=rounds)
