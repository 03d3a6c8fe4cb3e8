"""The options in a run's opt.yaml, read as strictly as those of a command line.

Anybody who passes a run on can edit its opt.yaml. Every value is therefore checked by the type and
the choices of its option, as if it had been typed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prune.cli import parser, paths
from prune.cli.options import as_typed
from prune.common.inputs import reading, shown
from prune.common.notes import note
from prune.common.plain_yaml import read_yaml_file
from prune.common.size import Size
from prune.errors import InputError

# Options of one word that are recorded as a list: how its parts are joined again.
_JOINED = {"img_size": ",", "sparsity": ":", "names": ","}
# The folder that a run was started in is recorded beside its options.
WORKING_FOLDER = "working_folder"


def read(path: Path, command: str) -> dict[str, object]:
    """Read the options of a run, in the types that the parser of its command gives.

    Args:
        path: the run's opt.yaml.
        command: "train".

    Raises:
        InputError: the file cannot be read, or has a value that the parser would refuse.
    """
    from prune.cli import COMMANDS, module

    found = read_yaml_file(path, file_names=True)
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path} contains no options")
    known = parser.build(command, COMMANDS[command], module(command))
    actions = {action.dest: action for action in parser.actions(known)}
    options: dict[str, object] = {}
    for name, value in found.items():
        if not isinstance(name, str):
            raise InputError(f"{path}: {shown(name)} is not an option of prune {command}")
        if name == WORKING_FOLDER:
            options[name] = _folder(value, path)
        elif name in actions:
            options[name] = _read(actions[name], value, path)
        else:
            note(f"{path}: ignored {name}, which is not an option of prune {command}")
    with reading(path):
        paths.expect_usable(argparse.Namespace(**options))
    return options


def _folder(value: object, path: Path) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: {WORKING_FOLDER} is {shown(value)}; it must be a folder or null")
    return value


def _read(action: argparse.Action, value: object, path: Path) -> object:
    """Convert a value as the parser does; None stays None where that is the default."""
    if value is None and action.default is None:
        return None
    if action.nargs == 0:
        if isinstance(value, bool):
            return value
        raise _refused(action, value, path, "it must be true or false")
    if action.nargs == "+":
        if isinstance(value, list):
            return [_word(action, one, path) for one in value]
        raise _refused(action, value, path, "it must be a list")
    found = _word(action, _joined(action, value), path)
    return Size(*found) if isinstance(found, Size) else found  # whether it was typed or rounded


def _joined(action: argparse.Action, value: object) -> object:
    parts = value if isinstance(value, list) else []
    if action.dest in _JOINED and parts and all(isinstance(p, (str, int, float)) for p in parts):
        return _JOINED[action.dest].join(map(str, parts))
    return value


def _word(action: argparse.Action, value: object, path: Path) -> object:
    """Convert one word as argparse does, and compare it with the option's choices."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _refused(action, value, path, "it must be one word or number")
    convert = action.type if callable(action.type) else str
    try:
        found: object = convert(str(value))
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{path}: {action.dest}: {error}") from error
    except (TypeError, ValueError) as error:
        kind = getattr(convert, "__name__", "value")
        raise _refused(action, value, path, f"it must be one {kind}") from error
    if action.choices is not None and found not in action.choices:
        raise _refused(action, value, path, f"it must be {' or '.join(map(str, action.choices))}")
    return found


def _refused(action: argparse.Action, value: object, path: Path, rule: str) -> InputError:
    return InputError(
        f"{path}: {action.dest} is {shown(value)}; {rule}, as {as_typed(action.dest)} takes it"
    )
