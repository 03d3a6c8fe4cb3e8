"""Criteria against their formulas, filter by filter."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn

from prune.core.importance.criteria import CRITERIA, NEED_IMAGES
from prune.core.importance.group_importance import filters

LAYERS = {
    "convolution": nn.Conv2d(6, 4, 3),
    "grouped": nn.Conv2d(6, 4, 3, groups=2),
    "one axis": nn.Conv1d(6, 4, 3),
    "linear": nn.Linear(6, 4),
    "transposed": nn.ConvTranspose2d(6, 4, 3),
}
ORDERS = {"l1": 1, "l2": 2}


@pytest.mark.parametrize("criterion", ORDERS)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_norm_is_numpys_norm_of_each_filter(kind: str, criterion: str) -> None:
    layer = LAYERS[kind]
    scores = CRITERIA[criterion].importance(filters(layer), Generator())
    weight = layer.get_parameter("weight").detach().numpy()
    rows = weight.swapaxes(0, 1) if kind == "transposed" else weight
    expected = [np.linalg.norm(row.ravel(), ORDERS[criterion]) for row in rows]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)


def test_random_scores_depend_on_the_seed_alone() -> None:
    first, second = (torch.rand(5, 3) for _ in range(2))
    score = CRITERIA["random"].importance
    same = [score(weight, Generator().manual_seed(7)) for weight in (first, second)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], score(first, Generator().manual_seed(8)))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_gives_one_score_a_filter(criterion: str) -> None:
    assert CRITERIA[criterion].importance(torch.rand(5, 12), Generator()).shape == (5,)


# What each criterion makes of rows, a plain loop a formula; chance has none.
Numbers = NDArray[np.float64]


def _lamp(rows: Numbers) -> list[float]:
    squares = [float((row**2).sum()) for row in rows]
    return [own / sum(other for other in squares if other >= own) for own in squares]


FORMULAS: dict[str, Callable[[Numbers], list[float]]] = {
    "l1": lambda rows: [sum(map(abs, row)) for row in rows],
    "l2": lambda rows: [sum(value**2 for value in row) ** 0.5 for row in rows],
    "bn": lambda rows: [sum(map(abs, row)) for row in rows],
    "fpgm": lambda rows: [
        sum(float(np.linalg.norm(row - other)) for other in rows) for row in rows
    ],
    "lamp": _lamp,
    "taylor": lambda rows: [abs(sum(row)) for row in rows],
    "fisher": lambda rows: [sum(value**2 for value in row) for row in rows],
    "activation": lambda rows: [sum(map(abs, row)) for row in rows],
}


@pytest.mark.parametrize("criterion", FORMULAS)
@pytest.mark.parametrize("channels", [1, 2, 40])
def test_a_criterion_is_its_formula(criterion: str, channels: int) -> None:
    rows = torch.randn(channels, 7, generator=Generator().manual_seed(channels))
    found = CRITERIA[criterion].importance(rows, Generator())
    expected = FORMULAS[criterion](rows.double().numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-3)


def test_every_criterion_but_chance_has_its_formula_here() -> None:
    assert set(CRITERIA) - set(FORMULAS) == {"random"}


def test_criteria_that_need_images_are_named() -> None:
    assert set(NEED_IMAGES) == {"taylor", "fisher", "activation"}


def _score(criterion: str, rows: Tensor) -> list[float]:
    return [float(score) for score in CRITERIA[criterion].importance(rows, Generator())]


def test_fpgm_scores_the_one_in_the_middle_lowest() -> None:
    rows = torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 0.5], [2.0, -4.0], [2.0, 4.0]])
    assert int(np.argmin(_score("fpgm", rows))) == 2


def test_the_largest_scores_one_by_lamp_whatever_its_size() -> None:
    for scale in (1e-6, 1.0, 1e6):
        assert _score("lamp", scale * torch.tensor([[3.0], [1.0]])) == pytest.approx([1, 0.1])


def test_rows_of_zeros_score_nothing_and_are_no_error() -> None:
    for criterion in FORMULAS:
        assert _score(criterion, torch.zeros(3, 2)) == [0, 0, 0]


def test_a_change_that_cancels_scores_nothing_by_taylor_but_by_l1() -> None:
    rows = torch.tensor([[1.0, -1.0]])
    assert _score("taylor", rows) == [0]
    assert _score("l1", rows) == [2]
