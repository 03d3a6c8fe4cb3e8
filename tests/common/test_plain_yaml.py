"""YAML files give every key once, and what is wrong with one is said in one line."""

from pathlib import Path

import pytest

from prune.cli import main
from prune.common.plain_yaml import BrokenYamlError, read_yaml

# Ten lines that describe 9^10 values, plain and merged.
LAUGHS = "a: &a [x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGED = LAUGHS.replace("[x]", "{x: 1}").replace("[*", "{<<: [*").replace("]\n", "]}\n")


def test_text_reads_as_yaml_does_anchors_and_merges_included() -> None:
    text = "a: &x {b: 1, c: [2, yes]}\nd: *x\ne: {<<: *x, b: 3}\n"
    inner = {"b": 1, "c": [2, True]}
    assert read_yaml(text) == {"a": inner, "d": inner, "e": {"b": 3, "c": [2, True]}}
    assert read_yaml("") is None
    assert read_yaml("a: 0.40\n", typed=False) == {"a": "0.40"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lr0: 1\nlr1: 2\nlr0: 3\n", "line 3: lr0: is given twice; keep one"),
        ("names: {0: a, 0: b}\n", "line 1: 0: is given twice; keep one"),
        ("a:\n- b: {c: 1,\n      c: 1}\n", "line 3: c: is given twice; keep one"),
        ("a: [1\n", "line 2: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("a: 1\nb: \x01\n", "line 2: unacceptable character #x0001: special characters are"),
        ("[" * 100_000, "line 1: it is nested more than 100 levels deep"),
        ("\n" + "{a: " * 5000, "line 2: it is nested more than 100 levels deep"),
        (LAUGHS, "line 7: its aliases stand for more than 1,000,000 values"),
        (MERGED, "line 7: its aliases stand"),
        ("b: 1\na: &a [*a]\n", "line 2: a value contains itself"),
        ("a: &a {<<: *a}\n", "line 1: a value contains itself"),
        ('a: 1\nb: "\\ud800"\n', "line 2: '\\ud800' has half a character"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', "line 2: a character that does not exist"),
    ],
)
@pytest.mark.parametrize("typed", [True, False])
def test_a_fault_is_one_line_with_its_place(text: str, said: str, typed: bool) -> None:
    with pytest.raises(BrokenYamlError) as caught:
        read_yaml(text, typed=typed)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


# What PyYAML's own conversions end in tracebacks at.
VALUES = {
    "0b_": "int",
    "0x_": "int",
    "!!int ''": "int",
    "!!int abc": "int",
    "!!float abc": "float",
    "!!bool abc": "bool",
    "2020-13-45": "timestamp",
    "!!timestamp abc": "timestamp",
    "2001-01-01 00:00:00 +99:99": "timestamp",
}


@pytest.mark.parametrize(("written", "kind"), VALUES.items(), ids=VALUES)
def test_a_value_that_is_none_of_its_kind_is_said_with_its_line(written: str, kind: str) -> None:
    with pytest.raises(BrokenYamlError) as caught:
        read_yaml(f"a: 1\nx: {written}\n")
    assert str(caught.value).startswith("line 2: '")
    assert str(caught.value).endswith(f"' is no valid {kind}; put text in quotes")


def test_a_number_of_thousands_of_digits_is_refused() -> None:
    with pytest.raises(BrokenYamlError, match=r"line 1: a value of 5000 letters \(999"):
        read_yaml("x: " + "9" * 5000)
    assert read_yaml("x: '" + "9" * 5000 + "'") == {"x": "9" * 5000}


def test_records_may_hold_names_of_files_that_are_not_utf8() -> None:
    assert read_yaml('"\\udce9"', file_names=True) == "\udce9"


@pytest.mark.parametrize(
    "words",
    [
        ["data", "check", "{}"],
        ["train", "--config", "{}"],
    ],
    ids=["data", "config"],
)
def test_every_file_of_a_user_gives_a_key_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("train: images/train\ntrain: images/val\n")
    assert main([word.replace("{}", str(path)) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "train: is given twice; keep one" in said
