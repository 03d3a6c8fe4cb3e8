"""JSON files give every key once, and what is wrong with one is said in one line."""

import json

import pytest

from prune.common.plain_json import DEPTH, BrokenJsonError, read_json


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -2.5e3, '[[\\"{{', None, True], "b": {"a": {}}},
        "\U0001f600 é \\ud800",
        [[[]] * 1000],
        12345678901234567890123,
    ],
)
def test_what_python_writes_reads_back(value: object) -> None:
    assert read_json(json.dumps(value)) == value
    assert read_json(b"\xef\xbb\xbf" + json.dumps(value, ensure_ascii=False).encode()) == value


BROKEN = {
    "": "line 1: Expecting value",
    '{"a": 1,\n "b" 2}': "line 2: Expecting ':' delimiter",
    '{"a": 1, "b": {"c": 1, "c": 1}}': "'c' is given twice; keep one",
    "[" * (DEPTH + 1) + "]" * (DEPTH + 1): "it is nested more than 100 levels deep",
    "[" * 10**6: "it is nested more than 100 levels deep",
    '{"a":' * 10**5: "it is nested more than 100 levels deep",
    "[1, " + "9" * 5000 + "]": "a number of 5000 digits (9999999999...) is too large",
    "[NaN]": "NaN is not a number",
    "[-Infinity]": "-Infinity is not a number",
    r'{"a": ["\ud800"]}': r"'\ud800' has half a character (a lone surrogate)",
    r'{"\udfff": 1}': r"'\udfff' has half a character (a lone surrogate)",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("text", "said"), BROKEN.items(), ids=[key[:12] for key in BROKEN])
def test_a_fault_is_one_line(text: str, said: str) -> None:
    with pytest.raises(BrokenJsonError) as caught:
        read_json(text)
    assert str(caught.value) == said


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(BrokenJsonError, match="not UTF-8"):
        read_json(b'"\xff"')


def test_records_may_hold_names_of_files_that_are_not_utf8() -> None:
    name = b"caf\xe9".decode(errors="surrogateescape")
    assert read_json(json.dumps(name), file_names=True) == name
    with pytest.raises(BrokenJsonError):
        read_json(json.dumps(name))
    with pytest.raises(BrokenJsonError):
        read_json(r'"\ud800"', file_names=True)


def test_who_checks_every_value_gets_what_json_lacks_as_nan() -> None:
    found = read_json("[NaN, -Infinity, " + "9" * 5000 + r', 7, "\ud800"]', lenient=True)
    assert repr(found) == r"[nan, nan, nan, 7, '\ud800']"
