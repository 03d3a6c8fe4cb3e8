"""The command line as a whole: what a mistyped word gets."""

import pytest

from prune import __version__
from prune.cli import COMMANDS, main


def test_no_command_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["layrs"], "did you mean layers?"),
        (["layers", "--up-to", "60"], "did you mean --upto?"),
        (["layers", "--amount", "much"], "invalid float value"),
        (["data", "vok", "x"], "invalid choice"),
        (["layers", "--seed", "9" * 30], "must be a whole number"),
        (["train", "--seed", "-1"], "must be a whole number"),
    ],
    ids=["command", "option", "value", "subcommand", "huge seed", "seed below zero"],
)
def test_a_mistyped_word_is_one_line_and_exit_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(words)
    except SystemExit as left:
        status = int(str(left.code))
    error = capsys.readouterr().err
    assert status == 2
    assert expected in error
    assert error.startswith("prune: ")
    assert error.count("\n") == 1


def test_underscores_in_options_are_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "--dry_run", "--weights", "no_such_file.pt"]) == 2
    assert "no_such_file.pt" in capsys.readouterr().err, "values keep their underscores"
