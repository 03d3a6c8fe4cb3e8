"""Plan a cut to a fraction of the time that the network takes on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from prune.common.choices import LATENCY_RUNTIMES
from prune.common.notes import Report
from prune.core.cost.cost_model import cost_model
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
from prune.pruner.importance import Importance
from prune.pruner.session import Session
from prune.runtimes import other_processes
from prune.runtimes.backends import Setting
from prune.runtimes.compare import ROUNDS, Compared, File, TimedFiles, comparison, timed_files

AMISS = 1.25  # factor by which an older table may be wrong about a network with nothing cut


@dataclass(frozen=True)
class Clock:
    """This machine, and the times of the layers of a network on it.

    Attributes:
        table: times of layers.
        form: the form in which a network is timed; its runtime is one of LATENCY_RUNTIMES.
        setting: threads, image size and batch.
        before_ms: measured time of the network as it is.
        start_ms: likewise in its form, with nothing cut yet.
        busy: whether other processes used the cores meanwhile.
        scale: factor of all predictions, so that this network's is `start_ms`.
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
        """The setting of layers: on a busy machine one thread, since several wait."""
        return replace(self.setting, threads=1) if self.busy else self.setting

    def model(self, net: Darknet, groups: tuple[Group, ...]) -> Model:
        """Return the time of the network, whole or without some blocks, as a function of widths."""
        deployed = self.form.network(net)
        costs = cost_model(net, groups, self.setting.shape)
        return Model(
            coefficients(self.table, timed(deployed, self.setting.imgsz)),
            widths(deployed, costs),
            self.table.step,
            costs.full,
            self.scale,
        )

    def predicted(self, net: Darknet) -> float:
        """Predict the milliseconds of the pruned network in the form that is timed."""
        deployed, known = self.form.network(net), self.table.samples
        return self.scale * total_ms(self.table, timed(deployed, self.setting.imgsz, known=known))

    def anchored(self, layers: Sequence[Timed]) -> Clock:
        """Scale all predictions so that the network of these layers takes what it took."""
        return replace(self, scale=self.start_ms / total_ms(self.table, layers))


def open_clock(session: Session, *, form: Form, setting: Setting, report: Report) -> Clock:
    """Time the network of a session, with nothing cut, and load the table of this machine.

    Args:
        session: the checkpoint.
        form: the form in which a network is timed.
        setting: threads, image size and batch.
        report: receives a line if the machine is busy.

    Raises:
        InputError: the runtime is not installed or does not report the time of layers, the table
            of this machine is damaged, or the network cannot take images of this size.
    """
    if form.runtime not in LATENCY_RUNTIMES:
        known = " or ".join(LATENCY_RUNTIMES)
        raise InputError(f"runtime is {form.runtime!r}; layers are timed in {known}")
    expect_size(setting.imgsz, session.net)
    here = other_processes.look()
    busy = here.busy(setting.threads)
    layers = replace(setting, threads=1) if busy else setting
    table = tables.load(tables.place(form, threads=layers.threads))
    if note := other_processes.note(here, threads=setting.threads):
        report(note)
    table = table or Table(step_of(form, layers), {})
    return Clock(table, form, setting, *_start(session.net, form, setting), busy)


def fill(clock: Clock, session: Session, *, seed: int, report: Report, anew: bool = False) -> Clock:
    """Measure the layers of the network that a clock does not know, and save its table.

    Args:
        clock: what `open_clock` returned for the session.
        session: the checkpoint.
        seed: of the random widths that are measured.
        report: receives what takes time.
        anew: measure the layers although they are known.
    """
    table, form, setting = clock.table, clock.form, clock.of_layers
    path = tables.place(form, threads=setting.threads)
    deployed = form.network(session.net)
    layers = timed(deployed, setting.imgsz)
    functions = widths(deployed, cost_model(session.net, session.groups, setting.shape))
    known = knows(table, layers, variety(session.groups, functions, table.step, seed=seed))
    if known and not anew:
        clock = clock.anchored(layers)
        # On a busy machine all layers are slow, which does not change their ratios.
        if clock.busy or 1 / AMISS <= clock.scale <= AMISS:
            return clock
        report(
            f"the network takes {clock.scale:.2f} times what {path} predicts; it is measured anew"
        )
    if known:
        others = table.without({layer.kind for layer in layers})
        table = Table(step_of(form, setting), others.samples)
    report(f"measuring layers in {form.called}: {NETWORKS} networks of random widths")
    full = measured(
        table,
        session.net,
        session.groups,
        form=form,
        setting=setting,
        seed=seed,
        whole_ms=clock.start_ms,
    )
    _save(full, path, report)
    return replace(clock, table=full).anchored(layers)


def _save(table: Table, path: Path, report: Report) -> None:
    """Write the table; if that fails, the layers are measured again next time."""
    try:
        tables.save(table, path)
    except PruneError as error:
        report(f"{error}; the layers are measured again next time")
    else:
        report(f"saved in {path}")


def to_latency(
    session: Session,
    importance: Callable[[Session], Importance],
    clock: Clock,
    *,
    limit_ms: float,
    criterion: str,
    everywhere: Constraints,
    layers: Mapping[str, Mapping[str, object]] | None = None,
) -> Selected:
    """Choose channels until the network is predicted to take at most `limit_ms`.

    Args:
        session: the checkpoint, whole or without some blocks.
        importance: computes the importance of its channels.
        clock: of the whole network.
        limit_ms: milliseconds that an image may take.
        criterion: name of the criterion, for the plan.
        everywhere: constraints of every group; where they round to nothing, widths are multiples
            of the runtime's block.
        layers: constraints that differ, by a pattern of layer names.

    Raises:
        WithinBudgetError: the network is within the limit already.
        OutOfReachError: the limit cannot be reached.
    """
    model = clock.model(session.net, session.groups)
    now = float(model.ms(model.full))
    expect_more(now, limit_ms, clock.form)
    constraints = (
        everywhere if everywhere.round_to > 1 else replace(everywhere, round_to=model.step)
    )
    allowed = limits(session.groups, constraints, layers, called=session.called)
    found = importance(session)
    counts = allocate(found, model.full, allowed, model.ms, budget=limit_ms)
    return by_counts(session.groups, found, allowed, counts, criterion=criterion)


def expect_more(ms: float, limit_ms: float, form: Form) -> None:
    """Expect a network to be slower than a limit.

    Raises:
        WithinBudgetError: it is within the limit already.
    """
    if ms <= limit_ms:
        raise WithinBudgetError(
            f"nothing to remove: the network takes {ms:.3g} ms in {form.called}, within "
            f"{limit_ms:.3g}"
        )


def compared(clock: Clock, before: Darknet, after: Darknet) -> Compared:
    """Time a network as it is, in turn with another in the form that is deployed."""
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
