"""Which cells of a head predict which boxes: fitting anchors, the centre's cell, its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .head import Yolo

# In the order in which they claim objectness: a later one overwrites an earlier one.
_STEPS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))


class Positives(NamedTuple):
    """The anchor cells of one level that predict a box; one row each, P rows.

    Attributes:
        image: its position in the batch, [P].
        anchor: the anchor's position in the head, [P].
        row: the cell's row, [P].
        column: the cell's column, [P].
        box: the box as centre from the cell's corner in cells and size in pixels, [P, 4].
        label: the box's class, [P].
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    box: Tensor
    label: Tensor


def assign(head: Yolo, targets: Tensor, *, grid: tuple[int, int], anchor_t: float) -> Positives:
    """Match boxes with the anchors and cells of one head.

    An anchor fits a box when the ratio of neither pair of sides reaches `anchor_t`. The cell of the
    box's centre predicts it, and so do the nearest cell beside and the nearest cell above or below,
    where they exist and where the head's decoding reaches half a cell beyond its own.

    Args:
        head: the level's anchors, stride and decoding.
        targets: rows (image, class, cx, cy, w, h), the box relative to the image, [M, 6]; on any
            device, on the CPU by preference: the number of matches decides the shapes of all that
            follows, for which the host would wait for a GPU.
        grid: rows and columns of the level's map.
        anchor_t: the ratio of sides from which an anchor does not fit.

    Returns:
        The positives in the order step, anchor, box.
    """
    size = targets.new_tensor((grid[1], grid[0]))  # columns, rows
    centre, wanted = targets[:, 2:4] * size, targets[:, 4:6] * size * head.stride  # [M, 2] each
    cell = torch.minimum(centre.floor(), size - 1)  # [M, 2]; a centre on the far edge is inside
    reach = _reachable(centre - cell, cell, size, neighbours=_reaches_neighbours(head))  # [S, M]
    fits = worst_ratio(targets.new_tensor(head.sizes), wanted) < anchor_t  # [A, M]
    step, anchor, box = (reach[:, None] & fits).nonzero(as_tuple=True)  # [P] each
    owner = cell[box] + targets.new_tensor(_STEPS)[step]  # [P, 2]
    return Positives(
        image=targets[box, 0].long(),
        anchor=anchor,
        row=owner[:, 1].long(),
        column=owner[:, 0].long(),
        box=torch.cat((centre[box] - owner, wanted[box]), dim=1),
        label=targets[box, 1].long(),
    )


def last_claims(cells: Tensor, count: int) -> Tensor:
    """Tell which claims are valid where several rows claim one cell: the last of each.

    With an indexed write the order would depend on the device; with a maximum it does not.

    Args:
        cells: flat index of the cell that each row claims, [P].
        count: number of cells.

    Returns:
        True for the valid rows, [P].
    """
    position = torch.arange(len(cells), device=cells.device)
    last = position.new_full((count,), -1).scatter_reduce(0, cells, position, "amax")
    return last[cells] == position


def worst_ratio(anchors: Tensor, wanted: Tensor) -> Tensor:
    """Return the ratio of sides of anchors [A, 2] and boxes [M, 2], larger by smaller, [A, M].

    Of width and height it is the larger ratio.
    """
    ratio = wanted / anchors[:, None]  # [A, M, 2]
    return torch.maximum(ratio, 1 / ratio).amax(dim=-1)


def _reachable(offset: Tensor, cell: Tensor, size: Tensor, *, neighbours: bool) -> Tensor:
    """Tell which cells around that of its centre predict a box, [S, M]."""
    low = (offset < 0.5) & (cell > 0)  # [M, 2]: left, above
    high = (offset > 0.5) & (cell < size - 1)  # [M, 2]: right, below
    steps = torch.cat((low, high), dim=1).T & neighbours  # [4, M]
    return torch.cat((steps.new_ones(1, len(offset)), steps))


def _reaches_neighbours(head: Yolo) -> bool:
    """Tell whether the decoded centre, scale * p - (scale - 1) / 2, spans half a cell each way."""
    return head.scale_x_y >= 2
