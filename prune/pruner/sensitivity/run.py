"""A sensitivity run: every group at every ratio, except those that the file contains already."""

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
from prune.checkpoint.reading import Names, open_with_note, reading_of
from prune.common.device import cores
from prune.common.files import write_text
from prune.common.size import Size
from prune.core.cost.cost_model import CostModel, cost_model
from prune.core.importance.own_criteria import find
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
    evaluate_cuts,
    open_setup,
)
from prune.pruner.sensitivity.metrics import METRICS
from prune.pruner.sensitivity.rows import SensitivityResult, SensitivityRow, read, to_csv, to_json

LOOKED_AT = 64  # images of the train split that criteria look at; as for the pruning commands
BLOCK = 4  # groups that share one pass over the images; a stopped run loses the present ones

Progress = Callable[[float, int], None]
"""(cuts evaluated, of how many)"""


@dataclass(frozen=True)
class SensitivityConfig:
    """`prune sensitivity`.

    Attributes:
        weights: the checkpoint, or public weights.
        data: the data set.
        cfg: cfg of public weights; None for what the file says.
        names: class names, or a file with one per line; None for the file's own.
        decoding: how the heads of public weights decode boxes, "exp" or "sigmoid"; None for what
            the cfg and the file say.
        ratios: fractions of each group's channels to cut, each in (0, 1).
        criterion: name of a criterion, or "file.py:name", see `own_criteria.find`; the
            int(ratio x channels) lowest are cut.
        scope: "root" or "group", see `group_importance.channel_importance`.
        seed: of criteria that draw numbers, and of the choice of images.
        metric: "map" or "loss".
        split: the split that is evaluated.
        images: number of its images, evenly spaced; None for all.
        img_size: size that images are fitted into; None for the checkpoint's.
        batch_size: images per batch.
        conf_thres: lowest confidence of a box, in [0, 1).
        iou_thres: overlap above which NMS removes a box, in [0, 1].
        device: see `device.choose`.
        jobs: number of processes, which share the cores.
        out: the JSON file; rows of the same run that it contains are kept. The CSV file is written
            beside it.
    """

    weights: Path = Path("whole_model.pt")
    data: Path = Path("data.yaml")
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75)
    criterion: str = "l1"
    scope: str = "group"
    seed: int = 0
    metric: str = "map"
    split: str = "val"
    images: int | None = None
    img_size: Size | None = None
    batch_size: int = 4
    conf_thres: float = 0.001
    iou_thres: float = 0.65
    device: str = ""
    jobs: int = 1
    out: Path = Path("sensitivity.json")

    def __post_init__(self) -> None:
        for ratio in self.ratios:
            if not 0 < ratio < 1:
                raise InputError(f"ratio is {ratio:g}; it must lie between 0 and 1, e.g. 0.5")
        if self.jobs < 1:
            raise InputError(f"jobs is {self.jobs}; it must be at least 1, e.g. 2")
        if self.out.suffix != ".json":
            raise InputError(
                f"out is {self.out}; it must end in .json (.csv and .png come beside it)"
            )


@dataclass(frozen=True)
class _Job:
    """One row to measure."""

    task: Task
    ratio: float
    first: int  # layer that reads the group

    @property
    def key(self) -> tuple[int, float]:
        return self.task.group, self.ratio


def measure(config: SensitivityConfig, *, progress: Progress | None = None) -> SensitivityResult:
    """Evaluate every group at every ratio; write JSON after each block of groups, CSV at the end.

    Args:
        config: what to cut, and how to evaluate it.
        progress: called as rows are done.

    Raises:
        InputError: a value that cannot be used, or `out` contains another run.
        PlanError: the criterion cannot compare the channels of any group.
        RunError: a process died, or the loss is not finite.
    """
    setup = _setup_of(config)
    bench = open_setup(setup)
    found = _start(bench, config)
    jobs = _jobs(bench, config)
    ledger = _ledger(bench)
    done = {(row.index, row.ratio) for row in found.rows}
    blocks = _blocks([job for job in jobs if job.key not in done])
    found = replace(found, complete=False)
    write_text(config.out, to_json(found))
    for block, values in _evaluate(setup, blocks, config.jobs, progress):
        rows = [ledger.row(*pair, found.baseline) for pair in zip(block, values, strict=True)]
        ordered = sorted((*found.rows, *rows), key=lambda row: (row.index, row.ratio))
        found = replace(found, rows=tuple(ordered))
        write_text(config.out, to_json(found))
    found = replace(found, complete=True)
    write_text(config.out, to_json(found))
    write_text(config.out.with_suffix(".csv"), to_csv(found.rows))
    return found


def _setup_of(config: SensitivityConfig) -> Setup:
    reading = reading_of(config.cfg, config.names, config.decoding)
    opened = open_with_note(config.weights, reading)
    return Setup(
        weights=config.weights,
        data=config.data,
        split=config.split,
        images=config.images,
        imgsz=config.img_size or opened.imgsz,
        batch_size=config.batch_size,
        metric=config.metric,
        confidence=config.conf_thres,
        iou=config.iou_thres,
        device=config.device,
        threads=max(1, cores() // config.jobs) if config.jobs > 1 else None,
        reading=reading,
    )


def _start(bench: MaskedEvaluation, config: SensitivityConfig) -> SensitivityResult:
    """Read what the file contains of this run, or begin with the baseline."""
    about, out = _about(bench, config), config.out
    if not out.exists():
        return SensitivityResult(about, evaluate_cuts(bench.setup, [WHOLE])[0], (), complete=False)
    found = read(out)
    for key, value in about.items():
        if (other := found.about.get(key)) != value:
            raise InputError(
                f"{out} contains a run with another {key} ({_short(other)}, here {_short(value)}); "
                "remove it or choose another --out"
            )
    return found


def _about(bench: MaskedEvaluation, config: SensitivityConfig) -> dict[str, object]:
    setup = bench.setup
    return {
        "network": checkpoint.network_id(bench.session.checkpoint.cfg),
        "weights": importance.fingerprint(bench.session.net),
        "criterion": config.criterion,
        "scope": config.scope,
        "seed": config.seed,
        "metric": setup.metric,
        "imgsz": setup.imgsz.plain,
        "images": len(bench.paths),
        "data": digest(bench.paths),
        "batch_size": setup.batch_size,
        "confidence": setup.confidence,
        "iou": setup.iou,
    }


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 20 else f"{text[:12]}..."


def _jobs(bench: MaskedEvaluation, config: SensitivityConfig) -> list[_Job]:
    """List the rows to measure, groups in the order in which the network reads them."""
    net, groups = bench.session.net, bench.session.groups
    found = _importance(bench, config)
    inputs = {layer.index: layer.inputs for layer in net.layers}
    jobs = []
    for number, (group, own) in enumerate(zip(groups, found, strict=True)):
        if own is None:
            if not group.protected:
                logger.warning(
                    f"note: {group.root} is left out: "
                    f"{config.criterion} cannot compare its channels"
                )
            continue
        reached = effect.reach(inputs, group)
        if not reached:
            logger.warning(f"note: {group.root} is left out: no layer reads it")
            continue
        for ratio in config.ratios:
            task = Task(number, tuple(lowest(own, int(ratio * group.channels))))
            jobs.append(_Job(task, ratio, reached[0]))
    if not jobs:
        raise PlanError(f"criterion {config.criterion} cannot compare the channels of any group")
    return sorted(jobs, key=lambda job: (job.first, job.key))


def _importance(bench: MaskedEvaluation, config: SensitivityConfig) -> importance.Importance:
    images = None
    if find(config.criterion)[1].needs_images:
        train = data.load(bench.setup.data, splits=["train"])
        images = importance.TrainImages(train, LOOKED_AT, bench.setup.imgsz)
    return importance.importance_of(
        bench.session,
        criterion=config.criterion,
        scope=config.scope,
        seed=config.seed,
        images=images,
        report=lambda line: logger.info(f"note: {line}"),
    )


def _blocks(jobs: Sequence[_Job]) -> list[list[_Job]]:
    """Gather the jobs of BLOCK groups each."""
    groups = list(dict.fromkeys(job.task.group for job in jobs))
    parts = [set(groups[i : i + BLOCK]) for i in range(0, len(groups), BLOCK)]
    return [[job for job in jobs if job.task.group in part] for part in parts]


@dataclass(frozen=True)
class _Ledger:
    """Turns values into rows; what each cut saves is computed from the cost model."""

    groups: Sequence[Group]
    costs: CostModel
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
    groups = bench.session.groups
    counted = cost_model(bench.session.net, groups, bench.setup.imgsz.batch())
    return _Ledger(groups, counted, METRICS[bench.setup.metric].worse)


def _evaluate(
    setup: Setup, blocks: Sequence[list[_Job]], jobs: int, progress: Progress | None
) -> Iterator[tuple[list[_Job], tuple[float, ...]]]:
    """Evaluate blocks here or in processes; yield them as they are done."""
    total, done = sum(map(len, blocks)), 0.0

    def tick(fraction: float) -> None:
        nonlocal done
        done += fraction
        if progress:
            progress(done, total)

    tick(0)
    tasks = [[job.task for job in block] for block in blocks]
    if jobs == 1:
        for block, own in zip(blocks, tasks, strict=True):
            yield block, evaluate_cuts(setup, own, tick)
        return
    with _pool(min(jobs, max(len(blocks), 1))) as pool:
        waiting = {
            pool.submit(evaluate_cuts, setup, own): block
            for block, own in zip(blocks, tasks, strict=True)
        }
        for future in as_completed(waiting):
            yield waiting[future], future.result()
            tick(len(waiting[future]))


def _start_worker() -> None:
    """Start a worker that logs nothing: the main process has logged everything."""
    workers.start()
    logger.remove()


@contextmanager
def _pool(size: int) -> Iterator[ProcessPoolExecutor]:
    """Open worker processes; where the block ends by an error, they end at once."""
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
                    "a worker process died, perhaps because memory ran out; finished rows are "
                    "saved: run the command again with fewer --jobs"
                ) from error
            raise
