"""Cutting by the clock: cuts are corrected by what they were measured to take, or not used."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from prune.errors import OffTargetError, OutOfReachError
from prune.latency.approach import NEAR, TRIES, Attempt, Means, approach
from prune.runtimes import compare, other_processes
from prune.runtimes.backends import Opened, Setting
from prune.runtimes.compare import File, timed_files
from prune.runtimes.other_processes import Neighbours
from prune.runtimes.timing import Ratio


class Case:
    """A network whose cuts take what `truth` makes of their prediction; a cut is its prediction."""

    def __init__(self, truth: Callable[[float], float], *, least: float = 0.0) -> None:
        self.truth, self.least = truth, least
        self.cuts: list[float] = []
        self.said: list[str] = []
        self.measured_anew = 0

    def cut(self, ratio: float) -> float:
        """Cut to a ratio, if there is such a cut."""
        if ratio < self.least:
            raise OutOfReachError("within the limits there is no such cut")
        self.cuts.append(ratio)
        return ratio

    def measure(self, cut: float) -> Ratio:
        """Measure a cut."""
        found = self.truth(cut)
        return Ratio(found, 0.99 * found, 1.01 * found)

    def anew(self) -> None:
        """Measure the layers anew."""
        self.measured_anew += 1

    def to(self, target: float) -> Attempt[float]:
        """Approach a target."""
        means = Means(self.cut, lambda cut: cut, self.measure, self.anew, self.said.append)
        return approach(target, means)


def test_a_cut_on_target_is_the_only_one() -> None:
    case = Case(lambda ratio: 1.02 * ratio)
    assert case.to(0.4).cut == 0.4
    assert case.cuts == [0.4] and not case.measured_anew


@pytest.mark.parametrize("off", [0.7, 1.3], ids=["too deep", "too slow"])
def test_a_cut_off_its_prediction_is_corrected(off: float) -> None:
    case = Case(lambda ratio: off * ratio)
    found = case.to(0.4)
    assert found.measured.middle == pytest.approx(0.4, rel=NEAR)
    assert len(case.cuts) == 2


def test_far_from_the_prediction_the_layers_are_measured_anew_and_then_it_holds() -> None:
    """Measured on a busy machine, a table says that nothing helps but to cut all away."""
    case = Case(lambda ratio: ratio / 3.2 if not case.measured_anew else ratio)
    assert case.to(0.4).measured.middle == 0.4
    assert case.measured_anew == 1
    assert any("not used" in line for line in case.said)


def test_far_from_the_prediction_twice_is_an_error() -> None:
    case = Case(lambda ratio: ratio / 3.2)
    with pytest.raises(OffTargetError, match="far from its prediction again"):
        case.to(0.4)
    assert case.measured_anew == 1


def test_a_cut_far_deeper_than_asked_for_is_an_error() -> None:
    """Whatever is asked for, the cut comes down to a half: as predicted, and of no use."""
    case = Case(lambda _: 0.5)
    means = Means(case.cut, lambda _: 0.5, case.measure, case.anew, case.said.append)
    with pytest.raises(OffTargetError, match=r"runs in 0\.50 .* but 0\.9 was requested"):
        approach(0.9, means)
    assert approach(0.6, means).measured.middle == 0.5


def test_of_attempts_that_all_miss_the_nearest_that_is_fast_enough_is_taken() -> None:
    came = iter([0.5, 0.37, 0.5, 0.36, 0.5])
    found = Case(lambda _: next(came)).to(0.4)
    assert found.measured.middle == 0.37


def test_where_no_cut_is_deeper_the_last_has_to_do() -> None:
    case = Case(lambda ratio: 1.1 * ratio, least=0.39)
    assert case.to(0.4).measured.middle == pytest.approx(0.44)
    with pytest.raises(OutOfReachError):
        case.to(0.3)


def test_a_target_that_is_missed_by_what_a_clock_cannot_tell_is_in_reach() -> None:
    assert Case(lambda ratio: ratio, least=0.405).to(0.4).cut == pytest.approx((1 + NEAR) * 0.4)
    with pytest.raises(OutOfReachError):
        Case(lambda ratio: ratio, least=0.42).to(0.4)


def test_attempts_come_to_an_end() -> None:
    case = Case(lambda ratio: 0.4 * (ratio / 0.3) ** 0.5)
    case.to(0.35)
    assert len(case.cuts) <= TRIES


class Shared:
    """Two cores that others use as well: a run waits, threads wait for each other."""

    def __init__(self, others: Sequence[float]) -> None:
        self.others = list(others)
        self.wall, self.own = 0.0, 0.0
        self.threads: list[int] = []
        self.turn = 0

    def install(self, patched: pytest.MonkeyPatch) -> None:
        """Take the place of the real machine."""
        patched.setattr(compare, "open_model", self.opened)
        patched.setattr(compare, "WALL", lambda: self.wall)
        patched.setattr(compare, "OWN", lambda: self.own)
        patched.setattr(other_processes, "look", self.seen)
        patched.setattr(other_processes, "watched", lambda: self)

    def seen(self) -> Neighbours:
        """Say what others take at this look."""
        return Neighbours(2, self.others.pop(0))

    def __enter__(self) -> Neighbours:
        return self.seen()

    def __exit__(self, *_: object) -> None:
        pass

    def opened(self, _: str, path: object, setting: Setting) -> Opened:
        """Open a file whose name says the seconds that it computes."""
        self.threads.append(setting.threads)
        seconds = float(str(path))

        def run() -> None:
            self.turn += 1
            waits = 8 if self.turn % 5 == 0 else 0  # by the wall: a spike in a fifth of all runs
            self.own += seconds
            self.wall += seconds / setting.threads * (1 + waits) + 0.004 * (setting.threads > 1)

        return Opened(run, setting.shape, lambda: "float32")


def _files(*seconds: float) -> list[File]:
    return [File("onnxruntime", str(one), Setting(2, (64, 64))) for one in seconds]  # type: ignore[arg-type]  # a path that says its seconds


@pytest.mark.parametrize(
    ("others", "busy", "threads"),
    [([0.1, 0.2], False, {2}), ([1.9], True, {1}), ([0.1, 1.9], True, {2, 1})],
    ids=["idle", "busy", "busy meanwhile"],
)
def test_a_busy_machine_is_timed_by_one_threads_own_time(
    others: list[float], busy: bool, threads: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Shared(others)
    machine.install(monkeypatch)
    found = timed_files(_files(0.010, 0.004))
    assert found.busy is busy
    assert set(machine.threads) == threads
    if busy:
        assert found.ratio(1).middle == pytest.approx(0.4)
        assert found.ms() == pytest.approx(5), "a half of what one thread computes"
    else:
        assert found.ratio(1).middle == pytest.approx(6 / 9, rel=0.1), "with what threads wait"


def test_others_are_measured_by_what_this_process_did_not_take() -> None:
    with other_processes.watched() as found:
        sum(range(10**6))
    assert found.cores >= 1
    assert found.taken is None or 0 <= found.taken <= found.cores + 1


@pytest.mark.parametrize(
    ("text", "busy_s"),
    [
        ("cpu 9 9 9 9\ncpu0 100 20 30 999 999 1 2 47 500 500\ncpu1 7 0 0 0 0\nintr 5\n", 2.0),
        ("cpu 9 9 9 9\ncpu8 100 20 30 999 999 1 2 47\n", None),
        ("", None),
        ("cpu0 of another format\n", None),
    ],
    ids=["our core alone", "numbered otherwise", "empty", "not understood"],
)
def test_what_cores_did_is_read_of_those_that_we_may_use(
    text: str, busy_s: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(other_processes, "_STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    assert other_processes._busy_s() == busy_s


@pytest.mark.parametrize(
    ("cores", "taken", "threads", "busy"),
    [
        (2, 0.4, 2, False),
        (2, 0.6, 2, True),
        (2, 1.0, 1, False),
        (2, 1.5, 1, True),
        (16, 8.0, 2, False),
        (16, 5.0, 16, True),
        (2, None, 2, False),
    ],
)
def test_busy_is_what_leaves_less_than_three_quarters_of_the_cores_that_are_needed(
    cores: int, taken: float | None, threads: int, busy: bool
) -> None:
    found = Neighbours(cores, taken)
    assert found.busy(threads) is busy
    assert (other_processes.note(found, threads=threads) is not None) is busy
