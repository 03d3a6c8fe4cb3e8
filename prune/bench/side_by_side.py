"""How long files take in the runtimes of this machine, side by side, and which to deploy."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from prune.bench import bars
from prune.bench.pairs import paired
from prune.bench.rows import Pair, advise, measure, name_of
from prune.checkpoint.convert import Reading
from prune.checkpoint.reading import Names, reading_of
from prune.common.files import expect_writable
from prune.common.notes import Report, silent
from prune.common.progress import tracked
from prune.common.size import Size
from prune.data import spec
from prune.data.spec import DataSpec
from prune.errors import CheckpointError, DataError
from prune.evaluate.runner import READ, Runner, open_weights
from prune.evaluate.validation import collect_split
from prune.runtimes import doubts
from prune.runtimes.machine import Machine, machine, threads_of
from prune.runtimes.profiles import Layers, slowest
from prune.runtimes.timing import WARM_UP


@dataclass(frozen=True)
class BenchConfig:
    """What is timed, and how; the options of `prune bench`.

    Attributes:
        files: .onnx, .pt, .pth, .weights or .param; the first is what others are compared with.
        cfg, names, decoding: how public weights are read, see `reading_of`.
        img_size: height and width in pixels; None: what each file says.
        batch_size: images per run, from 1; None: what each file says, or 1.
        threads: of a run; 0: one thread per core.
        runtime: names with commas between them, "onnxruntime,torch"; a .pt is then exported for
            those that read ONNX. None: those installed that read the files as they are.
        rounds: timed runs of each file, from 1.
        seed: of the order in each round.
        data: a data set to evaluate the files on; None: they are only timed.
        split: of the data.
        profile: list the slowest layers of each file.
        png: draw the milliseconds as bars into this file, .png, .svg or .pdf.
    """

    files: tuple[Path, ...]
    cfg: Path | None = None
    names: Names | None = None
    decoding: str | None = None
    img_size: Size | None = None
    batch_size: int | None = None
    threads: int = 0
    runtime: str | None = None
    rounds: int = 50
    seed: int = 0
    data: Path | None = None
    split: str = "val"
    profile: bool = False
    png: Path | None = None


@dataclass(frozen=True)
class BenchRow:
    """A file in a runtime.

    Attributes:
        file: as the config names it.
        runtime: where it ran.
        exported: whether the runtime read an ONNX file that was written from it.
        shape: of a run, N, C, H, W.
        precision: at which its convolutions were really computed.
        median_ms, p10_ms, p90_ms: milliseconds per run.
        runs: how many were timed.
        ratio_to_first: time as a multiple of that of the first row; ratio_low and ratio_high are
            its 95 % confidence interval.
        load_ms: milliseconds from the file to the end of the first run.
        peak_mb: megabytes that it adds to a bare process; None where that cannot be measured.
        bytes: of the file.
        map: mAP@.5:.95 in 0 to 1; None where it was not evaluated.
        slowest_ms: milliseconds of the slowest layers; None where the runtime has no profile, or
            none is requested.
    """

    file: Path
    runtime: str
    exported: bool
    shape: tuple[int, int, int, int]
    precision: str
    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    ratio_to_first: float
    ratio_low: float
    ratio_high: float
    load_ms: float
    peak_mb: float | None
    bytes: int
    map: float | None
    slowest_ms: Layers | None = None


@dataclass(frozen=True)
class Recommendation:
    """Which file to deploy in which runtime, and why; `exported` as in a row."""

    file: Path
    runtime: str
    why: str
    exported: bool


@dataclass(frozen=True)
class BenchResult:
    """Every file in every runtime that could run it.

    Attributes:
        rows: in the order of the config.
        notes: what was not run or not evaluated, and why.
        machine: what was measured on.
        threads: of a run.
        deploy: the recommendation.
        profiled: whether the rows have their slowest layers.
    """

    rows: tuple[BenchRow, ...]
    notes: tuple[str, ...]
    machine: Machine
    threads: int
    deploy: Recommendation
    profiled: bool

    @property
    def conditions(self) -> str:
        """Say in one line on what and how was measured."""
        first, here = self.rows[0], self.machine
        shape = " x ".join(map(str, first.shape))
        cores = f"{self.threads} of {here.cores} core(s)"
        return f"{here.cpu}, {cores}, {shape}, {first.runs} runs each, in turn"

    def document(self) -> dict[str, object]:
        """Return the result as plain values, as `prune bench --json` prints it."""
        rows = [{**vars(row), "file": str(row.file)} for row in self.rows]
        for row in rows:
            if not self.profiled:
                del row["slowest_ms"]
        deploy = {"file": str(self.deploy.file), "runtime": self.deploy.runtime}
        return {
            "rows": rows,
            "notes": list(self.notes),
            "machine": vars(self.machine) | {"threads": self.threads},
            "deploy": {**deploy, "why": self.deploy.why},
        }


def compare(config: BenchConfig, *, report: Report = silent) -> BenchResult:
    """Open files in runtimes, evaluate them if there is a data set, time them in turn.

    Raises:
        InputError: a file, a runtime or a size that cannot be used, or nothing is left to time.
        CheckpointError: weights that cannot be read.
        DataError: the split cannot be used.
    """
    if config.png:
        bars.expect_format(config.png)
        expect_writable(config.png)
    reading = reading_of(config.cfg, config.names, config.decoding)
    threads = threads_of(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        pairs, notes = paired(
            config.files,
            Path(folder),
            reading=reading,
            imgsz=config.img_size,
            batch=config.batch_size,
            threads=threads,
            runtimes=config.runtime,
        )
        here = machine(sorted({pair.runtime for pair in pairs}))
        doubts.note_if_busy(report, threads=threads)
        shapes = sorted({pair.setting.shape for pair in pairs})
        if len(shapes) > 1:  # their times do not compare
            report(f"note: the files take different batches: {', '.join(map(str, shapes))}")
        maps, not_evaluated = _maps(config, pairs, reading, report) if config.data else ({}, [])
        measured = measure(
            pairs,
            rounds=config.rounds,
            seed=config.seed,
            maps=maps,
            watch=partial(tracked, name="timing", total=WARM_UP + config.rounds),
        )
        rows = tuple(
            BenchRow(
                file=row.pair.file,
                runtime=row.pair.runtime,
                exported=row.pair.exported,
                shape=row.pair.setting.shape,
                precision=row.precision,
                median_ms=row.spread.median,
                p10_ms=row.spread.p10,
                p90_ms=row.spread.p90,
                runs=config.rounds,
                ratio_to_first=row.ratio_to_first.middle,
                ratio_low=row.ratio_to_first.low,
                ratio_high=row.ratio_to_first.high,
                load_ms=row.load_ms,
                peak_mb=None if row.peak_bytes is None else row.peak_bytes / 1e6,
                bytes=row.bytes,
                map=row.map,
                slowest_ms=slowest(row.pair.runtime, row.pair.source, row.pair.setting)
                if config.profile
                else None,
            )
            for row in measured.rows
        )
    doubts.note_if_unsure(
        report,
        [row.ratio_to_first for row in measured.rows],
        remedy="more --rounds narrow that, or an idle machine",
    )
    advice = advise(measured)
    chosen = advice.row.pair
    result = BenchResult(
        rows=rows,
        notes=(*notes, *not_evaluated, *measured.refused),
        machine=here,
        threads=threads,
        deploy=Recommendation(chosen.file, chosen.runtime, advice.why, chosen.exported),
        profiled=config.profile,
    )
    if config.png:
        _draw(result, config.png)
    return result


def _draw(result: BenchResult, target: Path) -> None:
    bars.bars(
        [f"{row.file.name}\n{row.runtime}, {row.precision}" for row in result.rows],
        [(row.p10_ms, row.median_ms, row.p90_ms) for row in result.rows],
        target,
        title=result.conditions,
        label="milliseconds per run: median, p10 to p90",
    )


def _maps(
    config: BenchConfig, pairs: Sequence[Pair], reading: Reading, report: Report
) -> tuple[Mapping[Path, float], list[str]]:
    """Evaluate each file once: a .pt by torch, an .onnx by ONNX Runtime, others not at all.

    Beside a file of fixed shape all are evaluated on the shape they are timed on: the same weights
    have another mAP on rectangles. A file without boxes to evaluate is timed all the same, and
    noted.

    Raises:
        DataError: the split has no labels.
    """
    assert config.data is not None
    data, maps, notes = spec.load(config.data, splits=[config.split]), {}, []
    timed = {pair.file: pair.setting.imgsz for pair in pairs if pair.file.suffix in READ}
    runners = {}
    for path in timed:
        try:
            runners[path] = open_weights(path, device_name="cpu", reading=reading)
        except CheckpointError as error:
            notes.append(f"not evaluated: {error}")
    padded = any(runner.shape for runner in runners.values())
    for path, runner in runners.items():
        height, width = timed[path]
        on = f", padded to {height} x {width}" if padded else ""
        report(f"evaluating {path} on {config.split}{on}")
        shaped = replace(runner, shape=timed[path]) if padded else runner
        try:
            maps[path] = _map(config, path, data, shaped)
        except CheckpointError as error:
            notes.append(f"not evaluated: {error}")
    return maps, notes


def _map(config: BenchConfig, path: Path, data: DataSpec, runner: Runner) -> float:
    data.expect_classes(runner.names, of=path)
    imgsz = runner.image_size(config.img_size)
    title = f"evaluating {path.name}"
    collected = collect_split(runner, data, config.split, imgsz=imgsz, title=title)
    metrics = collected.metrics(data.names)
    if not metrics.instances:
        raise DataError(
            f"{data.path}: {config.split} has no labels, so that nothing can be evaluated"
        )
    return metrics.map


def name(row: BenchRow | Recommendation) -> str:
    """Return which file in which runtime."""
    return name_of(row.file, row.runtime, exported=row.exported)
