"""The schedule: its ends, its warm-up, and how it is cut to short runs."""

from collections.abc import Sequence

import pytest

from prune.common.hyperparameters import SCRATCH
from prune.common.size import Size
from prune.errors import InputError
from prune.train.config import SCHEDULES
from prune.train.optim import SHAPES, in_last_fraction, plan_schedule, plateau_factor
from prune.train.settings import Settings

LONG = plan_schedule(SCRATCH, epochs=100, batches=50, accumulate=4)  # 150 of 5000 are warm-up


def test_warm_up_starts_at_rest_with_eager_biases() -> None:
    first = LONG.at(0)
    assert (first.rate, first.bias_rate, first.momentum) == (0, 0.1, 0.8)


def test_after_warm_up_all_groups_go_alike() -> None:
    setting = LONG.at(LONG.warmup)
    assert setting.rate == setting.bias_rate == pytest.approx(0.01, rel=0.01)
    assert setting.momentum == 0.937


def test_updates_gather_more_and_more_over_a_thousand_batches() -> None:
    assert [LONG.accumulated(batch) for batch in (0, 200, 400, 600, 900, 5000)] == [
        1,
        2,
        2,
        3,
        4,
        4,
    ]


@pytest.mark.parametrize("batches", [2, 50, 51])
@pytest.mark.parametrize("epochs", [3, 100], ids=["within the ramp", "beyond it"])
def test_updates_are_counted_as_they_come(epochs: int, batches: int) -> None:
    schedule = plan_schedule(SCRATCH, epochs=epochs, batches=batches, accumulate=4)
    updates = 0
    for epoch in range(epochs):
        waiting = 0
        for index in range(batches):
            waiting += 1
            if waiting >= schedule.accumulated(epoch * batches + index) or index == batches - 1:
                waiting, updates = 0, updates + 1
    assert schedule.updates() == updates


@pytest.mark.parametrize(
    ("share", "closed"), [(0.0, []), (0.3, [7, 8, 9]), (0.04, []), (1.0, list(range(10)))]
)
def test_the_last_share_of_epochs_is_counted_from_the_end(share: float, closed: list[int]) -> None:
    assert [n for n in range(10) if in_last_fraction(n, epochs=10, fraction=share)] == closed


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_rate_falls_steadily_from_all_to_its_last_share(shape: str) -> None:
    schedule = plan_schedule(SCRATCH, epochs=10, batches=10, accumulate=1, shape=shape)
    shares = [schedule.factor(batch) for batch in range(101)]
    assert shares[0] == pytest.approx(1)
    assert shares[50] == pytest.approx(0.6)  # halfway, both are halfway down
    assert shares[100] == pytest.approx(0.2)
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("epochs", "batches", "warmup"),
    [(300, 1000, 3000), (60, 13, 39), (10, 13, 13), (1, 4, 0)],
    ids=["large set", "small set", "short run", "one epoch"],
)
def test_warm_up_is_three_epochs_but_a_tenth_of_the_run_at_most(
    epochs: int, batches: int, warmup: int
) -> None:
    assert plan_schedule(SCRATCH, epochs=epochs, batches=batches, accumulate=4).warmup == warmup


def test_run_without_warm_up_starts_at_full_rate() -> None:
    schedule = plan_schedule({**SCRATCH, "warmup_epochs": 0}, epochs=10, batches=10, accumulate=4)
    assert schedule.at(0).rate == pytest.approx(0.01)
    assert schedule.accumulated(0) == 4


def test_command_offers_every_shape() -> None:
    assert list(SHAPES) == list(SCHEDULES)


def test_steps_are_a_tenth_each_at_80_and_90_percent() -> None:
    schedule = plan_schedule(SCRATCH, epochs=10, batches=10, accumulate=1, shape="multistep")
    shares = [schedule.factor(batch) for batch in (0, 79, 80, 89, 90, 99)]
    assert shares == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_one_cycle_climbs_to_all_at_30_percent_and_falls_to_its_last_share() -> None:
    schedule = plan_schedule(SCRATCH, epochs=10, batches=10, accumulate=1, shape="one-cycle")
    shares = [schedule.factor(batch) for batch in range(101)]
    assert (shares[0], shares[30], shares[100]) == pytest.approx((0.1, 1, 0.2))
    assert shares[:31] == sorted(shares[:31])
    assert shares[30:] == sorted(shares[30:], reverse=True)


def test_one_cycle_is_its_own_warm_up() -> None:
    schedule = plan_schedule(SCRATCH, epochs=10, batches=10, accumulate=1, shape="one-cycle")
    first = schedule.at(0)
    assert first.rate == first.bias_rate == pytest.approx(0.1 * 0.01)
    assert first.momentum == 0.937


@pytest.mark.parametrize(
    ("fitnesses", "factor"),
    [
        ((), 1),
        ((0.1, 0.2, 0.3, 0.4), 1),
        ((0.5, 0.4), 1),
        ((0.5, 0.4, 0.5), 0.3),
        ((0.5, 0.4, 0.6, 0.5), 1),
        ((0.5, 0.4, 0.4, 0.4, 0.4), 0.09),
        ((0.5, 0.4, 0.4, 0.6, 0.5), 0.3),
    ],
    ids=[
        "none yet",
        "rising",
        "too early",
        "equal is no better",
        "in time",
        "twice",
        "rises again",
    ],
)
def test_plateau_lowers_the_rate_after_two_scores_without_a_better_one(
    fitnesses: Sequence[float], factor: float
) -> None:
    assert plateau_factor(fitnesses, 2) == pytest.approx(factor)


@pytest.mark.parametrize(
    ("epochs", "every", "patience"), [(20, 1, 5), (200, 1, 20), (200, 10, 5)], ids=str
)
def test_plateau_is_five_scores_or_a_tenth_of_all(epochs: int, every: int, patience: int) -> None:
    assert Settings(epochs=epochs, imgsz=Size.of(64), val_every=every).plateau == patience


def test_plateau_and_patience_need_scores() -> None:
    with pytest.raises(InputError, match="plateau needs epochs that are evaluated"):
        Settings(epochs=5, imgsz=Size.of(64), val_every=0, schedule="plateau")
    with pytest.raises(InputError, match="patience needs epochs that are evaluated"):
        Settings(epochs=5, imgsz=Size.of(64), val_every=0, patience=3)


def test_unknown_schedule_is_named() -> None:
    with pytest.raises(InputError, match="schedule is 'step'; it can be cosine"):
        Settings(epochs=5, imgsz=Size.of(64), schedule="step")
