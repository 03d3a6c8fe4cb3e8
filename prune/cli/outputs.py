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
_DATA = ("data", "compensate")  # descriptions of data sets
# What our own files are called; no image, list, label file or file of names ends so.
_OUR_SUFFIXES = frozenset({".pt", ".onnx", ".param", ".bin", ".weights", ".cfg", ".csv", ".yaml"})
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
    _expect_data_spared(options, [path for _, path in _written(command, options)])
    folder = _folder(options) if command == "data" else None
    for label, path in read:
        if folder and folder in (real := Path(os.path.realpath(path)), *real.parents):
            raise InputError(
                f"{label} {path} lies in {folder}, which --out replaces; choose another --out"
            )


def _expect_data_spared(options: argparse.Namespace, written: Sequence[Path]) -> None:
    """Check that nothing of a data set is written over, nor written among its images.

    Its images are listed only for a target that could be one of them or their labels: they are
    many.

    Raises:
        InputError: something would be.
    """
    suspects = [path for path in written if path.suffix.lower() not in _OUR_SUFFIXES]
    described = [path for name in _DATA if isinstance(path := vars(options).get(name), Path)]
    if not (suspects or vars(options).get("exist_ok")) or not described:
        return
    from prune.data.parts import parts_of

    for data in described:
        parts = parts_of(data, images=bool(suspects))
        for path in suspects:
            if parts.holds(path):
                raise InputError(f"{path} belongs to the data set {data}; write to another file")
        if vars(options).get("exist_ok") and parts.is_folder(options.project / options.name):
            raise InputError(
                f"{options.project / options.name} holds images of the data set {data}; choose "
                "another --project or --name"
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
