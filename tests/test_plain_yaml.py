"""YAML files give every key once, and what is wrong with one is said in one line."""

from pathlib import Path

import pytest

from prune.cli import main
from prune.plain_yaml import BrokenYamlError, read_yaml


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
        ("a: \x01\n", "unacceptable character #x0001: special characters are not allowed"),
    ],
)
@pytest.mark.parametrize("typed", [True, False])
def test_a_fault_is_one_line_with_its_place(text: str, said: str, typed: bool) -> None:
    with pytest.raises(BrokenYamlError) as caught:
        read_yaml(text, typed=typed)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


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
