"""Windows that keep the grid: the cells that come out are those that went in, over the stride.

A window makes (n + padding - size) // stride + 1 cells of n. Of n = k stride cells that is k, for
every k, exactly where size - stride <= padding < size; of one cell it is one where size - 1 <=
padding < size - 1 + stride. Other windows leave a map that fits no other layer, and boxes at
another stride than the head's.
"""

from __future__ import annotations

from prune.common.dimensions import WINDOW

from .keys import count, flag, positive
from .sections import Section, fault, option

Strides = tuple[int, int]


def step(section: Section) -> Strides:
    """Read a window's stride, down and across."""
    both = option(section, "stride", positive, 1)
    return option(section, "stride_y", positive, both), option(section, "stride_x", positive, both)


def window(section: Section) -> tuple[int, int]:
    """Read the size of a [convolutional] or [maxpool], and its padding, both edges together."""
    if section.kind == "maxpool":
        size = option(section, "size", positive, option(section, "stride", positive, 1))
        return size, option(section, "padding", count, size - 1)
    size = option(section, "size", positive, 1)
    edge = size // 2 if option(section, "pad", flag, 0) else option(section, "padding", count, 0)
    return size, 2 * edge * dilation(section)


def dilation(section: Section) -> int:
    """Read how far apart the cells of a kernel are; Darknet spreads its padding as well."""
    return option(section, "dilation", positive, 1)


def reach(section: Section) -> int:
    """Count the cells that a window spans."""
    size, _ = window(section)
    return (size - 1) * (dilation(section) if section.kind == "convolutional" else 1) + 1


def check_extent(section: Section) -> None:
    """Check that a window and its padding are no larger than those of real networks.

    Raises:
        CfgError: they are.
    """
    for key, cells in (("size", reach(section)), ("padding", window(section)[1])):
        if cells > WINDOW:
            raise fault(section, key, f"comes to {cells:,} cells; at most {WINDOW} are allowed")


def check_grid(section: Section, *, one_cell: bool) -> None:
    """Check that a window keeps the grid, or the one cell that stands for the whole image.

    Raises:
        CfgError: it does not; the message says what to write.
    """
    size, padding = reach(section), window(section)[1]
    stride = min(step(section))  # the stricter of the two
    low, end = (size - 1, size - 1 + stride) if one_cell else (size - stride, size)
    if low <= padding < end:
        return
    cells = "one cell out of one" if one_cell else f"a cell out for {stride} in"
    wanted = "size=1 without padding" if one_cell else _better(section, size, stride)
    came = f"is {size}, which with {padding} cells of padding at stride {stride}"
    raise fault(section, "size", f"{came} does not make {cells}; write {wanted}")


def _better(section: Section, size: int, stride: int) -> str:
    """Return which keys would keep the grid."""
    if section.kind == "maxpool":
        return f"padding={size - 1}, or leave padding= out"
    if size % 2:
        return "pad=1"
    if stride > 1:
        return f"pad=0 and padding={size // 2 - 1}"
    return f"an odd size with pad=1, e.g. size={size + 1}"
