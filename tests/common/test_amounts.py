"""Amounts: fractions and numbers, as texts of the command line and as numbers of Python."""

import pytest

from prune.common.amounts import read_amount
from prune.errors import PlanError

AMOUNTS = {
    "0.5": 0.5,
    ".5": 0.5,
    "30G": 30e9,
    "13M": 13e6,
    "13m": 13e6,
    "2.5k": 2500.0,
    "7000": 7e3,
}


@pytest.mark.parametrize("text", AMOUNTS)
def test_an_amount_is_a_fraction_or_a_number(text: str) -> None:
    assert read_amount(text, option="--macs") == AMOUNTS[text]


@pytest.mark.parametrize("text", ["", "0", "1", "7", "-1", "half", "1e9", "30GB", "nan"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="--macs is"):
        read_amount(text, option="--macs")


@pytest.mark.parametrize("number", [0.5, 30e9, 13_000_000])
def test_a_number_is_an_amount_as_it_is(number: float) -> None:
    assert read_amount(number, option="macs") == number


@pytest.mark.parametrize("number", [0, 1, 1.5, 999.0, -3, float("nan"), float("inf")])
def test_a_number_out_of_range_is_refused(number: float) -> None:
    with pytest.raises(PlanError, match="macs is"):
        read_amount(number, option="macs")
