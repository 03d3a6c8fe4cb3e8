"""A whole run: every group at every ratio, what is in the file already left out."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loguru import logger

from prune import checkpoint
from prune.common.device import cores
from prune.common.files import write_text
from prune.core.cost.cost_model import Costs, costs
from prune.core.importance.criteria import FROM_PICTURES
from prune.core.select.selection import lowest
from prune.core.trace.groups import Group
from prune.data import spec as data
from prune.data import workers
from prune.errors import InputError, PlanError, RunError
from prune.pruner import importance
from prune.pruner.sensitivity import effect
from prune.pruner.sensitivity.masked_evaluation import (
    DIGITS,
    WHOLE,
    MaskedEvaluation,
    Setup,
    Task,
    digest,
    measure,
    opened,
)
from prune.pruner.sensitivity.metrics import METRICS
from prune.pruner.sensitivity.rows import Sensitivity, SensitivityRow, read, to_csv, to_json

LOOKED_AT = (
    64  # pictures of the train split, by criteria that need some; as for the cutting commands
)
BLOCK = 4  # groups that share one run of the network; a stopped run loses those at hand

Progress = Callable[[float, int], None]
"""(cuts judged, of how many)"""


@dataclass(frozen=True)
class SensitivityOptions:
    """What to cut in turn: of every group the int(ratio x channels) lowest by a criterion."""

    ratios: tuple[float, ...]
    criterion: str = "l1"
    scope: str = "group"
    seed: int = 0


@dataclass(frozen=True)
class _Job:
    """One row to come."""

    task: Task
    ratio: float
    first: int  # layer that reads the group

    @property
    def key(self) -> tuple[int, float]:
        return self.task.group, self.ratio


def run(
    setup: Setup,
    wish: SensitivityOptions,
    out: Path,
    *,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Sensitivity:
    """Judge every group at every ratio; write JSON as it goes on, and CSV at the end.

    Args:
        setup: network, pictures and metric.
        wish: what is cut.
        out: the JSON file; where it holds rows of the same run, they are kept. The CSV stands
            beside it.
        jobs: processes, each with its share of the processors.
        progress: called as rows get done.

    Raises:
        InputError: a value that cannot be used, or `out` holds another run.
        PlanError: the criterion cannot score the network.
        RunError: a process died, or the loss is not finite.
    """
    _check(wish, jobs, out)
    if jobs > 1:
        setup = replace(setup, threads=max(1, cores() // jobs))
    bench = opened(setup)
    found = _started(bench, wish, out)
    wanted = _jobs(bench, wish)
    ledger = _ledger(bench)
    done = {(row.index, row.ratio) for row in found.rows}
    blocks = _blocks([job for job in wanted if job.key not in done])
    found = replace(found, complete=False)
    write_text(out, to_json(found))
    for block, values in _measured(setup, blocks, jobs, progress):
        rows = [ledger.row(*pair, found.baseline) for pair in zip(block, values, strict=True)]
        ordered = sorted((*found.rows, *rows), key=lambda row: (row.index, row.ratio))
        found = replace(found, rows=tuple(ordered))
        write_text(out, to_json(found))
    found = replace(found, complete=True)
    write_text(out, to_json(found))
    write_text(out.with_suffix(".csv"), to_csv(found.rows))
    return found


def _check(wish: SensitivityOptions, jobs: int, out: Path) -> None:
    for ratio in wish.ratios:
        if not 0 < ratio < 1:
            raise InputError(f"ratio is {ratio:g}; it must lie between 0 and 1, e.g. 0.5")
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; it must be at least 1, e.g. 2")
    if out.suffix != ".json":
        raise InputError(f"out is {out}; it must end in .json (.csv and .png come beside it)")


def _started(bench: MaskedEvaluation, wish: SensitivityOptions, out: Path) -> Sensitivity:
    """Take what the file holds of this run, or begin with the baseline."""
    about = _about(bench, wish)
    if not out.exists():
        return Sensitivity(about, measure(bench.setup, [WHOLE])[0], (), complete=False)
    found = read(out)
    for key, value in about.items():
        if (other := found.about.get(key)) != value:
            raise InputError(
                f"{out} holds a run with another {key} ({_short(other)}, here {_short(value)}); "
                "remove it or choose another --out"
            )
    return found


def _about(bench: MaskedEvaluation, wish: SensitivityOptions) -> dict[str, object]:
    setup = bench.setup
    return {
        "network": checkpoint.network_id(bench.subject.checkpoint.cfg),
        "weights": importance.fingerprint(bench.subject.net),
        "criterion": wish.criterion,
        "scope": wish.scope,
        "seed": wish.seed,
        "metric": setup.metric,
        "imgsz": setup.imgsz.plain,
        "images": len(bench.pictures),
        "data": digest(bench.pictures),
        "batch_size": setup.batch_size,
        "confidence": setup.confidence,
        "iou": setup.iou,
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."


def _jobs(bench: MaskedEvaluation, wish: SensitivityOptions) -> list[_Job]:
    """List the rows to come, groups in the order in which the network reads them."""
    net, groups = bench.subject.net, bench.subject.groups
    found = _scores(bench, wish)
    inputs = {layer.index: layer.inputs for layer in net.layers}
    jobs = []
    for number, (group, scores) in enumerate(zip(groups, found, strict=True)):
        if scores is None:
            if not group.kept:
                logger.warning(f"note: {group.root} is left out: {wish.criterion} cannot score it")
            continue
        reached = effect.reach(inputs, group)
        if not reached:
            logger.warning(f"note: {group.root} is left out: no layer reads it")
            continue
        for ratio in wish.ratios:
            task = Task(number, tuple(lowest(scores, int(ratio * group.channels))))
            jobs.append(_Job(task, ratio, reached[0]))
    if not jobs:
        raise PlanError(f"criterion {wish.criterion} can score no group that may be cut")
    return sorted(jobs, key=lambda job: (job.first, job.key))


def _scores(bench: MaskedEvaluation, wish: SensitivityOptions) -> importance.Scores:
    pictures = None
    if wish.criterion in FROM_PICTURES:
        train = data.load(bench.setup.data, splits=["train"])
        pictures = importance.Pictures(train, LOOKED_AT, bench.setup.imgsz)
    return importance.scores(
        bench.subject,
        criterion=wish.criterion,
        scope=wish.scope,
        seed=wish.seed,
        pictures=pictures,
        say=lambda line: logger.info(f"note: {line}"),
    )


def _blocks(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Put the jobs of BLOCK groups together."""
    groups = list(dict.fromkeys(job.task.group for job in jobs))
    parts = [set(groups[i : i + BLOCK]) for i in range(0, len(groups), BLOCK)]
    return [[job for job in jobs if job.task.group in part] for part in parts]


@dataclass(frozen=True)
class _Ledger:
    """Turns values into rows: what each cut saves is read off the network's costs."""

    groups: Sequence[Group]
    costs: Costs
    worse: int

    def row(self, job: _Job, value: float, baseline: float) -> SensitivityRow:
        group, count = self.groups[job.task.group], len(job.task.channels)
        kept = self.costs.full.copy()
        kept[job.task.group] -= count
        before, after = self.costs.of(self.costs.full), self.costs.of(kept)
        return SensitivityRow(
            group=group.root,
            index=job.task.group,
            channels=group.channels,
            ratio=job.ratio,
            removed=count,
            macs=before.macs - after.macs,
            params=before.params - after.params,
            value=value,
            drop=round(self.worse * (value - baseline), DIGITS),
        )


def _ledger(bench: MaskedEvaluation) -> _Ledger:
    groups = bench.subject.groups
    counted = costs(bench.subject.net, groups, bench.setup.imgsz.batch())
    return _Ledger(groups, counted, METRICS[bench.setup.metric].worse)


def _measured(
    setup: Setup, blocks: Sequence[list[_Job]], jobs: int, progress: Progress | None
) -> Iterator[tuple[list[_Job], tuple[float, ...]]]:
    """Judge blocks here or in processes; yields them as they are done."""
    total, done = sum(map(len, blocks)), 0.0

    def tick(share: float) -> None:
        nonlocal done
        done += share
        if progress:
            progress(done, total)

    tick(0)
    tasks = [[job.task for job in block] for block in blocks]
    if jobs == 1:
        for block, own in zip(blocks, tasks, strict=True):
            yield block, measure(setup, own, tick)
        return
    with _pool(min(jobs, max(len(blocks), 1))) as pool:
        waiting = {
            pool.submit(measure, setup, own): block
            for block, own in zip(blocks, tasks, strict=True)
        }
        for future in as_completed(waiting):
            yield waiting[future], future.result()
            tick(len(waiting[future]))


def _start_worker() -> None:
    """Start a worker that logs nothing: the main process has said it all."""
    workers.start()
    logger.remove()


@contextmanager
def _pool(size: int) -> Iterator[ProcessPoolExecutor]:
    """Open worker processes; where the block is left by an error, they end at once."""
    others = set(multiprocessing.active_children())
    starting = workers.Context([__name__])
    with ProcessPoolExecutor(size, mp_context=starting, initializer=_start_worker) as pool:
        try:
            yield pool
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise RunError(
                    "a worker process died, perhaps for want of memory; finished rows are kept: "
                    "run the command again with fewer --jobs"
                ) from error
            raise
