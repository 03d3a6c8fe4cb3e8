"""Prune the whole network to a latency: cut, time the pruned model, correct, cut again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from prune.common.amounts import read_latency
from prune.common.choices import LATENCY_RUNTIMES
from prune.common.notes import Report
from prune.core.importance.own_criteria import find
from prune.core.select.constraints import Constraints
from prune.core.select.selection import Selected
from prune.errors import OutOfReachError
from prune.latency import plan
from prune.latency.approach import Attempt, Means, approach
from prune.latency.form import Form
from prune.latency.plan import Clock
from prune.pruner.by_budget import BudgetConfig, report_protected, usual_criterion
from prune.pruner.importance import measure
from prune.pruner.result import Latency
from prune.pruner.session import Choice, Session
from prune.pruner.width_and_depth import bare
from prune.runtimes.backends import Setting
from prune.runtimes.machine import threads_of
from prune.runtimes.timing import Ratio

_WIDER = (0.6, 0.75, 0.9)  # max_ratio where a lower one does not reach the target


@dataclass(frozen=True)
class LatencyConfig(BudgetConfig):
    """`prune global --latency`.

    Attributes:
        latency: requested time per image on this machine: a fraction of the original's time, in
            (0, 1), or milliseconds, such as "20ms".
        runtime: "onnxruntime" or "openvino"; None for onnxruntime.
        threads: inference threads; None and 0 for one per core.
        int8: whether the pruned model will be quantised, and is timed in INT8.
    """

    latency: float | str = 0.5
    runtime: str | None = None
    threads: int | None = None
    int8: bool = False

    def choose(self, session: Session, report: Report) -> Choice:
        """See `PruneConfig`.

        Raises:
            PlanError: the latency cannot be reached.
            OffTargetError: the measured time is far from the predicted or requested one.
            InputError: see `latency.plan.open_clock`.
        """

        def note(line: str) -> None:
            report(f"note: {line}")

        clock, target = self._open_clock(session, note)
        clock = plan.fill(clock, session, seed=self.seed, report=note)
        usual = _max_ratio(clock, target)
        everywhere, layers = constraints = self.constraints(session, max_ratio=usual)
        criterion = self.criterion or usual_criterion(self)
        caps = [everywhere.max_ratio]
        if self.max_ratio is None and everywhere.max_ratio == usual:  # nobody has set another
            caps += [cap for cap in _WIDER if cap > usual]
        before: Selected | None = None

        def narrow(limit_ms: float, now: Session) -> Selected:
            choose = partial(
                plan.to_latency,
                now,
                partial(measure, self, criterion=criterion),
                clock,
                limit_ms=limit_ms,
                criterion=find(criterion)[0],
                layers=layers,
            )
            for cap in caps[:-1]:
                with suppress(OutOfReachError):
                    return choose(everywhere=_capped(everywhere, cap))
            return choose(everywhere=_capped(everywhere, caps[-1]))

        def cut(ratio: float) -> Selected:
            nonlocal before
            within = partial(narrow, ratio * clock.before_ms)
            before = self.narrow_and_shorten(session, within, constraints, report, before=before)
            return before

        def predict(chosen: Selected) -> float:
            return clock.predicted(bare(session, chosen.plan)) / clock.before_ms

        def time(chosen: Selected) -> Ratio:
            return plan.compared(clock, session.net, bare(session, chosen.plan)).ratio

        def time_layers() -> None:
            nonlocal clock, before
            clock = plan.fill(clock, session, seed=self.seed, report=note, anew=True)
            before = None

        attempt = approach(target, Means(cut, predict, time, time_layers, note))
        report_protected(attempt.cut, session.net.head_convolutions(), report)
        return Choice(attempt.cut.plan, latency=_describe(attempt, clock, target))

    def _open_clock(self, session: Session, note: Report) -> tuple[Clock, float]:
        """Time the original; return the clock and the target as a ratio of the original's time."""
        amount, is_fraction = read_latency(self.latency)
        setting = Setting(threads_of(self.threads or 0), self.size_for(session))
        form = Form(self.runtime or LATENCY_RUNTIMES[0], self.activation or "", self.int8)
        clock = plan.open_clock(session, form=form, setting=setting, report=note)
        target = amount if is_fraction else amount / clock.before_ms
        if clock.busy and not is_fraction:
            note(
                f"{amount:g} ms are {target:.2f} of the {clock.before_ms:.3g} ms that the network "
                "takes on this busy machine; a fraction, e.g. --latency 0.4, does not depend on "
                "that"
            )
        plan.expect_more(clock.start_ms, target * clock.before_ms, form)  # before minutes pass
        return clock, target


def _max_ratio(clock: Clock, target: float) -> float:
    """Return the maximum fraction of a group's channels to prune where nobody sets one.

    Time falls slower than width: some layers are no wider than a block, others only move data.
    """
    left = target * clock.before_ms / clock.start_ms
    return min(max(1.25 - left, 0.0), 1.0)


def _capped(constraints: Constraints, max_ratio: float) -> Constraints:
    return replace(constraints, max_ratio=max_ratio)


def _describe(attempt: Attempt[Selected], clock: Clock, target: float) -> Latency:
    measured = attempt.measured
    return Latency(
        runtime=clock.form.runtime,
        int8=clock.form.int8,
        activation=clock.form.activation or None,
        threads=clock.setting.threads,
        busy=clock.busy,
        requested=target,
        predicted=attempt.predicted,
        ratio=measured.middle,
        ratio_low=measured.low,
        ratio_high=measured.high,
        before_ms=clock.before_ms,
        after_ms=measured.middle * clock.before_ms,
        predicted_ms=attempt.predicted * clock.before_ms,
        limit_ms=target * clock.before_ms,
    )
