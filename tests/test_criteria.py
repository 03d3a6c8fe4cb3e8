"""Criteria against their formulas, filter by filter."""

import numpy as np
import pytest
import torch
from torch import Generator, nn

from prune.criteria import CRITERIA
from prune.ranking import filters

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
    scores = CRITERIA[criterion].score(filters(layer), Generator())
    weight = layer.get_parameter("weight").detach().numpy()
    rows = weight.swapaxes(0, 1) if kind == "transposed" else weight
    expected = [np.linalg.norm(row.ravel(), ORDERS[criterion]) for row in rows]
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-5)


def test_random_scores_depend_on_the_seed_alone() -> None:
    first, second = (torch.rand(5, 3) for _ in range(2))
    score = CRITERIA["random"].score
    same = [score(weight, Generator().manual_seed(7)) for weight in (first, second)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], score(first, Generator().manual_seed(8)))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_gives_one_score_a_filter(criterion: str) -> None:
    assert CRITERIA[criterion].score(torch.rand(5, 12), Generator()).shape == (5,)
