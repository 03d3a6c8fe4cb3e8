"""tools/fuzz.py: no reader gives a traceback for a changed file, and what would is found."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(TOOLS)
        yield importlib.import_module("fuzz")


@pytest.mark.timeout(120)
def test_every_reader_accepts_or_refuses_what_chance_makes_of_a_file(fuzz: ModuleType) -> None:
    tallies = fuzz.run(fuzz.options_of(["--tries", "16", "--seed", "1", "--jobs", "1"]))
    assert [tally.name for tally in tallies] == list(fuzz.READERS)
    assert fuzz.table(tallies).count("first at number") == 0, fuzz.table(tallies)
    assert all(tally.accepted and tally.tries == 16 for tally in tallies)


def _slow(path: Path) -> None:
    while True:
        time.process_time()


def _dies(path: Path) -> None:
    if b"x" in path.read_bytes():
        os._exit(3)


def _fails(path: Path) -> None:
    if b"x" in path.read_bytes():
        raise KeyError("x")


def _large(path: Path) -> None:
    if b"x" in path.read_bytes():
        bytearray(2**40)


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (_slow, "TooSlowError at"),
        (_dies, "the process died: status 3"),
        (_fails, "KeyError at"),
        (_large, "MemoryError at"),
    ],
)
def test_what_no_reader_may_do_is_found_and_kept(
    read: object, what: str, fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0.1)
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound" / "a.txt").write_text("abc")
    reader = fuzz.Reader("odd", "a.txt", read, (lambda data, random: b"x",))
    tally = fuzz.Tally("odd")
    for outcome in fuzz.follow(reader, range(1, 4), 0, tmp_path / "sound"):
        tally.add(outcome)
    ((found, outcomes),) = tally.findings.items()
    assert found.startswith(what)
    assert len(outcomes) == 3
    monkeypatch.setitem(fuzz.READERS, "odd", reader)
    fuzz.keep(tally, tmp_path / "kept")
    assert (tmp_path / "kept" / "odd-0-1.txt").read_bytes() == b"x"
    assert found in fuzz.table([tally])
