"""Deal images out to train, val and test, the same way for the same seed."""

import hashlib
import re
from collections.abc import Collection, Sequence

from prune.common.wording import counted
from prune.data.document import SPLITS
from prune.errors import DataError

SHARES = (0.8, 0.1, 0.1)

# Words in the name of a file or folder that name its split.
WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "minival": "val",
    "test": "test",
    "testing": "test",
}


def deal(stems: Collection[str], *, shares: Sequence[float], seed: int) -> dict[str, list[str]]:
    """Deal names out to the splits; a split with a fraction of 0 gets none.

    The order is that of a hash of seed and name: it depends neither on the order given nor on a
    library's random numbers, and a few new images leave most of the others where they were.

    Args:
        stems: the images' names.
        shares: fractions of train, val and test; they are divided by their sum.
        seed: another seed deals differently.

    Raises:
        DataError: a split with a fraction above 0 would get nothing.
    """
    order = sorted(stems, key=lambda stem: hashlib.sha256(f"{seed}:{stem}".encode()).digest())
    dealt = {
        name: sorted(order[own.start : own.stop])
        for name, own in ranges(len(order), shares).items()
    }
    for name, share in zip(SPLITS, shares, strict=True):
        if share > 0 and not dealt[name]:
            raise DataError(
                f"{counted(len(order), 'image is', 'images are')} too few: a fraction of "
                f"{share} leaves none for {name}; give other fractions, e.g. --split 0.5,0.5,0"
            )
    return dealt


def split_of(folders: Sequence[str]) -> str | None:
    """Read the split from folders, the outermost first: one called so, else one that has the word.

    In test_data/train the inner folder decides.
    """
    called = (WORDS[name.lower()] for name in folders if name.lower() in WORDS)
    worded = (split for name in folders if (split := split_in(name)))
    return next(called, None) or next(worded, None)


def split_in(name: str) -> str | None:
    """Read the split from a name's words; a name with two names none."""
    words = {WORDS[word] for word in re.split("[^a-z]+", name.lower()) if word in WORDS}
    return words.pop() if len(words) == 1 else None


def usual_shares(count: int, *, test: bool = True) -> tuple[float, float, float]:
    """Return the fractions of train, val and test where none are given.

    Of so few images that a split would get none, val gets one, and test if there are five.
    """
    shares = (*SHARES[:2], SHARES[2] if test else 0.0)
    dealt = ranges(count, shares)
    if all(dealt[name] for name, share in zip(SPLITS, shares, strict=True) if share):
        return shares
    val, rest = int(count > 1), int(test and count > 4)
    return count - val - rest, val, rest


def ranges(count: int, shares: Sequence[float]) -> dict[str, range]:
    """Divide so many images in a row among train, val and test; `shares` as in `deal`."""
    edges = [round(count * sum(shares[: i + 1]) / sum(shares)) for i in range(len(shares))]
    return dict(zip(SPLITS, map(range, [0, *edges], edges), strict=False))
