"""What `prune train` makes of a finished run: figures, a score on the test split, a last word."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.cli.job import Job
    from prune.evaluate.metrics import Metrics
    from prune.models.darknet import Darknet
    from prune.train.checkpointing import Row
    from prune.train.profile import Stopwatch
    from prune.train.run_log import Log


def tell(
    rows: list[Row],
    folder: Path,
    as_json: bool,
    *,
    best_after: int = 0,
    then: str,
    test: Metrics | None,
) -> None:
    """Print the best epoch, the last, the best on the test split, and `then`, what to do next."""
    from prune.cli import console

    best = _best_row(rows, best_after)
    scores = ("precision", "recall", "f1", "map50", "map")
    files = {name: folder / "weights" / f"{name}.pt" for name in ("best", "last")}
    if as_json:
        figures = {name: best[name] for name in scores}
        if test is not None:
            figures |= {"test_map50": test.map50, "test_map": test.map}
        seconds = sum(row["seconds"] for row in rows)
        console.print_json(
            {"epochs": len(rows), "best_epoch": int(best["epoch"]), **figures}
            | {"seconds": seconds, "folder": str(folder)}
            | {name: str(path) for name, path in files.items()}
        )
        return
    lines = [("best", best), ("last", rows[-1])]
    if test is not None:
        lines.append(
            ("best, test split", {**best, **{name: getattr(test, name) for name in scores}})
        )
    console.print_table(
        ["", "epoch", "P", "R", "F1", "mAP@.5", "mAP@.5:.95"],
        [[name, int(row["epoch"]), *(row[score] for score in scores)] for name, row in lines],
    )
    print()
    console.print_text(f"best weights  {files['best']}")
    console.print_text(f"last weights  {files['last']}")
    if (folder / "results.png").is_file():
        console.print_text(f"curves        {folder / 'results.png'}")
    console.print_text(f"next          {then}")


def _best_row(rows: list[Row], after: int) -> Row:
    """Return the figures of the epoch that best.pt is of; epochs before a cut do not count."""
    from prune.train.checkpointing import fitness

    return max((row for row in rows[after:] if "map" in row), key=fitness)


def next_command(job: Job, folder: Path, rows: list[Row]) -> str:
    """Return what is done with the best weights next.

    More training for a network that has not learned, the export of what was pruned, else a cut.
    """
    best, data = _quoted(folder / "weights" / "best.pt"), f" --data {_quoted(job.spec.path)}"
    merged = job.spec.merged is not None  # other classes than the data's: only train can join them
    pruned = job.source.pruned or job.narrowing is not None
    if not _learned(job, rows):
        same = (" --pt" if pruned else "") + data + (" --single-cls" if merged else "")
        return f"prune train --weights {best}{same} --epochs {3 * job.settings.epochs}"
    if pruned and not _faded(job):
        checked = "" if merged else data
        return f"prune export --weights {best}{checked} --out {_quoted(job.spec.path.stem)}.onnx"
    recovery = " --compensate" if merged else f"{data} --reconstruct"
    return f"prune global --weights {best} --macs 0.5{recovery} --out half.pt"


def notes(job: Job, folder: Path, rows: list[Row]) -> list[str]:
    """Say of a network that has not learned, or whose channels have faded, what it is good for."""
    if not _learned(job, rows):
        map50 = _best_row(rows, job.settings.best_after)["map50"]
        return [
            f"note: the best mAP@.5 is {map50:.3f}: the network has not learned yet, and pruning "
            "or exporting it is of no use; train it longer, and check the data by prune data check"
        ]
    if not _faded(job):
        return []
    best = _quoted(folder / "weights" / "best.pt")
    merged = " --single-cls" if job.spec.merged is not None else ""
    return [
        "note: channels have faded for a cut, and until then the detector itself scores low: "
        f"{next_command(job, folder, rows)}; then prune train --weights half.pt --pt --teacher "
        f"{best} --data {_quoted(job.spec.path)}{merged} --name tuned"
    ]


def _learned(job: Job, rows: list[Row]) -> bool:
    from prune.evaluate.metrics import LEARNED

    return _best_row(rows, job.settings.best_after)["map50"] >= LEARNED


def _faded(job: Job) -> bool:
    """Tell whether channels have faded, and are still there."""
    return job.settings.sparsity is not None and job.narrowing is None


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))


def score_test(job: Job, folder: Path, say: Callable[[str], None]) -> Metrics | None:
    """Score the best weights on the test split, if there is one, in full as `prune val` does."""
    from prune.evaluate.collect import score

    if job.test is None:
        return None
    say("scoring the best weights on the test split")
    return score(
        _best(job, folder),
        job.test,
        job.spec.names,
        device=job.device,
        gather=job.team.gather,
    )


def draw_curves(job: Job, rows: list[Row], log: Log) -> None:
    """Draw the run's figures, and what the best weights find; several processes look together."""
    from prune.evaluate import plots
    from prune.evaluate.collect import collect
    from prune.evaluate.fuse_batchnorm import fused
    from prune.train import plots as pictures

    folder, names = log.folder, job.spec.names
    classes, net = len(names), fused(_best(job, folder))
    found = collect(
        lambda images: net.decode(net(images)),
        job.judge,
        classes,
        device=job.device,
        gather=job.team.gather,
        shares=True,
    )
    if not job.team.leads:
        return
    pictures.results_picture(rows, folder / "results.png")
    paths = next(iter(job.judge)).paths
    shown = pictures.found_image(paths, found.found[: len(paths)], names, imgsz=job.settings.imgsz)
    pictures.write(shown, folder / "val_batch0.jpg")
    if log.board is not None:
        log.board.picture("val_batch0", pictures.as_rgb(shown), len(rows))
    plots.score_pictures(found.truth, found.found, names, folder)


def tell_times(watch: Stopwatch, job: Job, log: Log) -> None:
    """Say where the time went, and write it into the run's folder."""
    from prune import checkpoint
    from prune.common.files import write_text
    from prune.train import profile

    net = checkpoint.network(checkpoint.load(log.weights / "last.pt"))  # as cuts have left it
    lines = profile.report_of(watch, net.to(job.device), job.batches, precision=job.settings.dtype)
    write_text(log.folder / "profile.txt", "\n".join(lines) + "\n")
    for line in lines:
        log.say(line)


def _best(job: Job, folder: Path) -> Darknet:
    """Return the network of the best weights, which the first process has, on the device."""
    from prune import checkpoint

    kept = job.team.first(partial(checkpoint.load, folder / "weights" / "best.pt"))
    return checkpoint.network(kept).to(job.device)
