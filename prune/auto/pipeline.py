"""The stages from a trained detector to a file that is fast enough, each chosen by the ones before.

A cut is timed before anything is trained: the pruner cuts until the pruned network, in the form in
which it is deployed, is as fast as requested, and here it is timed once more beside the dense file.
What that does not confirm is not trained.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar, cast

from prune import checkpoint
from prune.auto import journal as journals
from prune.auto.config import AutoConfig, Request, read_request, request, tuning
from prune.auto.journal import Facts, Journal
from prune.auto.result import AutoResult, conclude
from prune.bench.side_by_side import BenchConfig, compare
from prune.checkpoint import Checkpoint
from prune.checkpoint.convert import Reading, open_weights
from prune.checkpoint.reading import as_our_file, note_reading, reading_of
from prune.common import device, lock, run_dir
from prune.common.choices import LATENCY_RUNTIMES
from prune.common.files import write_text
from prune.common.inputs import is_dir, naming, resolved
from prune.common.notes import Report, silent
from prune.data import spec
from prune.errors import OffTargetError, PruneError
from prune.evaluate.validation import EvaluateConfig, evaluate
from prune.export.formats import ExportConfig, export
from prune.latency.approach import AMISS, NEAR
from prune.latency.by_latency import LatencyConfig
from prune.latency.form import Form
from prune.pruner.pipeline import prune
from prune.quantize.run import QuantizeConfig, quantize
from prune.runtimes.backends import installed, library
from prune.runtimes.compare import Compared, compared, latencies_ms
from prune.train import resume as resuming
from prune.train import setup
from prune.train.config import TrainConfig
from prune.train.distributed import Team
from prune.train.fit import fit
from prune.train.resume import Resumed

TUNING = "train"  # where in a run's folder the fine-tuning is
TRIES = 2  # cuts until the measured time confirms one
ROUNDS = 30
INT8_DROP = 0.5  # points of mAP that INT8 may lose where the fine-tuned network has none left

R = TypeVar("R")


class Isolate(Protocol):
    """Calls a function with a config in a process of its own, which then gives its memory back."""

    def __call__(self, function: Callable[..., R], config: object, /) -> R:
        """Return what the function returns."""
        ...


@dataclass(frozen=True)
class AutoRun:
    """A run under way.

    Attributes:
        request: what is asked for.
        folder: of its files.
        journal: what is done.
        training: how the pruned model is fine-tuned, beside what the run itself decides.
        report: takes a line per stage and remark.
        isolate: runs the stages that take the most memory, the cut and the fine-tuning; None runs
            them in this process.
    """

    request: Request
    folder: Path
    journal: Journal
    training: TrainConfig = field(default_factory=TrainConfig)
    report: Report = silent
    isolate: Isolate | None = None

    def file(self, name: str) -> Path:
        """Name one of the run's files."""
        return self.folder / name

    def fact(self, stage: str, name: str) -> float:
        """Return a number that a stage found."""
        return float(cast(float, self.journal.stages[stage][name]))

    def call(self, function: Callable[..., R], config: object) -> R:
        """Call a stage's function, in a process of its own where there is one."""
        if self.isolate is not None:
            return self.isolate(function, config)
        return function(config, report=self.report)


def auto(
    config: AutoConfig, *, report: Report = silent, isolate: Isolate | None = None
) -> AutoResult:
    """Prune, fine-tune, export and quantise a detector until it is as fast as requested.

    Args:
        config: what is asked for.
        report: takes a line per stage and remark.
        isolate: see `AutoRun`.

    Returns:
        All files with their metrics and times, and which to deploy.

    Raises:
        PruneError: something cannot be used, found before any work; or a stage failed, and the
            message says how the run is resumed.
    """
    reading = reading_of(config.cfg, config.names, config.decoding)
    found = open_weights(config.weights, reading)
    note_reading(config.weights, found, reading)
    asked = request(config, found)
    with tempfile.TemporaryDirectory() as place:  # public weights become a checkpoint for a moment
        _check(as_checkpoint(asked, found, reading, Path(place)), config.training)
    folder = run_dir.new_run(config.project.resolve(), config.name, exist_ok=config.exist_ok)
    with lock.held(folder):
        _clear(folder / TUNING, config.weights)
        options = {name: value for name, value in vars(config).items() if name != "training"}
        run_dir.record(folder, options)
        asked = as_checkpoint(asked, found, reading, folder)
        journal = Journal(folder / "auto.json", asked.document(), {})
        journal.write()
        return finish(AutoRun(asked, folder, journal, config.training, report, isolate))


def resume(
    folder: Path,
    *,
    read_training: Callable[[Sequence[str]], TrainConfig],
    report: Report = silent,
    isolate: Isolate | None = None,
) -> AutoResult:
    """Go on with a run that was stopped, after the last stage that is done.

    Args:
        folder: the run's.
        read_training: turns the journal's words for the fine-tuning into a config.
        report: see `auto`.
        isolate: see `AutoRun`.

    Raises:
        PruneError: there is no such run, its journal is damaged, or a stage failed.
    """
    folder = resolved(folder)
    with lock.held(folder) if is_dir(folder) else nullcontext():
        journal = journals.read(folder / "auto.json")
        asked = read_request(journal.wish, where=journal.path)
        with naming(journal.path):
            training = read_training(asked.training)
        if is_dir(asked.started_in or "."):
            os.chdir(asked.started_in or ".")
        return finish(AutoRun(asked, folder, journal, training, report, isolate))


def finish(run: AutoRun) -> AutoResult:
    """Do the stages that are left; write report.md.

    Raises:
        PruneError: a stage failed; the message says how the run is resumed.
    """
    again = shlex.join(["prune", "auto", "--resume", str(run.folder)])
    try:
        run_stages(run)
    except KeyboardInterrupt:
        run.report(f"stopped; to resume: {again}")
        raise
    except PruneError as error:
        error.args = (f"{error}; to resume: {again}",)
        raise
    result = conclude(run.journal, max_drop=run.request.max_drop, folder=run.folder)
    write_text(run.file("report.md"), result.markdown(run.request.weights.name))
    return result


def run_stages(run: AutoRun) -> None:
    """Do all stages that are not done yet."""
    for number, (name, stage) in enumerate(STAGES.items(), start=1):
        done = " was done before" if name in run.journal.stages else ""
        run.report(f"stage {number} of {len(STAGES)}: {name}{done}")
        run.journal.done(name, partial(stage, run))


def as_checkpoint(asked: Request, found: Checkpoint, reading: Reading, folder: Path) -> Request:
    """Write public weights into a folder as a checkpoint of ours, from which all stages start."""
    target = folder / f"{asked.weights.stem}.pt"
    return replace(asked, weights=as_our_file(asked.weights, found, reading, target=target))


def _clear(folder: Path, weights: Path) -> None:
    """Remove an earlier fine-tuning, which would be taken up, unless a process still writes it."""
    with lock.held(folder) if is_dir(folder) else nullcontext():
        resuming.clear(folder, needed=(weights,))


def _check(asked: Request, training: TrainConfig) -> None:
    """Find out before an hour's work what could not be used at its end; nothing is written.

    The uncut detector stands for the cut in the fine-tuning.

    Raises:
        PruneError: data, runtime or options that cannot be used.
    """
    spec.load(asked.data, splits=("train", "val"))
    library(asked.runtime)
    config = tuning(asked, training, cut=asked.weights, folder=Path(TUNING))
    where = device.choose(asked.device)
    setup.prepare(config, device=where, team=Team(), report=silent)


def _dense(run: AutoRun) -> Facts:
    """Evaluate the detector as it is, and write it as it would be deployed."""
    asked, out = run.request, run.file("dense.onnx")
    metrics = _evaluate(run, asked.weights)
    export(ExportConfig(weights=asked.weights, img_size=asked.imgsz, out=out))
    ms = latencies_ms([out], runtime=asked.runtime, threads=asked.threads, rounds=ROUNDS)[out]
    return {**metrics, "ms": ms, "file": str(out)}


def _cut(run: AutoRun) -> Facts:
    """Cut until the deployed form is fast enough; recover what can be without training."""
    asked, target = run.request, run.file("cut.pt")
    start = _deployed(run, asked.weights)
    uncut, dense_ms = start.ratio.middle, start.before_ms
    goal = asked.latency if asked.is_share else asked.latency / dense_ms
    if uncut <= (1 + NEAR) * goal:
        run.report(f"nothing to cut: in the deployed form it takes {start.ratio} of the time")
        checkpoint.save(checkpoint.load(asked.weights), target)
        return {"goal": goal, "uncut": uncut, "tried": [], "file": str(target)}
    # For more nothing has to be removed, and the pruner takes fractions below 1.
    requested = min(goal, (1 - NEAR) * min(uncut, 1.0))
    config = LatencyConfig(
        weights=asked.weights,
        latency=requested,
        runtime=asked.runtime,
        threads=asked.threads,
        int8=asked.int8,
        activation=asked.activation or None,
        img_size=asked.imgsz,
        data=asked.data,
        depth=asked.depth,
        compensate=True,
        reconstruct=True,
        score=True,
        seed=asked.seed,
        device=asked.device,
        out=target,
    )
    tried: list[Facts] = []
    while len(tried) < TRIES:
        made = run.call(prune, config).document()
        found = _deployed(run, target).ratio
        tried.append({"asked": requested, "ratio": found.middle})
        run.report(
            f"the pruned network runs in {found} of the dense network's time; "
            f"{requested:.3g} is requested"
        )
        if requested / AMISS <= found.middle <= requested * AMISS:
            kept = {key: made[key] for key in ("blocks", "params", "macs", "latency", "recovery")}
            return {"goal": goal, "uncut": uncut, "tried": tried, **kept, "file": str(target)}
        run.report("that is too far from the request to be trained")
    raise OffTargetError(
        f"after {TRIES} cuts the time is {found} of the dense network's instead of "
        f"{requested:.3g}; nothing is trained: resume when the machine does less"
    )


def _tune(run: AutoRun) -> Facts:
    """Fine-tune with the uncut detector as teacher; go on with a run that was interrupted."""
    folder = run.file(TUNING)
    config = tuning(run.request, run.training, cut=run.file("cut.pt"), folder=folder)
    last = folder / "weights" / "last.pt"
    interrupted = last.is_file() and bool(checkpoint.load(last).training)
    resumed = Resumed(folder, last) if interrupted else None
    result = run.call(partial(fit, resume=resumed), config)
    if result.stopped:
        raise KeyboardInterrupt
    out = run.file("pruned.pt")
    checkpoint.save(checkpoint.load(result.best), out)
    found: Facts = {"epochs": result.epochs, "best_epoch": result.best_epoch}
    if result.test_map is not None:
        found["test_map"] = result.test_map
    return {**found, "file": str(out)}


def _score(run: AutoRun) -> Facts:
    """Evaluate what was fine-tuned; a stage of its own, so that a stop here costs no training."""
    return _evaluate(run, run.file("pruned.pt"))


def _export(run: AutoRun) -> Facts:
    """Write what was fine-tuned, compared with torch on real images."""
    asked, out = run.request, run.file("pruned.onnx")
    weights = run.file("pruned.pt")
    config = ExportConfig(weights=weights, data=asked.data, img_size=asked.imgsz, out=out)
    result = export(config)
    return {"max_rel_diff": result.max_rel_diff, "bytes": result.bytes, "file": str(out)}


def _quantize(run: AutoRun) -> Facts:
    """Quantise it to INT8, within what is left of the allowed drop."""
    asked = run.request
    if not asked.int8:
        return {"skipped": "no --int8"}
    lost = 100 * (run.fact("dense", "map") - run.fact("score", "map"))
    left = asked.max_drop - lost
    config = QuantizeConfig(
        weights=run.file("pruned.onnx"),
        data=asked.data,
        max_drop=left if left > 0 else INT8_DROP,
        runtime=asked.runtime,
        threads=asked.threads,
        seed=asked.seed,
        out=run.file("pruned-int8.onnx"),
    )
    result = quantize(config, report=run.report)
    return {"left": left, "file": str(result.out), **result.document()}


def _bench(run: AutoRun) -> Facts:
    """Time and evaluate every file beside the dense one, in every runtime at hand."""
    asked = run.request
    named = [run.journal.stages[stage].get("file") for stage in ("dense", "export", "quantize")]
    files = tuple(Path(str(file)) for file in named if file)
    others = [name for name in LATENCY_RUNTIMES if name in installed()]
    config = BenchConfig(
        files=files,
        data=asked.data,
        threads=asked.threads,
        runtime=",".join(dict.fromkeys([asked.runtime, *others])),  # the requested one first
        png=run.file("bench.png"),
    )
    found = compare(config, report=run.report).document()
    # In the requested runtime once more, with the clock that a busy machine leaves right.
    ratios = {str(file): vars(_compared(run, file).ratio) for file in files[1:]}
    return {**found, "ratios": ratios}


STAGES: dict[str, Callable[[AutoRun], Mapping[str, object]]] = {
    "dense": _dense,
    "cut": _cut,
    "tune": _tune,
    "score": _score,
    "export": _export,
    "quantize": _quantize,
    "bench": _bench,
}


def _evaluate(run: AutoRun, weights: Path) -> Facts:
    asked = run.request
    config = EvaluateConfig(
        data=asked.data, weights=weights, img_size=asked.imgsz, device=asked.device, plots=False
    )
    result = evaluate(config, report=run.report)
    return {"map50": result.map50, "map": result.map}


def _deployed(run: AutoRun, weights: Path) -> Compared:
    """Time a checkpoint, in the form in which it is deployed, in turn with the dense file."""
    asked = run.request
    net = checkpoint.network(checkpoint.load(weights))
    form = Form(asked.runtime, asked.activation, asked.int8)
    with tempfile.TemporaryDirectory() as folder:
        path = form.write(form.network(net), Path(folder) / "net.onnx", imgsz=asked.imgsz)
        return _compared(run, path)


def _compared(run: AutoRun, path: Path) -> Compared:
    asked = run.request
    dense = run.file("dense.onnx")
    return compared(dense, path, runtime=asked.runtime, threads=asked.threads, rounds=ROUNDS)
