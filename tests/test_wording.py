"""How messages write lists and counts, and how text files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from prune.errors import DataError, InputError
from prune.textfile import read_text
from prune.wording import counted, few


def test_a_list_is_cut_off_where_it_says_so() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([1, 2, 3], 2) == "1, 2, ..."
    assert few([]) == ""


def test_a_noun_follows_its_number() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(2, "box", "boxes") == "2 boxes"


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcat\n")
    assert read_text(tmp_path / "a.txt") == "cat\n"


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^cannot read the list .*none: No such file"):
        read_text(tmp_path / "none", called="the list")
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"binary: it is no text file$"):
        read_text(tmp_path / "binary", error=DataError)
