"""Numbers in files: what Python alone takes for one is refused by name."""

from __future__ import annotations

import pytest

from prune.common import digits, hyperparameters
from prune.data import coco_json, rows
from prune.models import keys


@pytest.mark.parametrize("text", ["1_0", "0.5_0", "\u0661", "\uff11", "_1", ""])
def test_only_plain_digits_are_a_number(text: str) -> None:
    for read in (digits.whole, digits.real, keys.integer, keys.number):
        with pytest.raises(ValueError):  # each has words of its own
            read(text)
    with pytest.raises(ValueError, match="is no number"):
        rows.parse(["0", text, "0.5", "0.1", "0.1"], 1)
    assert coco_json.number(text) is None
    assert hyperparameters._normalize("lr0", text) == text  # text, which the schema refuses


def test_plain_numbers_are_read() -> None:
    assert (digits.whole(" -12 "), digits.real("1e-3"), digits.real(" .5")) == (-12, 0.001, 0.5)
