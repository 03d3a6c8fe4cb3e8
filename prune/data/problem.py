"""One thing that is wrong with a data set, and where."""

from dataclasses import dataclass
from pathlib import Path

from prune.common.inputs import printable

# What may be wrong with a box; all but a clipped one are dropped.
CLIPPED = "box reaches out of the picture"
OUTSIDE = "box outside the picture"
DEGENERATE = "degenerate box"
DUPLICATE = "duplicate box"

# What may be wrong with an image, which is left out then.
BROKEN = "broken image"
MISSING = "image missing"
UNREADABLE = "format not read"


@dataclass(frozen=True)
class Problem:
    """What is wrong, in which file and, where known, in which line.

    `kind` is a few fixed words that can be counted; `detail` is about this one.
    A fatal problem is one that training refuses; the others are remarks.
    """

    kind: str
    path: Path
    line: int | None = None
    detail: str = ""
    fatal: bool = False

    def __str__(self) -> str:
        """Write "file:line: kind: detail", as compilers do."""
        place = f"{self.path}:{self.line}" if self.line else str(self.path)
        return f"{place}: {self.kind}" + (f": {printable(self.detail)}" if self.detail else "")
