"""How messages write lists and counts."""

from __future__ import annotations

from prune.common.wording import counted, few


def test_a_list_is_cut_off_where_it_says_so() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([1, 2, 3], 2) == "1, 2, ..."
    assert few([]) == ""


def test_a_noun_follows_its_number() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(2, "box", "boxes") == "2 boxes"
