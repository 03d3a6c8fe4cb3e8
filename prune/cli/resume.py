"""--resume: which options of an interrupted run hold, and which may be given anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from prune.cli import recorded
from prune.cli.options import as_typed
from prune.common.inputs import exists
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.cli.parser import Options
    from prune.common.notes import Report
    from prune.train.resume import Resumed

# What may be given anew when a run is resumed; everything else stays as it was. The data may have
# moved: its classes and images are checked.
_FREE = frozenset(
    {
        *("resume", "device", "workers", "json"),
        *("data", "strict", "cache", "eager", "log", "no_plots", "profile"),
    }
)


def take_up(args: Options, report: Report) -> tuple[argparse.Namespace, Resumed]:
    """Find the run that --resume means, and read its options.

    Args:
        args: the options that were parsed.
        report: takes notes on runs that are passed over, and on options that do not hold.

    Returns:
        The options of the run, with those that were given anew, and its folder.

    Raises:
        InputError: there is no such run, or its data set has moved and --data does not say where.
    """
    from prune.train.resume import Resumed, find_run, newest_run

    last = find_run(Path(args.resume)) if args.resume else newest_run(args.project, report)
    folder, used = last.parent.parent, _FREE if args.resume else _FREE | {"project"}
    own = recorded.read(folder / "opt.yaml", "train")
    kept = {name: value for name, value in own.items() if name not in _FREE & args.typed}
    options = argparse.Namespace(**{**vars(args), **kept, "hyp": folder / "hyp.yaml"})
    if "data" in args.typed:
        setattr(options, recorded.WORKING_FOLDER, None)
    elif options.data is not None and not exists(options.data):
        raise InputError(
            f"cannot resume {last}: its data set {options.data} is not there any more; "
            "say where it is now by --data, e.g. --data data/mine.yaml"
        )
    resumed = Resumed(folder, last if last.is_file() else None, args.typed)
    options.resume = resumed.last
    if resumed.last is None:
        report(f"note: {folder} has no weights yet; the run begins anew")
    if ignored := sorted(args.typed - used):
        report(f"note: a resumed run keeps its own {', '.join(map(as_typed, ignored))}")
    return options, resumed
