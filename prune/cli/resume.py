"""Which run is taken up again, with what of its options; and what a new one clears away."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence, Set
from pathlib import Path

from prune.cli import recorded
from prune.cli.options import as_typed
from prune.common.inputs import exists
from prune.errors import CheckpointError, InputError

Say = Callable[[str], None]

# What may be said anew when a run is taken up again; everything else stays as it was. The data may
# have moved: its classes and pictures are checked.
_FREE = frozenset(
    {
        *("resume", "device", "workers", "json"),
        *("data", "strict", "cache", "eager", "log", "no_plots", "profile"),
    }
)
# What comes after the last epoch, if it is wished.
_DRAWN = (
    *("results.png", "pr_curve.png", "f1_curve.png", "confusion_matrix.png"),
    *("val_batch0.jpg", "profile.txt"),
)
PATHS = ("weights", "cfg", "data", "hyp", "project", "teacher")


def take_up(args: argparse.Namespace, said: Set[str], say: Say) -> Path:
    """Put an interrupted run's options into `args`; return its folder.

    Args:
        args: the command's.
        said: those of them that were given.
        say: told what of that does not hold.

    Raises:
        InputError: there is no such run, or its data set has moved and nobody says where.
    """
    last = _named(Path(args.resume)) if args.resume else _newest(args.project, say)
    used = _FREE if args.resume else _FREE | {"project"}
    folder = last.parent.parent
    for name, value in recorded.read(folder / "opt.yaml", "train").items():
        if name not in _FREE or name not in said:
            setattr(args, name, value)
    if "data" in said:
        setattr(args, recorded.STARTED_IN, None)
    elif args.data is not None and not exists(args.data):
        raise InputError(
            f"cannot resume {last}: its data set {args.data} is not there any more; "
            "say where it is now by --data, e.g. --data data/mine.yaml"
        )
    args.resume, args.hyp = last, folder / "hyp.yaml"
    if not last.is_file():
        say(f"note: {folder} has no weights yet; the run begins anew")
        args.resume = None
    if ignored := sorted(said - used):
        say(f"note: a resumed run keeps its own {', '.join(map(as_typed, ignored))}")
    return folder


def clear(folder: Path, *, needed: Sequence[Path | None]) -> None:
    """Take an earlier run's weights and pictures out of a folder that a new one reuses.

    Killed before it saves, the new one would otherwise be taken up with the earlier one's weights;
    and pictures that it does not draw would be taken for its own.

    Args:
        folder: the run's.
        needed: files that the new run reads.

    Raises:
        InputError: a file that is needed is among them, or one cannot be removed.
    """
    kept = _kept(folder / "weights")
    for path in needed:
        if path is not None and path.resolve() in [one.resolve() for one in kept]:
            raise InputError(f"{path} lies where the new run's weights go; choose another --name")
    # First what a run is taken up by: without it, a kill from here on leaves no half of one.
    told = ("opt.yaml", "results.csv", *_DRAWN)
    for path in (*(folder / name for name in told), *kept):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"cannot remove {path}: {error.strerror}") from error


def _kept(weights: Path) -> list[Path]:
    """List what a run keeps in its folder of weights, there or not."""
    from prune.train.checkpointing import BEST

    return [
        *(weights / f"{name}.pt" for name in ("last", *BEST)),
        *sorted(weights.glob("epoch[0-9]*.pt")),
    ]


def _named(said: Path) -> Path:
    """Return the last.pt that a file, a run's folder or its folder of weights stands for.

    It need not be there if the run was killed amid its first save: last.pt is written last, and
    figures after it. Where there are figures, or another's weights, it was lost otherwise.
    """
    if said.is_dir():
        own = (said / "weights").is_dir() or (said / "opt.yaml").is_file()
        said = said / "weights" / "last.pt" if own else said / "last.pt"
    there = sorted(said.parent.glob("[!.]*.pt"))  # parts that a kill left are hidden
    figures = (said.parent.parent / "results.csv").is_file()
    lost = there if figures else set(there).difference(_kept(said.parent))
    if said.name != "last.pt" or (lost and not said.is_file()):
        why = "resume takes a run's last.pt" if said.exists() else "there is no such file or folder"
        found = ", ".join(path.name for path in there) or "no weights"
        raise InputError(f"cannot resume {said}: {why}, and {said.parent} holds {found}")
    unknown = said.parent.name in ("", "..")  # pathlib knows no parent of these
    return said.resolve() if unknown else said


def _newest(project: Path, say: Say) -> Path:
    """Return the newest last.pt of the runs that did not come to their end."""
    found = sorted(
        project.glob("*/weights/last.pt"), key=lambda path: path.stat().st_mtime, reverse=True
    )
    if not found:
        raise InputError(f"no run to resume in {project}; name its last.pt: --resume FILE")
    for last in found:
        if _goes_on(last, say):
            return last
    raise InputError(
        f"every run in {project} is finished; to train on, start from --weights {found[0]}"
    )


def _goes_on(last: Path, say: Say) -> bool:
    from prune import checkpoint

    try:
        return bool(checkpoint.load(last).training)
    except CheckpointError as error:  # another program's, as a rule
        say(f"note: passed over: {error}")
        return False
