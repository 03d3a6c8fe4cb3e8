"""Rules that hold for every file and command, so that nobody has to remember them."""

from __future__ import annotations

import ast
import configparser
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prune.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]

# What --help must not import: together they cost seconds.
HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "matplotlib", "cv2", "loguru", "rich", "yaml")


def modules_of(path: Path) -> Iterator[str]:
    """Name the modules that a file imports absolutely."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""


def sources() -> list[Path]:
    """List the project's Python files."""
    folders = ("prune", "models", "tools", "tests")
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = importlib.import_module(f"prune.cli.{name}").EXAMPLE
    assert f"prune {name} " in example
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    assert example in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_line_of_an_example_is_accepted(name: str) -> None:
    from prune import cli

    for line in importlib.import_module(f"prune.cli.{name}").EXAMPLE.splitlines():
        words = re.split("[#>]", line)[0].split()
        assert words[0] == "prune" and words[1] in COMMANDS, line
        cli.read(words[1], words[2:])  # leaves with status 2 where a word is unknown


def test_help_imports_nothing_heavy() -> None:
    names = list(COMMANDS)
    code = f"""
import contextlib, io, sys
from prune.cli import main
for words in [[], *([name, "--help"] for name in {names}), ["data", "voc", "--help"]]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(words)
    found = sorted({{module.partition(".")[0] for module in sys.modules}} & set({HEAVY}))
    assert not found, (words, found)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name: str) -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `prune {name}\b", table, re.MULTILINE)


def test_every_command_file_is_in_the_table() -> None:
    files = (ROOT / "prune" / "cli").glob("*.py")
    commands = {path.stem for path in files if "\nEXAMPLE = " in path.read_text(encoding="utf-8")}
    assert commands == set(COMMANDS)


def test_nobody_imports_models_plainly() -> None:
    for path in sources():
        plain = [name for name in modules_of(path) if name.partition(".")[0] == "models"]
        assert not plain, path


def test_every_file_begins_with_its_idea() -> None:
    for path in sources():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_every_package_is_listed_and_linked() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in [*(ROOT / "prune").rglob("__init__.py"), ROOT / "prune/models/__init__.py"]
    }
    assert found == listed
    assert (ROOT / "prune" / "models").readlink() == Path("../models")
