"""How --weights is read: the options beside it, and the note on what was read."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from prune.common import streams
from prune.common.inputs import leads_to_file
from prune.errors import InputError

if TYPE_CHECKING:
    from prune.checkpoint import Checkpoint
    from prune.checkpoint.convert import Reading
    from prune.evaluate.runner import Runner

DECODINGS = ("exp", "sigmoid")  # of prune.checkpoint.foreign.decoding, which --help must not import
NAMES = "class names, or a file with one per line (default: the file's own, or 0,1,...)"

_DESCRIPTIONS = (".yaml", ".yml", ".data")


def add_arguments(parser: argparse.ArgumentParser, *, cfg: bool = True, names: bool = True) -> None:
    """Add --cfg, --names and --decoding, for weights of other projects."""
    if cfg:
        parser.add_argument(
            "--cfg",
            type=Path,
            metavar="FILE",
            help="cfg of Darknet weights or of a public .pt (default: what the file says of "
            "itself, or a cfg of the same name beside it or in ./cfg)",
        )
    if names:
        parser.add_argument("--names", metavar="A,B", help=NAMES)
    parser.add_argument(
        "--decoding",
        choices=DECODINGS,
        help="how the heads of public weights decode boxes: exp (YOLOv3, Darknet) or sigmoid "
        "(YOLOR, YOLOv4-CSP); default: what the cfg and the file say, with a note",
    )


def opened(args: argparse.Namespace) -> Checkpoint:
    """Open --weights as the options beside it say; a note tells how a public file was read.

    Raises:
        PruneError: the file cannot be used.
    """
    return open_file(args.weights, reading(args))


def open_file(path: Path, reading: Reading) -> Checkpoint:
    """Open a file of weights; a note tells how a public one was read.

    Raises:
        PruneError: the file cannot be used.
    """
    from prune.checkpoint.convert import open_weights

    found = open_weights(path, reading)
    note(path, found, reading)
    return found


def is_ours_as_read(args: argparse.Namespace, found: Checkpoint) -> bool:
    """Tell whether a file is a checkpoint of ours that says by itself how it is read.

    All others are written as one before they are passed on, by path, to what knows no options.
    """
    return not (found.foreign or args.names or args.decoding)


def runner(args: argparse.Namespace) -> Runner:
    """Open --weights to detect with: a checkpoint, public weights or an ONNX file.

    Raises:
        PruneError: the file cannot be used, or an option is of no use for it.
    """
    from prune.evaluate.runner import open_weights, run_checkpoint

    if args.weights.suffix.lower() != ".onnx":
        return run_checkpoint(opened(args), device_name=args.device)
    for name in ("cfg", "names", "decoding"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} is not for ONNX files, which say it themselves; remove it")
    return open_weights(args.weights, device_name=args.device)


def reading(args: argparse.Namespace) -> Reading:
    """Return what the options say.

    Raises:
        InputError: --names cannot be read.
    """
    from prune.checkpoint.convert import Reading

    return Reading(cfg_file(args.cfg), class_names(getattr(args, "names", None)), args.decoding)


def cfg_file(path: Path | None) -> Path | None:
    """Find the cfg that --cfg names: a file, or what one in ./cfg is called."""
    if path is None or path.suffix or path.exists():
        return path
    named = Path("cfg") / f"{path.name}.cfg"
    return named if path == Path(path.name) and named.is_file() else path


def cfgs(args: argparse.Namespace, found: Checkpoint) -> list[Path]:
    """List the cfgs that --weights may have been read with, which nothing should be written to."""
    from prune.checkpoint.foreign.source import namesakes

    named = [args.cfg] if args.cfg is not None else []
    return [*named, *namesakes(args.weights)] if found.foreign else named


def note(path: Path, found: Checkpoint, reading: Reading) -> None:
    """Tell in one note how a file was read, if there is something to tell."""
    remarks = list(found.remarks)
    if reading.cfg is not None and not found.foreign:
        remarks.append(f"it is a checkpoint of ours, so that its own cfg counts, not {reading.cfg}")
    if remarks:
        streams.log(f"prune: note: {path}: {'; '.join(remarks)}")


def class_names(text: str | None) -> tuple[str, ...] | None:
    """Read --names: names between commas, a file of names, or a data set's description.

    What ends as such files do is a file, and so is what has a path separator and no comma.

    Raises:
        InputError: it names no class, or the file cannot be read.
    """
    if text is None:
        return None
    from prune.data.classes import NAME_SUFFIXES, names_of_file

    suffix = Path(text).suffix.lower()
    if suffix in _DESCRIPTIONS:
        from prune.data.spec import load_names

        return load_names(Path(text))
    if leads_to_file(text):
        return tuple(names_of_file(Path(text)))
    if suffix in NAME_SUFFIXES or ("," not in text and ("/" in text or os.sep in text)):
        raise InputError(
            f"cannot read the class names in {text}: No such file; name a file with one per line, "
            "or the classes themselves, e.g. --names person,car"
        )
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError(f"--names {text!r} names no class; write e.g. --names person,car")
    return names
