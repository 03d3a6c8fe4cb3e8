"""Prune a checkpoint end to end: open, choose, cut, verify, recover, save."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from prune import checkpoint
from prune.checkpoint.reading import note_reading, reading_of
from prune.common.files import expect_writable, together
from prune.common.inputs import naming
from prune.common.notes import Report, silent
from prune.core.plan import to_json
from prune.errors import PlanError
from prune.pruner import session
from prune.pruner.config import PruneConfig
from prune.pruner.result import (
    Change,
    CutResult,
    PrunedGroup,
    PruneResult,
    RecoveryStep,
    RemovedBlock,
    Verification,
)
from prune.pruner.session import Choice, Pruned, Session

if TYPE_CHECKING:
    from prune.pruner.recovery import Recovery

Show = Callable[[CutResult], None]


def prune(
    config: PruneConfig, *, report: Report = silent, show: Show = lambda _: None
) -> PruneResult:
    """Prune a checkpoint as a config says, verify and recover it, and only then write it.

    Args:
        config: the config of one command, such as `by_budget.GlobalConfig`.
        report: receives one line per remark and recovery step.
        show: receives what is removed as soon as it is known, before the cut is verified.

    Raises:
        PruneError: an input cannot be used, or the cut cannot be made.
        VerificationError: the pruned model differs from the masked original.
    """
    out = None if config.dry_run else config.out
    targets = [path for path in (config.plan_out, out) if path is not None]
    for path in targets:
        expect_writable(path)
    reading = reading_of(config.cfg, config.names, config.decoding)
    opened = session.open_session(config.weights, reading)
    note_reading(config.weights, opened.checkpoint, reading)
    recover = _prepare_recovery(config, opened)
    choice = config.choose(opened, report)
    # What a plan says is to blame for a cut that cannot be made: its file is named.
    with naming(choice.source, PlanError) if choice.source else nullcontext():
        made_by = choice.plan.made_by or config.command
        pruned = session.cut_session(opened, choice.plan, made_by=made_by)
    cut = _describe(pruned, choice)
    show(cut)
    result = session.as_checkpoint(opened, pruned, seed=config.seed)
    difference = session.verify(opened, pruned, result, seed=config.seed)
    steps: list[RecoveryStep] = []
    if recover is not None:
        result, steps = recover.run(pruned, result, report)
    with together(*targets) as parts:
        if config.plan_out is not None:
            parts[0].write_text(to_json(pruned.plan), encoding="utf-8")
        if out is not None:
            checkpoint.save_into(result, parts[-1])
    return PruneResult(
        **vars(cut),
        proof=Verification(difference),
        out=None if out is None else str(out),
        recovery=tuple(steps),
        latency=choice.latency,
    )


def _prepare_recovery(config: PruneConfig, opened: Session) -> Recovery | None:
    if not config.recovers:
        return None
    from prune.pruner import recovery  # here: it imports all that reads and evaluates images

    return recovery.prepare(config, opened)


def _describe(pruned: Pruned, choice: Choice) -> CutResult:
    before, after = pruned.before, pruned.after
    return CutResult(
        params=Change(before.params, after.params),
        macs=Change(before.macs, after.macs),
        groups=tuple(
            PrunedGroup(cut.layer, cut.channels, cut.channels - len(cut.remove), cut.members)
            for cut in pruned.plan.cuts
        ),
        blocks=tuple(
            RemovedBlock(
                block.layers,
                choice.block_importance.get(block.place.shortcut),
                block.params,
                block.macs,
            )
            for block in pruned.blocks
        ),
    )
