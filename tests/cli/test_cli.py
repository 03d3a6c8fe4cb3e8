"""The command line as a whole: what a mistyped word gets."""

import subprocess
import sys
from pathlib import Path

import pytest

from prune import __version__
from prune.cli import COMMANDS, habits, main, module, parser, read
from prune.common.size import Size


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
        (["predict"], "did you mean detect?"),
        (["frobnicate"], "unknown command 'frobnicate'; prune --help lists them"),
        (["layers", "--up-to", "60"], "did you mean --upto?"),
        (["train", "--teach", "x.pt"], "did you mean --teacher?"),
        (["train", "data=x.yaml"], "write --data x.yaml"),
        (["train", "--optimizer", "adamw"], "the file of --hyp, e.g. optimizer: adamw"),
        (["train", "--lr0", "0.1"], "the file of --hyp, e.g. lr0: 0.01"),
        (["val", "--bogus"], "unknown argument '--bogus' (see"),
        (["data", "check", "d.yaml", "--out", "x"], "unknown argument '--out' (see"),
        (["global", "--mac", "0.5"], "did you mean --macs?"),
        (["layers", "--amount", "much"], "invalid float value"),
        (["data", "vok", "x"], "invalid choice"),
        (["layers", "--seed", "9" * 30], "must be a whole number"),
        (["train", "--seed", "-1"], "must be a whole number"),
        (["data", "shapes", "--images", "1" + 12 * "0"], "must be at most 1,000,000"),
        (["data", "shapes", "--size", "1000000"], "must be at most 16,384"),
    ],
    ids=[
        *("command", "other tool's command", "no command", "option", "option's beginning"),
        *("key=value", "optimizer", "hyper-parameter", "unknown before missing", "sibling's"),
        *("unknown before a missing group", "value", "subcommand", "huge seed", "seed below zero"),
        *("too many images", "too large images"),
    ],
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


@pytest.mark.parametrize("words", [["help", "train"], ["help", "data", "voc"], ["help"]])
def test_help_is_a_command_too(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        main(words)
    except SystemExit as left:
        assert left.code == 0
    assert f"prune {' '.join(words[1:])}".strip() in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_other_tools_options_are_answered_only_where_they_are_none_of_ours(name: str) -> None:
    known = parser.build(name, COMMANDS[name], module(name))
    ours = {option for action in parser.actions(known) for option in action.option_strings}
    assert not [option for option in ours if habits.table_answer(name, option)]


def test_a_config_file_is_typed_before_what_is_typed(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: a.yaml\nimg_size: 320\n--conf-thres: 0.40\njson: true\nplots: no\nname:\n"
        "weights: -odd.pt\n"
    )
    options = read("val", ["--img-size", "64", "--config", str(path)])
    typed = (options.data, options.img_size, options.conf_thres)
    assert typed == (Path("a.yaml"), Size.of(64), 0.4)
    assert options.json
    assert options.weights == Path("-odd.pt")
    assert options.typed == {"data", "img_size", "conf_thres", "json", "weights"}


def test_a_config_file_holds_lists_and_leaves_the_words_of_a_command_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("freeze: [0-9, 12]\n")
    assert read("train", [f"--config={path}", "--data", "d"]).freeze == ["0-9", "12"]
    path.write_text("out: x.yaml\n")
    options = read("data", ["voc", "mine", "--config", str(path)])
    assert (options.folders, options.out) == ([Path("mine")], Path("x.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", "'epoch' is not an option of this command; did you mean epochs?"),
        ("frob: 3", "'frob' is not an option of this command; write options as in --help"),
        ("pt: 3", "pt is '3'; it must be true or false"),
        ("data: {a: 1}", "data holds a mapping"),
        ("[1, 2]", "must hold options"),
        ("a: [", "broken YAML"),
        (None, "cannot read"),
    ],
    ids=["slip", "unknown", "flag", "mapping", "list", "syntax", "missing"],
)
def test_a_config_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["train", "--config", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(path) in line
    assert message in line


@pytest.mark.parametrize("name", [*COMMANDS, "data voc", "data coco", "data shapes", "data check"])
def test_help_fits_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    assert not [line for line in capsys.readouterr().out.splitlines() if len(line) > 80]


def test_the_overview_imports_no_parser() -> None:
    code = (
        "import sys; from prune.cli import main; main(['--help'])\n"
        "assert not {'argparse', 'dataclasses', 'json', 'loguru', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
