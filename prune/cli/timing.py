"""A budget of time: its options, the cut that meets it, and what that was measured to take."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from prune.cli import options, ranked
from prune.common import streams
from prune.errors import OutOfReachError, PlanError

if TYPE_CHECKING:
    from prune.common.size import Size
    from prune.core.select.selection import Selected
    from prune.latency.approach import Attempt
    from prune.latency.plan import Clock
    from prune.pruner.budget import BudgetOptions
    from prune.pruner.session import Session
    from prune.runtimes.timing import Ratio

    Narrow = Callable[[Session], Selected]
    Deep = Callable[[Narrow, "Selected | None"], Selected]

RUNTIMES = ("onnxruntime", "openvino")  # of prune.latency.plan
_WIDER = (0.6, 0.75, 0.9)  # shares of a group that may go where less does not reach


def add_arguments(
    parser: argparse.ArgumentParser, budget: argparse._MutuallyExclusiveGroup
) -> None:
    """Add --latency to the budgets, and where it is measured."""
    budget.add_argument(
        "--latency",
        metavar="B",
        help="time per image on this machine that is requested: a fraction, 0.5, or 20ms",
    )
    add_place(parser)
    parser.add_argument(
        "--int8",
        action="store_true",
        help="meet --latency in INT8, for a network that prune quantize is to follow",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add --runtime and --threads."""
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="where --latency is measured (default onnxruntime)",
    )
    parser.add_argument(
        "--threads",
        type=options.natural,
        metavar="N",
        help="inference threads when timing for --latency (default 0: one per core)",
    )


@dataclass(frozen=True)
class Deadline:
    """A part of its time that a subject's network is to come down to.

    Attributes:
        args: how its channels are scored.
        subject: the checkpoint as it is.
        clock: what times it.
        target: of the time that the network takes as it is.
    """

    args: argparse.Namespace
    subject: Session
    clock: Clock
    target: float

    @property
    def max_ratio(self) -> float:
        """The share of a group that may go at most, where nobody says.

        Time falls slower than width: some layers are no wider than a block, some only move data.
        """
        left = self.target * self.clock.before_ms / self.clock.start_ms
        return min(max(1.25 - left, 0.0), 1.0)

    def choose(self, wishes: BudgetOptions, deep: Deep) -> tuple[Selected, dict[str, object]]:
        """Cut until the pruned network, timed in turn with the original, is on target.

        Args:
            wishes: how to choose.
            deep: takes out blocks, those of an earlier choice if there is one, and calls what it is
                given to cut the widths of what is left.

        Returns:
            The choice, and what there is to report of its time.

        Raises:
            PlanError: it cannot be so fast.
            OffTargetError: the clock does not agree with the prediction, or no cut is near.
        """
        from prune.latency import plan
        from prune.latency.approach import Means, approach
        from prune.pruner.width_and_depth import bare

        clock = self.clock
        before: Selected | None = None

        def cut(ratio: float) -> Selected:
            nonlocal before
            narrow = partial(self._narrow, wishes, clock, ratio * clock.before_ms)
            before = deep(narrow, before)
            return before

        def predict(chosen: Selected) -> float:
            return clock.predicted(bare(self.subject, chosen.plan)) / clock.before_ms

        def measure(chosen: Selected) -> Ratio:
            return plan.compared(clock, self.subject.net, bare(self.subject, chosen.plan)).ratio

        def measure_layers() -> None:
            nonlocal clock, before
            clock, before = _filled(clock, self.subject, self.args, anew=True), None

        attempt = approach(self.target, Means(cut, predict, measure, measure_layers, _say))
        return attempt.cut, self._report(attempt)

    def _narrow(
        self, wishes: BudgetOptions, clock: Clock, limit_ms: float, now: Session
    ) -> Selected:
        """Choose channels of the subject, whole or without some blocks.

        Raises:
            OutOfReachError: it cannot be so fast.
        """
        from prune.latency.plan import to_latency

        *caps, widest = self._caps(wishes.everywhere.max_ratio)
        choose = partial(
            to_latency,
            now,
            partial(ranked.scores, self.args),
            clock,
            limit_ms=limit_ms,
            criterion=wishes.criterion,
            layers=wishes.layers,
        )
        for cap in caps:
            with suppress(OutOfReachError):
                return choose(everywhere=replace(wishes.everywhere, max_ratio=cap))
        return choose(everywhere=replace(wishes.everywhere, max_ratio=widest))

    def _caps(self, own: float) -> tuple[float, ...]:
        """List what may be tried as `max_ratio`: wider ones only where nobody has named one."""
        if self.args.max_ratio is not None or own != self.max_ratio:
            return (own,)
        return (own, *(cap for cap in _WIDER if cap > own))

    def _report(self, attempt: Attempt[Selected]) -> dict[str, object]:
        """Say what was requested, predicted and measured.

        The network before is timed as it is, in float; the pruned one in the form asked for. All
        milliseconds are those of one clock: a machine's drifts by more than a model errs.
        """
        clock, measured = self.clock, attempt.measured
        return {
            "latency": {
                "runtime": clock.form.runtime,
                "int8": clock.form.int8,
                "activation": clock.form.activation or None,
                "threads": clock.setting.threads,
                "busy": clock.busy,
                "requested": self.target,
                "predicted": attempt.predicted,
                "ratio": measured.middle,
                "ratio_low": measured.low,
                "ratio_high": measured.high,
                "before_ms": clock.before_ms,
                "after_ms": measured.middle * clock.before_ms,
                "predicted_ms": attempt.predicted * clock.before_ms,
                "limit_ms": self.target * clock.before_ms,
            }
        }


def deadline(args: argparse.Namespace, subject: Session, imgsz: Size) -> Deadline:
    """Read --latency, and measure this machine and the network on it.

    Raises:
        PlanError: neither a share nor milliseconds, or options that do not go with them.
        InputError: see `latency.plan.opened`.
    """
    wanted, is_share = amount(args.latency)
    if args.steps != 1 or args.sensitivity or args.allocation:
        raise PlanError(
            "--latency has an allocation of its own, made at once; leave out --allocation, "
            "--sensitivity and --steps"
        )
    from prune.latency.form import Form
    from prune.latency.plan import expect_more, opened
    from prune.runtimes.backends import Setting
    from prune.runtimes.machine import threads_of

    setting = Setting(threads_of(args.threads or 0), imgsz)
    form = Form(args.runtime or RUNTIMES[0], args.activation or "", args.int8)
    clock = opened(subject, form=form, setting=setting, say=_say)
    target = wanted if is_share else wanted / clock.before_ms
    if clock.busy and not is_share:
        _say(
            f"{wanted:g} ms are {target:.2f} of the {clock.before_ms:.3g} ms that the network "
            "takes on this busy machine; a fraction, e.g. --latency 0.4, does not depend on that"
        )
    expect_more(clock.start_ms, target * clock.before_ms, form)  # before minutes are spent
    return Deadline(args, subject, _filled(clock, subject, args), target)


def _filled(
    clock: Clock, subject: Session, args: argparse.Namespace, *, anew: bool = False
) -> Clock:
    from prune.latency.plan import filled

    return filled(clock, subject, seed=args.seed, say=_say, anew=anew)


def expect_none(args: argparse.Namespace) -> None:
    """Refuse what only --latency reads where there is another budget.

    Raises:
        PlanError: one of its options was given.
    """
    if args.int8 or args.runtime is not None or args.threads is not None:
        raise PlanError("--runtime, --threads and --int8 are of --latency; leave them out")


def as_text(told: Mapping[str, object]) -> str:
    """Write what `Deadline.choose` reports, in two lines."""
    found = told["latency"]
    assert isinstance(found, dict)
    words = [found["runtime"], f"{found['threads']} thread{'s' * (found['threads'] > 1)}"]
    words += ["afterwards in INT8"] * found["int8"]
    words += [f"with {found['activation']}"] * bool(found["activation"])
    return (
        f"latency  {found['before_ms']:.2f} -> {found['after_ms']:.2f} ms measured, ratio "
        f"{found['ratio']:.3f} ({found['ratio_low']:.3f} to {found['ratio_high']:.3f})\n"
        f"         {found['predicted']:.3f} predicted, {found['requested']:.3g} requested; "
        f"{', '.join(words)}"
    )


def amount(text: str) -> tuple[float, bool]:
    """Read 0.5, a share, or 20ms; say whether it is a share."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms)?", text.strip().lower())
    value = float(found[1]) if found else 0.0
    if found is None or value <= 0 or (not found[2] and value >= 1):
        raise PlanError(f"--latency is {text!r}; write a share below 1, e.g. 0.5, or 20ms")
    return value, not found[2]


def _say(line: str) -> None:
    streams.log(f"prune: note: {line}")
