"""No output is an input: checked over a command's options, for all commands, before any work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from prune.errors import InputError

# The options that name what is written; every other path among a command's options is read.
OUTPUTS = ("out", "plan_out", "png", "bundle")
_FOLDERS = ("project",)  # of runs, which get a folder of their own in it
_TEXTS = ("names", "source", "resume")  # what is read where it is the path of a file
# What a run writes into its folder under these names, also where --exist-ok lets it be an old one.
_OF_RUNS = ("opt.yaml", "run.json", "hyp.yaml")


def expect_separate(
    command: str,
    options: argparse.Namespace,
    *,
    configs: Sequence[str],
    positional: Collection[str],
) -> None:
    """Check that no file to write is one to read, or is written twice, under whichever names.

    Args:
        command: its name.
        options: as they were read.
        configs: the files of --config.
        positional: names of what is given without an option.

    Raises:
        InputError: two are the same file, also by a hard or symbolic link.
    """
    read = [
        ("a file to read" if name in positional else _typed(name), path)
        for name, value in vars(options).items()
        if name not in (*OUTPUTS, *_FOLDERS)
        for path in _paths(name, value)
    ]
    read += [("--config", Path(path)) for path in configs]
    known = {identity: label for label, path in read for identity in _identities(path)}
    for label, path in _written(command, options):
        for identity in _identities(path):
            if identity in known:
                raise InputError(f"{label} {path} is also {known[identity]}; write to another file")
            known[identity] = label
    folder = _folder(options) if command == "data" else None
    for label, path in read:
        if folder and folder in (real := Path(os.path.realpath(path)), *real.parents):
            raise InputError(
                f"{label} {path} lies in {folder}, which --out replaces; choose another --out"
            )


def _typed(name: str) -> str:
    return "--" + name.replace("_", "-")


def _paths(name: str, value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, str) and name in _TEXTS:
        yield Path(value)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _paths(name, one)


def _identities(path: Path) -> list[object]:
    """Return what two paths to the same file have in common, of which at least one is the same."""
    try:
        real = os.path.realpath(path)
        about = path.stat()
    except OSError:  # not there
        return [real]
    except ValueError:  # no path, but a text
        return []
    return [real, (about.st_dev, about.st_ino)]


def _written(command: str, options: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """Yield what a command writes, and by which option."""
    values = vars(options)
    for name in OUTPUTS:
        path = values.get(name)
        if isinstance(path, Path) and not (name == "out" and values.get("dry_run")):
            yield _typed(name), path
    for path in BESIDE.get(command, _nothing)(options):
        if path != values.get("out"):
            yield "--out", path
    if values.get("exist_ok"):
        for name in _OF_RUNS:
            yield "--name", options.project / options.name / name


def _nothing(_: argparse.Namespace) -> list[Path]:
    return []


def _sensitivity(options: argparse.Namespace) -> list[Path]:
    return [options.out.with_suffix(suffix) for suffix in (".csv", ".png")]


def _whole(options: argparse.Namespace) -> list[Path]:
    return [options.out.with_suffix(".onnx")] if options.onnx else []


def _quantize(options: argparse.Namespace) -> list[Path]:
    out = options.out or options.weights.with_name(f"{options.weights.stem}-int8.onnx")
    return [out, out.with_name(f"{out.stem}-missed{out.suffix}")]


_EXPORTED = {
    "darknet": (".cfg", ".weights"),
    "yolor": (".cfg", ".pt"),
    "ncnn": (".param", ".bin", ".json"),
}


def _export(options: argparse.Namespace) -> list[Path]:
    """List the files of a format that has several; without --out, `prune export` checks them."""
    suffixes = _EXPORTED.get(options.format, ())
    if options.out is None:
        return []
    stem = options.out.with_suffix("") if options.out.suffix in suffixes else options.out
    return [stem.with_name(stem.name + suffix) for suffix in suffixes]


def _folder(options: argparse.Namespace) -> Path | None:
    """Return the folder that `prune data` fills anew."""
    out = getattr(options, "out", None)
    return None if out is None else Path(os.path.realpath(out.with_suffix("")))


# Command -> what it writes beside --out, or where that is not given.
BESIDE: dict[str, Callable[[argparse.Namespace], list[Path]]] = {
    "sensitivity": _sensitivity,
    "whole": _whole,
    "quantize": _quantize,
    "export": _export,
}
