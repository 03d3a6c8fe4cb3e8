"""Train a network from end to end: prepare a run, train, evaluate and draw what it learned."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from prune import checkpoint
from prune.common import child_processes, hyperparameters, lock, run_dir
from prune.common import device as devices
from prune.common.files import probe, write_text
from prune.common.notes import Report, silent
from prune.evaluate import metrics, plots
from prune.evaluate.collect import collect, evaluate_network
from prune.evaluate.fuse_batchnorm import fused
from prune.train import checkpointing, gradual, memory, profile, run_log, setup
from prune.train import plots as images
from prune.train import resume as resuming
from prune.train.checkpointing import (
    Origin,
    Row,
    explain_load_errors,
    explain_save_errors,
    images_digest,
)
from prune.train.distributed import Team, join, local_rank
from prune.train.loop import PruneHook, Stopped, train
from prune.train.run import Run, start
from prune.train.run_log import Log, Quiet
from prune.train.stopping import catch_signals

if TYPE_CHECKING:
    from rich.progress import Progress

    from prune.evaluate.metrics import Metrics
    from prune.models.darknet import Darknet
    from prune.train.config import TrainConfig
    from prune.train.profile import Stopwatch
    from prune.train.resume import Resumed
    from prune.train.setup import Setup

# Fields of the config that are recorded as absolute paths.
_PATHS = ("weights", "cfg", "data", "hyp", "project", "teacher")
METRICS = ("precision", "recall", "f1", "map50", "map")
# Fields of the result that --json prints.
DOCUMENTED = (
    *("epochs", "best_epoch", *METRICS, "test_map50", "test_map", "seconds"),
    *("folder", "best", "last"),
)


@dataclass(frozen=True)
class TrainResult:
    """What a run left.

    Attributes:
        epochs: how many were trained; fewer than requested where patience ran out.
        best_epoch: the epoch that `best` is of, counted from 1; 0 where none was evaluated.
        precision: of the best epoch on the validation images, in [0, 1], as are all metrics; not a
            number where no epoch was evaluated.
        recall: likewise.
        f1: likewise.
        map50: mean average precision at an overlap of 0.5.
        map: mean average precision over overlaps from 0.5 to 0.95.
        test_map50: of the best weights on the test images; None without a test split.
        test_map: likewise.
        seconds: time of all epochs.
        folder: the run's.
        best: file of the weights with the best fitness.
        last: file of the last weights.
        rows: every epoch's figures, as in results.csv.
        test: all metrics of the best weights on the test images; None without a test split.
        stopped: whether a signal ended the run before its last epoch; it can be resumed.
        next_command: the command line that is usually run next.
        notes: what there is to know about the network before it is used.
    """

    epochs: int
    best_epoch: int
    precision: float
    recall: float
    f1: float
    map50: float
    map: float
    test_map50: float | None
    test_map: float | None
    seconds: float
    folder: Path
    best: Path
    last: Path
    rows: tuple[Mapping[str, float], ...] = field(repr=False)
    test: Metrics | None = field(repr=False)
    stopped: bool
    next_command: str
    notes: tuple[str, ...]

    def document(self) -> dict[str, object]:
        """Return what `prune train --json` prints."""
        values = {name: getattr(self, name) for name in DOCUMENTED}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value is not None  # no test split
        }


def fit(
    config: TrainConfig,
    *,
    resume: Resumed | None = None,
    team: Team | None = None,
    report: Report = silent,
    progress: Callable[[], AbstractContextManager[Progress]] | None = None,
    record: Mapping[str, object] | None = None,
) -> TrainResult:
    """Train a network, and write weights, figures and curves into a folder of its own.

    Under torchrun all processes call this function, and the first one writes.

    Args:
        config: the run's options; those of the run that goes on, where one does.
        resume: an interrupted run to go on with, in its folder.
        team: the processes that train together (default: those that torchrun started).
        report: takes a line per epoch, and notes.
        progress: opens a progress bar for the time of the training.
        record: what opt.yaml and run.json say of the options (default: the fields of `config`).

    Returns:
        The metrics of the best weights, and all files. A signal stops the run, which is saved
        first: the result says so.

    Raises:
        PruneError: some input cannot be used, or the run failed.
    """
    with join() if team is None else nullcontext(team) as team, ExitStack() as stack:
        device = team.make_on_all(partial(_begin, config, resume, team, report, stack))
        with devices.repeatable(config.deterministic), devices.vanishing_as_zero():
            prepare = partial(setup.prepare, config, device=device, team=team, report=report)
            ready = team.make_on_all(partial(prepare, resume=resume))
            options = _options(config, ready, record if record is not None else vars(config))
            open_folder = partial(_new_folder, config, ready, options, stack)
            if resume is not None:
                open_folder = partial(_reopen_folder, resume.folder, options)
            folder = team.make_on_main(open_folder)
            report(f"training on {device}, files in {folder}")
            log = _open_log(folder, team, report, progress, service=config.log, options=options)
            try:
                rows, test = _train(ready, folder, log, plots=not config.no_plots)
            except Stopped as stopped:
                team.wait()  # until all is saved: when one process leaves, torchrun ends the others
                return _result(ready, folder, stopped.rows, stopped=True)
            return _result(ready, folder, rows, test=test)


def _begin(
    config: TrainConfig, resume: Resumed | None, team: Team, report: Report, stack: ExitStack
) -> torch.device:
    """Lock the folder of a run that goes on, before any of its state is read; choose the device."""
    if resume is not None and team.is_main:
        stack.enter_context(lock.held(resume.folder))
    if config.sync_bn and team.size == 1:
        report("note: --sync-bn does nothing in one process; torchrun starts several")
    name = config.device
    if team.size > 1 and name != "cpu" and resume is not None and "device" not in resume.given:
        name = ""  # each process has its own GPU, whichever a run had that was alone before
    with resume.naming_options("device") if resume is not None else nullcontext():
        device = devices.choose(name, process=local_rank())
    if device.type == "cuda" and team.size > 1:
        torch.cuda.set_device(device)
    return device


def _options(config: TrainConfig, ready: Setup, record: Mapping[str, object]) -> dict[str, object]:
    """Return what is recorded of the options, so that the run can be understood and resumed.

    Files are recorded as absolute paths, image and batch size as they were chosen.
    """
    paths = {name: getattr(config, name) for name in _PATHS}
    return {
        **record,
        **{name: path.resolve() for name, path in paths.items() if path is not None},
        "img_size": ready.settings.imgsz.plain,
        "batch_size": ready.settings.batch_size,
        "working_folder": str(config.working_folder or Path.cwd()),
    }


def _new_folder(
    config: TrainConfig, ready: Setup, options: Mapping[str, object], stack: ExitStack
) -> Path:
    """Make the run's folder, lock it, and write there how it was started.

    A resumed run reads hyp.yaml and opt.yaml. The latter is written last of all.

    Raises:
        InputError: the folder cannot be written, or has what the run starts from.
        WriteError: the disk is full.
    """
    folder = run_dir.new_run(config.project, config.name, exist_ok=config.exist_ok)
    stack.enter_context(lock.held(folder))
    resuming.clear(folder, needed=(config.weights, config.teacher))
    hyperparameters.save(ready.hyp, folder / "hyp.yaml")
    run_dir.record(folder, options)
    return folder


def _reopen_folder(folder: Path, options: Mapping[str, object]) -> Path:
    """Check that a run can go on in its folder; note there where its data is now."""
    probe(folder)
    run_dir.amend(folder, **{name: options[name] for name in ("data", "working_folder")})
    return folder


@contextmanager
def _open_log(
    folder: Path,
    team: Team,
    report: Report,
    progress: Callable[[], AbstractContextManager[Progress]] | None,
    *,
    service: str | None,
    options: Mapping[str, object],
) -> Iterator[Log]:
    """Open what figures go to: files, TensorBoard and a service, a progress bar."""
    if not team.is_main:
        yield Quiet(folder, report)
        return
    with ExitStack() as stack:
        bar = stack.enter_context(progress()) if progress is not None else None
        board = stack.enter_context(run_log.open_boards(folder, service, options))
        if bar is not None and not bar.disable:  # a line written beside a live bar would tear it
            report = partial(bar.console.print, markup=False, highlight=False, soft_wrap=True)
        yield Log(folder, report, bar=bar, board=board)


def _train(
    ready: Setup, folder: Path, opened: AbstractContextManager[Log], *, plots: bool
) -> tuple[list[Row], Metrics | None]:
    """Train, then evaluate the best weights; return every epoch's figures, and the test metrics."""
    team, settings = ready.team, ready.settings
    watch = profile.Stopwatch(ready.device) if settings.profile else None
    with (
        opened as log,
        memory.explain_shortage(settings, ready.device),
        explain_load_errors(folder),
    ):
        launched = team.size > 1 or child_processes.entered()
        with catch_signals(log.report, launched=launched) as stop_requested:
            rows = train(
                _start(ready, watch),  # without a name, which would keep it while cuts replace it
                ready.batches,
                ready.validation,
                origin=_origin(ready),
                log=log,
                resume=ready.state,
                stop_requested=stop_requested,
                prune=_prune_hook(ready, log.report),
            )
        # What all do together comes first: nobody has to wait for what one does alone.
        test = None
        if ready.test is not None:
            log.report("evaluating the best weights on the test split")
            net = _best_network(ready, folder)
            test = evaluate_network(
                net, ready.test, ready.spec.names, device=ready.device, gather=team.gather
            )
        if plots:
            draw_results(ready, rows, log)
        if team.is_main and watch is not None:
            _report_times(ready, watch, log)
    if team.is_main:
        with explain_save_errors(folder, len(rows)):
            # Last: until then, a killed run can be resumed.
            checkpointing.finish(folder / "weights")
    return rows, test


def _start(ready: Setup, watch: Stopwatch | None) -> Run:
    return start(
        ready.source.net,
        len(ready.batches),
        settings=ready.settings,
        hyp=ready.hyp,
        device=ready.device,
        teacher=ready.teacher.net if ready.teacher else None,
        team=ready.team,
        watch=watch,
    )


def _origin(ready: Setup) -> Origin:
    return Origin(
        names=ready.spec.names,
        data=str(ready.spec.path),
        history=ready.source.history,
        parent=ready.source.parent,
        teacher=ready.teacher.digest if ready.teacher else None,
        images=images_digest(ready.spec.images("train")),
    )


def _prune_hook(ready: Setup, report: Report) -> PruneHook | None:
    """Return what cuts the network while it trains, if that is requested."""
    if ready.pruning is None:
        return None
    return partial(gradual.prune_if_due, pruning=ready.pruning, data=ready.spec, report=report)


def _best_network(ready: Setup, folder: Path) -> Darknet:
    """Return the network of the best weights, which the main process has, on the device."""
    found = ready.team.make_on_main(partial(checkpoint.load, folder / "weights" / "best.pt"))
    return checkpoint.network(found).to(ready.device)


def draw_results(ready: Setup, rows: Sequence[Row], log: Log) -> None:
    """Draw the run's curves, and what the best weights detect; several processes share the work."""
    names, net = ready.spec.names, fused(_best_network(ready, log.folder))
    found = collect(
        lambda batch: net.decode(net(batch)),
        ready.validation,
        len(names),
        device=ready.device,
        gather=ready.team.gather,
        shares=True,
    )
    if not ready.team.is_main:
        return
    images.write_results(rows, log.folder / "results.png")
    paths = next(iter(ready.validation)).paths
    imgsz = ready.settings.imgsz
    drawn = images.draw_detections(paths, found.found[: len(paths)], names, imgsz=imgsz)
    images.write_image(drawn, log.folder / "val_batch0.jpg")
    if log.board is not None:
        log.board.image("val_batch0", images.as_rgb(drawn), len(rows))
    plots.draw_metrics(found.truth, found.found, names, log.folder)


def _report_times(ready: Setup, watch: Stopwatch, log: Log) -> None:
    """Report where the time went, and write it into the run's folder."""
    net = checkpoint.network(checkpoint.load(log.weights / "last.pt"))  # as cuts have left it
    lines = profile.measure_and_report(
        watch, net.to(ready.device), ready.batches, precision=ready.settings.dtype
    )
    write_text(log.folder / "profile.txt", "\n".join(lines) + "\n")
    for line in lines:
        log.report(line)


def _result(
    ready: Setup,
    folder: Path,
    rows: Sequence[Row],
    *,
    test: Metrics | None = None,
    stopped: bool = False,
) -> TrainResult:
    # Epochs before the last cut of a run that prunes do not count.
    evaluated = [row for row in rows[ready.settings.best_after :] if "map" in row]
    best = max(evaluated, key=checkpointing.fitness, default=None)
    last = folder / "weights" / "last.pt"
    resume = shlex.join(["prune", "train", "--resume", str(last)])
    return TrainResult(
        epochs=len(rows),
        best_epoch=int(best["epoch"]) if best else 0,
        **{name: best[name] if best else math.nan for name in METRICS},
        test_map50=test.map50 if test else None,
        test_map=test.map if test else None,
        seconds=sum(row["seconds"] for row in rows),
        folder=folder,
        best=folder / "weights" / "best.pt",
        last=last,
        rows=tuple(rows),
        test=test,
        stopped=stopped,
        next_command=_next_command(ready, folder, best) if best and not stopped else resume,
        notes=_notes(ready, folder, best) if best and not stopped else (),
    )


def _next_command(ready: Setup, folder: Path, best: Row) -> str:
    """Return the command that usually follows.

    That is more training for a network that has not learned, the export of one that was pruned,
    else a cut.
    """
    weights = shlex.quote(str(folder / "weights" / "best.pt"))
    data = f" --data {shlex.quote(str(ready.spec.path))}"
    merged = ready.spec.merged is not None  # other classes than the data's: only train joins them
    pruned = ready.source.pruned or ready.pruning is not None
    if best["map50"] < metrics.LEARNED:
        same = (" --pt" if pruned else "") + data + (" --single-cls" if merged else "")
        return f"prune train --weights {weights}{same} --epochs {3 * ready.settings.epochs}"
    if pruned and not _has_faded_channels(ready):
        out = shlex.quote(ready.spec.path.stem)
        return f"prune export --weights {weights}{'' if merged else data} --out {out}.onnx"
    recovery = " --compensate" if merged else f"{data} --reconstruct"
    return f"prune global --weights {weights} --macs 0.5{recovery} --out half.pt"


def _notes(ready: Setup, folder: Path, best: Row) -> tuple[str, ...]:
    """Return what a network is good for that has not learned, or whose channels have faded."""
    if best["map50"] < metrics.LEARNED:
        return (
            f"note: the best mAP@.5 is {best['map50']:.3f}: the network has not learned yet, and "
            "pruning or exporting it is of no use; train it longer, and check the data with prune "
            "data check",
        )
    if not _has_faded_channels(ready):
        return ()
    merged = " --single-cls" if ready.spec.merged is not None else ""
    return (
        "note: channels have faded and wait to be cut; until then the detector itself has a low "
        f"mAP: {_next_command(ready, folder, best)}; then prune train --weights half.pt --pt "
        f"--teacher {shlex.quote(str(folder / 'weights' / 'best.pt'))} "
        f"--data {shlex.quote(str(ready.spec.path))}{merged} --name tuned",
    )


def _has_faded_channels(ready: Setup) -> bool:
    """Tell whether channels have faded, and are still there."""
    return ready.settings.sparsity is not None and ready.pruning is None
