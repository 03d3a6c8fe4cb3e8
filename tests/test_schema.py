"""Tables of what a file's values must be; what does not fit is said in one line."""

import pytest

from prune import schema
from prune.errors import PlanError
from prune.schema import (
    DEEPEST,
    Field,
    expect,
    expect_bounded,
    flag,
    listed,
    mapping,
    named,
    number,
    parts,
    text,
    whole,
)

ROW = mapping({"name": text(), "size": whole(1, 9).or_null(), "more": flag().or_missing()})
FILE = mapping(
    {
        "kind": text(choices=("a", "b")),
        "rows": listed(ROW, low=1),
        "gains": named(number(0, above=True)),
    },
    closed=True,
)
GOOD = {"kind": "a", "rows": [{"name": "x", "size": 9, "other": []}], "gains": {"y": 1}}


def test_what_fits_passes() -> None:
    expect(GOOD, FILE, where="f")
    expect({**GOOD, "rows": [{"name": "", "size": None, "more": False}]}, FILE, where="f")


WRONG = [
    ([], "f holds []; it must be a mapping"),
    ({**GOOD, "kind": "c"}, "f: kind is 'c'; it must be a or b"),
    ({**GOOD, "kind": ["a"]}, "f: kind is ['a']; it must be a or b"),
    ({"kind": "a"}, "f: rows is missing; it must be a list"),
    ({**GOOD, "rows": []}, "f: rows is []; it must be a list"),
    ({**GOOD, "rows": [{}]}, "f: rows[0].name is missing; it must be text"),
    (
        {**GOOD, "rows": [{"name": "x", "size": 0}]},
        "f: rows[0].size is 0; it must be a whole number from 1 to 9 or null",
    ),
    (
        {**GOOD, "rows": [{"name": "x", "size": True}]},
        "f: rows[0].size is True; it must be a whole number from 1 to 9 or null",
    ),
    (
        {**GOOD, "rows": [{"name": "x", "size": 1, "more": 1}]},
        "f: rows[0].more is 1; it must be true or false",
    ),
    ({**GOOD, "gains": {"y": 0}}, "f: gains.y is 0; it must be a number above 0"),
    ({**GOOD, "gains": {5: 1}}, "f: gains.5 is an unknown key; it must be text"),
    ({**GOOD, "x": 1}, "f: 'x' is an unknown key; the known ones: kind, rows, gains"),
]


@pytest.mark.parametrize(("value", "said"), WRONG)
def test_what_does_not_fit_is_named_with_its_key(value: object, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        expect(value, FILE, where="f", error=PlanError)
    assert str(caught.value) == said


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, True, "1"])
def test_numbers_are_finite_numbers(value: object) -> None:
    for field in (number(), number(-1e300, 1e300)):
        if value != 10**400 or field.high < 1e301:
            with pytest.raises(PlanError):
                expect(value, field, where="f", error=PlanError)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (whole(1), "a whole number from 1 on"),
        (whole(), "a whole number"),
        (number(high=4), "a number up to 4"),
        (number(0, 2, above=True), "a number above 0 up to 2"),
        (number(0, 1e6), "a number from 0 to 1,000,000"),
    ],
)
def test_ranges_are_said_in_words(field: Field, said: str) -> None:
    assert field.allowed == said


@pytest.mark.parametrize(
    ("value", "field"),
    [([1, 2, 3], parts(whole(), whole())), ([1], parts(whole(), whole())), ("\ud800", text())],
    ids=["too many parts", "too few parts", "half a character"],
)
def test_lists_of_parts_have_so_many_and_text_can_be_written(value: object, field: Field) -> None:
    with pytest.raises(PlanError, match="it must be"):
        expect(value, field, where="f", error=PlanError)


def _deep(depth: int) -> object:
    value: object = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def _wide(doublings: int) -> object:
    value: object = 1
    for level in range(doublings):
        value = {"a": value, "b": value} if level % 2 else (value, value)
    return value


def _itself() -> object:
    value: dict[str, object] = {}
    value["a"] = value
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (_deep(DEEPEST + 2), f"f: k is nested more than {DEEPEST} deep"),
        (_itself(), f"f: k is nested more than {DEEPEST} deep"),
        (_wide(40), "f: k is over 1,000 values"),
    ],
    ids=["deep", "itself", "wide"],
)
def test_containers_end(value: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expect_bounded(_deep(DEEPEST), where="f", key="k", error=PlanError)
    monkeypatch.setattr(schema, "MOST_VALUES", 1000)
    with pytest.raises(PlanError, match=said):
        expect_bounded(value, where="f", key="k", error=PlanError)
