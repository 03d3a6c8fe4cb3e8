"""Deal pictures out to train, val and test, the same way for the same seed."""

import hashlib
from collections.abc import Collection, Sequence

from prune.data.spec import SPLITS
from prune.errors import DataError

SHARES = (0.8, 0.1, 0.1)


def deal(stems: Collection[str], *, shares: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Deal names out to the splits; a split with a share of 0 gets none.

    The order is that of a hash of seed and name: it depends neither on the order given nor on a
    library's random numbers, and a few new pictures leave most of the others where they were.

    Args:
        stems: the pictures' names.
        shares: parts of train, val and test; they are divided by their sum.
        seed: another seed deals differently.

    Raises:
        DataError: a split with a share would get nothing.
    """
    order = sorted(stems, key=lambda stem: hashlib.sha256(f"{seed}:{stem}".encode()).digest())
    dealt = {
        name: sorted(order[own.start : own.stop])
        for name, own in ranges(len(order), shares).items()
    }
    for name, share in zip(SPLITS, shares, strict=True):
        if share > 0 and not dealt[name]:
            raise DataError(
                f"{len(order)} pictures are too few: a share of {share} leaves none for {name}"
                f"; give other shares, e.g. --split 0.5,0.5,0"
            )
    return dealt


def ranges(count: int, shares: Sequence[float]) -> dict[str, range]:
    """Divide so many pictures in a row among train, val and test; `shares` as in `deal`."""
    edges = [round(count * sum(shares[: i + 1]) / sum(shares)) for i in range(len(shares))]
    return dict(zip(SPLITS, map(range, [0, *edges], edges), strict=False))
