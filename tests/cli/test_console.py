"""Tables on a terminal: everything is shown, and no line is wider than the terminal."""

import re

import pytest

from prune.cli import console

NAMES = ("file", "runtime", "ms", "ratio", "peak MB", "file MB", "mAP", "kept because")
ROW = (
    "dense.onnx",
    "onnxruntime",
    23.37,
    1.0,
    92,
    9.619,
    0.527,
    "it reaches the head of layer 120",
)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def words(lines: list[str]) -> set[str]:
    return set(re.findall(r"[^\s-]\S*", " ".join(lines)))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_table_fits_the_terminal_and_loses_no_word(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    console.print_table(NAMES, [ROW, ROW])
    lines = printed(capsys)
    assert max(map(len, lines)) <= width
    assert words(lines) == words([*NAMES, *map(str, ROW)]) - {"1.0"} | {"1"}


def test_a_table_that_fits_is_one_line_per_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    console.print_table(("name", "ms"), [("a", 1.5), ("long name", 22)])
    assert printed(capsys) == [
        "name        ms",
        "---------  ---",
        "a          1.5",
        "long name   22",
    ]


def test_columns_that_do_not_fit_follow_under_the_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "14")
    console.print_table(("a", "one", "two", "three"), [("x", 1, 2, 3)])
    assert printed(capsys) == [
        *("a  one  two", "-  ---  ---", "x    1    2", ""),
        *("a  three", "-  -----", "x      3"),
    ]


def test_a_word_that_is_wider_than_the_terminal_stays_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    console.print_table(("path", "n"), [("/a/very/long/path/of/a/file.pt", 3)])
    assert "/a/very/long/path/of/a/file.pt" in printed(capsys)[2]
