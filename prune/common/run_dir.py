"""Folders for runs: runs/<command>/<name>, never overwritten."""

import json
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path

from prune.common.files import probe, unused_go, write_text
from prune.common.lock import held
from prune.common.plain_yaml import read_yaml_file
from prune.common.size import Size
from prune.errors import InputError

_RECORDED = ("detector-prune", "torch", "torch-pruning", "numpy", "onnx", "onnxruntime")


def new_run(project: Path, name: str, *, exist_ok: bool = False) -> Path:
    """Make the folder `project/name`, or name2, name3, ... where that one is taken.

    Raises:
        InputError: the folder cannot be made or written into.
    """
    for number in count(1):
        folder = project / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=exist_ok)
        except FileExistsError:
            continue
        except OSError as error:
            raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
        try:
            probe(folder)
        except InputError:
            with suppress(OSError):  # what stands in it stays
                folder.rmdir()
            raise
        return folder
    raise AssertionError("unreachable: count() never ends")


@contextmanager
def run_folder(project: Path, name: str, *, exist_ok: bool = False) -> Iterator[Path]:
    """Make a run's folder before its work; it goes again if the work leaves nothing in it.

    Raises:
        InputError: the folder cannot be made or written into, or another run has it.
    """
    with unused_go(project):
        folder = new_run(project, name, exist_ok=exist_ok)
        try:
            with held(folder):
                yield folder
        finally:
            if not any(folder.iterdir()):
                folder.rmdir()


def versions() -> dict[str, str]:
    """Name the versions a result depends on: Python and the libraries that compute."""
    found = {"python": platform.python_version()}
    for package in _RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def record(folder: Path, options: Mapping[str, object]) -> None:
    """Write run.json (options, command, versions, machine) and opt.yaml (the options)."""
    import yaml

    plain = {key: _plain(value) for key, value in sorted(options.items())}
    run = {
        "command": [without_password(word) for word in sys.argv],
        "options": plain,
        "versions": versions(),
        "machine": {"node": platform.node(), "system": platform.platform()},
    }
    write_text(folder / "run.json", json.dumps(run, indent=1))
    # Last: a run is taken up by it, so that where it is, all is there.
    write_text(folder / "opt.yaml", yaml.safe_dump(plain, sort_keys=True))


def amend(folder: Path, **changed: object) -> None:
    """Write options that have changed since into opt.yaml, where any differ.

    Raises:
        InputError: the file cannot be written.
        WriteError: the disk is full.
    """
    import yaml

    path = folder / "opt.yaml"
    found = read_yaml_file(path, file_names=True)
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no options")
    wanted = found | {key: _plain(value) for key, value in changed.items()}
    if wanted != found:
        write_text(path, yaml.safe_dump(wanted, sort_keys=True))


def _plain(value: object) -> object:
    if isinstance(value, Size):
        return value.plain
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (int, float, bool, type(None))):
        return value
    return without_password(str(value))


def without_password(text: str) -> str:
    """Leave user and password out of a URL; any other text stays as it is."""
    return re.sub(r"^([a-zA-Z][\w+.-]*://)[^/?#]*@", r"\1", text)
