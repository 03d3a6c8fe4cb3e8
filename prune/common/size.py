"""The size of an image as a network sees it: height and width, in this order everywhere."""

from __future__ import annotations

import math
from typing import NamedTuple

from prune.common.dimensions import INPUT, SIDE

Sides = int | tuple[int, int]
"""What functions that others call take: the side of a square, or height and width, in pixels."""


class Size(NamedTuple):
    """Height and width in pixels; a square prints as one number, all others as "288 x 352"."""

    height: int
    width: int

    @classmethod
    def of(cls, value: Sides) -> Size:
        """Take the side of a square, or height and width."""
        return cls(value, value) if isinstance(value, int) else cls(*value)

    @classmethod
    def read(cls, value: object) -> Size | None:
        """Read what `plain` wrote: one whole number or two; None where it is neither."""
        sides = value if isinstance(value, (list, tuple)) else [value]
        whole = [side for side in sides if isinstance(side, int) and not isinstance(side, bool)]
        if len(whole) != len(sides) or len(whole) not in (1, 2):
            return None
        return cls(whole[0], whole[-1])

    @property
    def square(self) -> bool:
        """Tell whether both sides are equal."""
        return self.height == self.width

    @property
    def plain(self) -> int | list[int]:
        """What files and JSON hold: the side of a square, or [height, width]."""
        return self.height if self.square else [self.height, self.width]

    @property
    def words(self) -> tuple[str, ...]:
        """What stands behind --img-size on a command line."""
        return (str(self.height),) if self.square else (str(self.height), str(self.width))

    @property
    def described(self) -> str:
        """What a message says: "320 pixels", or "288 x 352 pixels (height x width)"."""
        return f"{self} pixels" if self.square else f"{self} pixels (height x width)"

    def __str__(self) -> str:
        return str(self.height) if self.square else f"{self.height} x {self.width}"

    def fits(self, stride: int) -> bool:
        """Tell whether both sides are positive multiples of a stride."""
        return all(side > 0 and side % stride == 0 for side in self)

    def raised(self, stride: int) -> Size:
        """Raise both sides to multiples of a stride, at least one each."""
        return Size(*(max(-(-side // stride), 1) * stride for side in self))

    def excess(self, number: int = 1, *, channels: int = 3) -> str:
        """Say which limit a batch of so many images of this size is above; "" where none is."""
        if max(self) > SIDE:
            return f"at most {SIDE} pixels per side are allowed"
        if math.prod(shape := self.batch(number, channels=channels)) > INPUT:
            shown = " x ".join(map(str, shape))
            return f"at most {INPUT:,} values per batch are allowed, and {shown} are more"
        return ""

    def batch(self, number: int = 1, *, channels: int = 3) -> tuple[int, int, int, int]:
        """Return the shape of so many images, [N, C, H, W]."""
        return number, channels, self.height, self.width
