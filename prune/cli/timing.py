"""A budget in milliseconds: its options, the cut that meets it, what it came to in the end."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from prune.cli import options, ranked
from prune.errors import OutOfReachError, PlanError

if TYPE_CHECKING:
    from prune.budgeted import Wishes
    from prune.latency.plan import Clock
    from prune.models.darknet import Darknet
    from prune.pruning import Subject
    from prune.selection import Selected
    from prune.size import Size

RUNTIMES = ("onnxruntime", "openvino")  # of prune.latency.plan
_WIDER = (0.6, 0.75, 0.9)  # shares of a group that may go where less does not reach


def add_arguments(
    parser: argparse.ArgumentParser, budget: argparse._MutuallyExclusiveGroup
) -> None:
    """Add --latency to the budgets, and where it is measured."""
    budget.add_argument(
        "--latency",
        metavar="B",
        help="time of one picture on this machine to come down to: a share, 0.5, or 20ms",
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
        help="of a run, for --latency (default 0: one a core)",
    )


@dataclass(frozen=True)
class Deadline:
    """Milliseconds that a subject's network is to come down to.

    Attributes:
        args: how its channels are scored.
        subject: the checkpoint as it is.
        clock: what times it.
        limit_ms: of one picture.
    """

    args: argparse.Namespace
    subject: Subject
    clock: Clock
    limit_ms: float

    @property
    def max_ratio(self) -> float:
        """The share of a group that may go at most, where nobody says.

        Time falls slower than width: some layers are no wider than a block, some only move data.
        """
        return min(max(1.25 - self.limit_ms / self.clock.start_ms, 0.0), 1.0)

    def narrow(self, wishes: Wishes, now: Subject) -> Selected:
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
            self.clock,
            limit_ms=self.limit_ms,
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

    def told(self, pruned: Darknet) -> dict[str, object]:
        """Say what was predicted of the pruned network, and what it takes; both nets in turn.

        The network before is timed as it is, in float; the pruned one in the form asked for.
        The prediction is a share of the network's time, said in what that is by now: a machine's
        clock drifts by more than the model errs.
        """
        from prune.latency.plan import compared

        found = compared(self.clock, self.subject.net, pruned)
        drift = found.before_ms / self.clock.before_ms
        return {
            "latency": {
                "runtime": self.clock.form.runtime,
                "int8": self.clock.form.int8,
                "activation": self.clock.form.activation or None,
                "threads": self.clock.setting.threads,
                "before_ms": found.before_ms,
                "after_ms": found.after_ms,
                "ratio": found.ratio.middle,
                "predicted_ms": drift * self.clock.predicted(pruned),
                "limit_ms": drift * self.limit_ms,
            }
        }


def deadline(args: argparse.Namespace, subject: Subject, imgsz: Size) -> Deadline:
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
    from prune.bench.machine import threads_of
    from prune.bench.runtimes import Setting
    from prune.latency.form import Form
    from prune.latency.plan import expect_more, filled, opened

    setting = Setting(threads_of(args.threads or 0), imgsz)
    form = Form(args.runtime or RUNTIMES[0], args.activation or "", args.int8)
    clock = opened(subject, form=form, setting=setting, say=_say)
    limit_ms = wanted * clock.before_ms if is_share else wanted
    expect_more(clock.start_ms, limit_ms, form)  # before minutes are spent on its layers
    return Deadline(args, subject, filled(clock, subject, seed=args.seed, say=_say), limit_ms)


def expect_none(args: argparse.Namespace) -> None:
    """Refuse what only --latency reads where there is another budget.

    Raises:
        PlanError: one of its options was given.
    """
    if args.int8 or args.runtime is not None or args.threads is not None:
        raise PlanError("--runtime, --threads and --int8 are of --latency; leave them out")


def as_text(told: Mapping[str, object]) -> str:
    """Write what `Deadline.told` says as a line."""
    found = told["latency"]
    assert isinstance(found, dict)
    words = [found["runtime"], f"{found['threads']} thread{'s' * (found['threads'] > 1)}"]
    words += ["afterwards in INT8"] * found["int8"]
    words += [f"with {found['activation']}"] * bool(found["activation"])
    return (
        f"latency  {found['before_ms']:.2f} -> {found['after_ms']:.2f} ms measured "
        f"({100 * (found['ratio'] - 1):+.0f} %), {found['predicted_ms']:.2f} predicted, "
        f"{found['limit_ms']:.2f} allowed; {', '.join(words)}"
    )


def amount(text: str) -> tuple[float, bool]:
    """Read 0.5, a share, or 20ms; say whether it is a share."""
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)(ms)?", text.strip().lower())
    value = float(found[1]) if found else 0.0
    if found is None or value <= 0 or (not found[2] and value >= 1):
        raise PlanError(f"--latency is {text!r}; write a share below 1, e.g. 0.5, or 20ms")
    return value, not found[2]


def _say(line: str) -> None:
    sys.stderr.write(f"prune: note: {line}\n")
