"""Resuming: which run's folder an interrupted training goes on in, and what a new run clears."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from prune import checkpoint
from prune.common.inputs import naming
from prune.common.notes import Report
from prune.errors import CheckpointError, InputError
from prune.train.checkpointing import BEST

# What is drawn or written after the last epoch.
_DRAWN = (
    *("results.png", "pr_curve.png", "f1_curve.png", "confusion_matrix.png"),
    *("val_batch0.jpg", "profile.txt"),
)


@dataclass(frozen=True)
class Resumed:
    """An interrupted run that goes on in its folder.

    Attributes:
        folder: the run's.
        last: the weights and training state that it goes on from; None if it was interrupted
            before it saved any, and begins anew in its folder.
        given: fields of the config that were given anew, rather than read from the run's opt.yaml.
    """

    folder: Path
    last: Path | None
    given: frozenset[str] = frozenset()

    def naming_options(self, option: str = "") -> AbstractContextManager[None]:
        """Name the run's opt.yaml in errors about options that were read from it.

        Args:
            option: the one that errors are about, where it may have been given anew.
        """
        if self.last is None or option in self.given:
            return nullcontext()
        return naming(self.folder / "opt.yaml")


def find_run(path: Path) -> Path:
    """Return the last.pt of a run that is named by that file, its folder or its weights folder.

    The file may be missing if the run was killed during its first save: last.pt is written last,
    and metrics after it. Where there are metrics, or other weights, it was lost otherwise.

    Raises:
        InputError: there is no such run.
    """
    if path.is_dir():
        is_run = (path / "weights").is_dir() or (path / "opt.yaml").is_file()
        path = path / "weights" / "last.pt" if is_run else path / "last.pt"
    present = sorted(path.parent.glob("[!.]*.pt"))  # parts that a kill left are hidden
    has_metrics = (path.parent.parent / "results.csv").is_file()
    lost = present if has_metrics else set(present).difference(_weights_of(path.parent))
    if path.name != "last.pt" or (lost and not path.is_file()):
        why = "resume takes a run's last.pt" if path.exists() else "there is no such file or folder"
        found = ", ".join(file.name for file in present) or "no weights"
        raise InputError(f"cannot resume {path}: {why}, and {path.parent} contains {found}")
    unknown = path.parent.name in ("", "..")  # pathlib knows no parent of these
    return path.resolve() if unknown else path


def newest_run(project: Path, report: Report) -> Path:
    """Return the newest last.pt in a folder of runs whose run is unfinished.

    Raises:
        InputError: there is none.
    """
    found = sorted(
        project.glob("*/weights/last.pt"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    if not found:
        raise InputError(f"no run to resume in {project}; name its last.pt: --resume FILE")
    for last in found:
        try:
            if checkpoint.load(last).training:
                return last
        except CheckpointError as error:  # another program's, as a rule
            report(f"note: passed over: {error}")
    raise InputError(
        f"every run in {project} is finished; to train on, start from --weights {found[0]}"
    )


def clear(folder: Path, *, needed: Sequence[Path | None]) -> None:
    """Remove an earlier run's weights and images from a folder that a new run reuses.

    If the new run were killed before it saves, it would otherwise be resumed from the earlier
    one's weights; and images that it does not draw would be taken for its own.

    Args:
        folder: the run's.
        needed: files that the new run reads.

    Raises:
        InputError: a file that is needed is among them, or one cannot be removed.
    """
    weights = _weights_of(folder / "weights")
    for path in needed:
        if path is not None and path.resolve() in [one.resolve() for one in weights]:
            raise InputError(f"{path} lies where the new run's weights go; choose another --name")
    # What a run is resumed from goes first: a kill from here on leaves no half of a run.
    first = ("opt.yaml", "results.csv", *_DRAWN)
    for path in (*(folder / name for name in first), *weights):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror}") from error


def _weights_of(folder: Path) -> list[Path]:
    """List the files that a run writes into its folder of weights, present or not."""
    return [
        *(folder / f"{name}.pt" for name in ("last", *BEST)),
        *sorted(folder.glob("epoch[0-9]*.pt")),
    ]
