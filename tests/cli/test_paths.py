"""A path that no file can have is one line and exit 2, whichever option names it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prune.cli import COMMANDS, main, module
from prune.cli.parser import actions, build
from prune.common.files import expect_writable, new_folder, write_text
from prune.errors import InputError

LONG = "a" * 300 + ".pt"


def path_options() -> list[tuple[str, str]]:
    """List every command with every option that takes a path."""
    found = []
    for name, summary in COMMANDS.items():
        for action in actions(build(name, summary, module(name))):
            if isinstance(action.type, type) and issubclass(action.type, Path):
                found += [(name, option) for option in action.option_strings[:1]]
    return found


@pytest.mark.parametrize(("command", "option"), path_options())
def test_a_long_name_is_told_by_every_option(
    tmp_path: Path,
    command: str,
    option: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    # What commands cannot do without, so that the path is looked at; the last word counts.
    needed = {
        "val": ["--data", "d.yaml"],
        "detect": ["--source", "s.jpg"],
        "global": ["--macs", "0.5"],
        "depth": ["--blocks", "1"],
        "bench": ["x.onnx"],
        "diff": ["a.pt", "b.pt"],
        "apply": ["--plan", "p.json"],
        "sensitivity": ["--data", "d.yaml"],
        "quantize": ["--weights", "w.onnx", "--data", "d.yaml"],
        "data": ["voc", "x"],
    }
    try:
        status = main([command, *needed.get(command, []), option, LONG])
    except SystemExit as leaving:  # argparse: an option that excludes another, or one more missing
        status = int(str(leaving.code))
    said = capsys.readouterr().err
    assert status == 2
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_line_names_option_and_cause(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["whole", "--weights", "w.pt", "--out", LONG]) == 2
    said = capsys.readouterr().err
    assert said.startswith("prune: --out 'aaaa")
    assert "...': it cannot be used (File name too long); name another" in said
    assert main(["train", "--resume", LONG]) == 2
    assert "--resume 'aaaa" in capsys.readouterr().err


def test_a_path_through_a_file_is_left_to_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["show", str(tmp_path / "file" / "x.pt")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_writers_refuse_long_names_too(tmp_path: Path) -> None:
    for write in (lambda path: write_text(path, "x"), expect_writable):
        with pytest.raises(InputError, match=r"cannot write .*: File name too long"):
            write(tmp_path / LONG)
    with pytest.raises(InputError, match="File name too long"), new_folder(tmp_path / LONG):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", ["a", "ä", "語"])
def test_the_longest_name_that_a_file_can_have_is_written(tmp_path: Path, letter: str) -> None:
    """The temporary file beside it has a longer name unless that is cut."""
    name = letter * ((255 - len(".json")) // len(os.fsencode(letter))) + ".json"
    write_text(tmp_path / name, "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]
