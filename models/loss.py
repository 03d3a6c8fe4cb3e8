"""The detection loss: where boxes are (CIoU), whether there is one (objectness), of what class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (torch's own habit)

from prune.common.boxes import ciou
from prune.errors import TrainError

from .assignment import Positives, assign, last_claims

if TYPE_CHECKING:
    from .head import Yolo

# How much a level's objectness counts, finest level first: it has the most cells, and a small mean.
_BALANCE: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (4.0, 1.0),
    3: (4.0, 1.0, 0.4),
    4: (4.0, 1.0, 0.4, 0.1),
    5: (4.0, 1.0, 0.5, 0.4, 0.1),
}


# Counts of a share of a batch -> of the whole batch.
Count = Callable[[Sequence[int]], Sequence[int]]


def detection_loss(
    maps: Sequence[Tensor],
    heads: Sequence[Yolo],
    targets: Tensor,
    *,
    hyp: Mapping[str, float],
    whole: Count = tuple,
) -> tuple[Tensor, Tensor]:
    """Compare a batch's raw maps with its boxes.

    A class loss is counted only where there are several classes, as the published recipe does.

    Args:
        maps: one map of logits a head, [N, A * (5 + classes), ny, nx].
        heads: the heads they come from, in the same order.
        targets: rows (picture, class, cx, cy, w, h), the box normalised to the picture, [M, 6];
            no rows are fine. On the CPU by preference, wherever the maps are; see `assign`.
        hyp: gains `box`, `obj`, `cls`, positive weights `obj_pw`, `cls_pw`, `anchor_t`,
            `label_smoothing`.
        whole: where `maps` are a share of a batch: sums counts over all shares. Every mean is one
            over the whole batch, so that the shares' losses and parts sum to the batch's.

    Returns:
        The loss to descend, a scalar that grows with the batch (items' sum x N), and its parts
        without gradient: box, obj, cls, sum, [4].

    Raises:
        TrainError: more heads than the recipe has weights for.
    """
    balance = level_balance(heads)
    levels = [
        assign(head, targets, grid=(raw.shape[2], raw.shape[3]), anchor_t=hyp["anchor_t"])
        for raw, head in zip(maps, heads, strict=True)
    ]
    pictures, *positives = whole([len(maps[0]), *(len(found.label) for found in levels)])
    scales = gains(len(heads), hyp)
    total = maps[0].new_zeros(3, dtype=torch.float32)  # box, obj, cls
    for raw, head, found, weight, count in zip(
        maps, heads, levels, balance, positives, strict=True
    ):
        box, objectness, label = _level_loss(
            raw.float(), head, found, hyp, pictures=pictures, positives=count
        )
        total = total + torch.stack(gained((box, weight * objectness, label), scales))
    items = torch.cat((total, total.sum(dim=0, keepdim=True)))  # [4]
    return items[3] * pictures, items.detach()


def _level_loss(
    raw: Tensor,
    head: Yolo,
    found: Positives,
    hyp: Mapping[str, float],
    *,
    pictures: int,
    positives: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one level's box, objectness and class loss, without gains.

    They are means over so many pictures' cells, and so many positives, which are settled where
    `found` is.
    """
    values = head.split(raw)  # [N, A, ny, nx, 5 + classes]
    claims = _claims(found, values.shape[:4])
    found = Positives(*(_sent(tensor, raw.device) for tensor in found))
    claims = _Claims(*(_sent(tensor, raw.device) for tensor in claims))
    chosen = values[found.picture, found.anchor, found.row, found.column]  # [P, 5 + classes]
    overlap = _overlap(chosen, found, head)  # [P]
    objectness = F.binary_cross_entropy_with_logits(
        values[..., 4],
        _objectness_target(values[..., 4], claims, overlap.detach()),
        pos_weight=values.new_full((), hyp["obj_pw"]),
        reduction="none",
    )  # [N, A, ny, nx]
    cells = pictures * objectness[:1].numel() if len(raw) else 1
    loss = _one_class_loss if head.softmax else _class_loss
    label = loss(chosen[:, 5:], found.label, hyp)  # [P, classes] or nothing
    return (
        _mean(1 - overlap, positives),
        _mean(objectness, cells),
        _mean(label, positives * label.shape[1]),
    )


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor to where it is needed; from pinned memory a copy to a GPU keeps nobody."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _overlap(chosen: Tensor, found: Positives, head: Yolo) -> Tensor:
    """Return the CIoU of each positive's decoded box with the box it answers for, [P]."""
    offset, size = head.box(chosen[:, :4], head.anchors[found.anchor])  # cells, px
    wanted = torch.cat((found.box[:, :2] * head.stride, found.box[:, 2:]), dim=1)
    return ciou(torch.cat((offset * head.stride, size), dim=1), wanted)


class _Claims(NamedTuple):
    """Which positives an anchor cell's objectness goes by: one each, [K]; and the cell, [K]."""

    positive: Tensor
    cell: Tensor


def _claims(found: Positives, shape: Sequence[int]) -> _Claims:
    """Settle which positive each claimed cell of a [N, A, ny, nx] map answers for."""
    _, anchors, rows, columns = shape
    cell = ((found.picture * anchors + found.anchor) * rows + found.row) * columns + found.column
    (stands,) = last_claims(cell, prod(shape)).nonzero(as_tuple=True)
    return _Claims(stands, cell[stands])


def _objectness_target(logits: Tensor, claims: _Claims, overlap: Tensor) -> Tensor:
    """Return how well each anchor cell's box fits, zero where there is none, [N, A, ny, nx]."""
    target = torch.zeros_like(logits, memory_format=torch.contiguous_format).flatten()
    target[claims.cell] = overlap[claims.positive].clamp(min=0)
    return target.view(logits.shape)


def _class_loss(logits: Tensor, label: Tensor, hyp: Mapping[str, float]) -> Tensor:
    """Return the binary cross entropy of the positives' classes; all [P, classes].

    Nothing, [P, 0], where there is one class.
    """
    if logits.shape[1] == 1:
        return logits[:, 1:]
    low = 0.5 * hyp["label_smoothing"]
    target = torch.full_like(logits, low).scatter_(1, label[:, None], 1 - low)
    return F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=logits.new_full((), hyp["cls_pw"]), reduction="none"
    )


def _one_class_loss(logits: Tensor, label: Tensor, hyp: Mapping[str, float]) -> Tensor:
    """Return the cross entropy of the positives' classes where they exclude one another.

    Its terms lie at the classes, [P, classes], and sum to it: the mean over them is as large as
    that of `_class_loss`, and so is the gain that suits it. Nothing, [P, 0], where there is one
    class.
    """
    classes = logits.shape[1]
    if classes == 1:
        return logits[:, 1:]
    low = hyp["label_smoothing"] / classes
    target = torch.full_like(logits, low).scatter_(
        1, label[:, None], 1 - hyp["label_smoothing"] + low
    )
    return -hyp["cls_pw"] * target * logits.log_softmax(dim=1)


def _mean(values: Tensor, count: int) -> Tensor:
    """Return the sum's share of a mean over so many; a zero with a gradient where none are."""
    return values.sum() / max(count, 1)


def level_balance(heads: Sequence[Yolo]) -> list[float]:
    """Return each head's objectness weight, by stride: a cfg may list heads either way."""
    if len(heads) not in _BALANCE:
        raise TrainError(f"the network has {len(heads)} heads; the loss knows 1 to {max(_BALANCE)}")
    table = _BALANCE[len(heads)]
    finest_first = sorted(range(len(heads)), key=lambda i: heads[i].stride)
    return [table[finest_first.index(i)] for i in range(len(heads))]


def gained(parts: Sequence[Tensor], scales: Sequence[float]) -> tuple[Tensor, ...]:
    """Weigh box, objectness and class by plain numbers.

    A tensor of them would be copied to a GPU, and the host would wait for all that is queued there.
    """
    return tuple(scale * part for scale, part in zip(scales, parts, strict=True))


def gains(levels: int, hyp: Mapping[str, float]) -> tuple[float, float, float]:
    """Scale the gains, which were tuned on three levels, to the number of levels."""
    share = 3 / levels
    objectness = hyp["obj"] * share * (1.4 if levels >= 4 else 1.0)
    return hyp["box"] * share, objectness, hyp["cls"] * share
