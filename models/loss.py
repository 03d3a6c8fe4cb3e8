"""The detection loss: location of boxes (CIoU), objectness, and class."""

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

# Weight of each level's objectness, finest level first: it has the most cells, and a small mean.
_BALANCE: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (4.0, 1.0),
    3: (4.0, 1.0, 0.4),
    4: (4.0, 1.0, 0.4, 0.1),
    5: (4.0, 1.0, 0.5, 0.4, 0.1),
}


# Counts of a part of a batch -> of the whole batch.
Count = Callable[[Sequence[int]], Sequence[int]]


def detection_loss(
    maps: Sequence[Tensor],
    heads: Sequence[Yolo],
    targets: Tensor,
    *,
    hyp: Mapping[str, float],
    whole: Count = tuple,
) -> tuple[Tensor, Tensor]:
    """Compare a batch's maps of logits with its boxes.

    The class loss counts only where there are several classes, as in the published recipe.

    Args:
        maps: one map of logits per head, [N, A * (5 + classes), ny, nx].
        heads: the heads they come from, in the same order.
        targets: rows (image, class, cx, cy, w, h), the box relative to the image, [M, 6]; M may
            be 0. On the CPU by preference, wherever the maps are; see `assign`.
        hyp: gains `box`, `obj`, `cls`, positive weights `obj_pw`, `cls_pw`, `anchor_t`,
            `label_smoothing`.
        whole: sums counts over all parts of a batch, where `maps` are one of them. Every mean is
            one over the whole batch, so that the losses of its parts sum to that of the batch.

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
    images, *positives = whole([len(maps[0]), *(len(found.label) for found in levels)])
    scales = gains(len(heads), hyp)
    total = maps[0].new_zeros(3, dtype=torch.float32)  # box, obj, cls
    for raw, head, found, weight, count in zip(
        maps, heads, levels, balance, positives, strict=True
    ):
        box, objectness, label = _level_loss(
            raw.float(), head, found, hyp, images=images, positives=count
        )
        total = total + torch.stack(apply_gains((box, weight * objectness, label), scales))
    items = torch.cat((total, total.sum(dim=0, keepdim=True)))  # [4]
    return items[3] * images, items.detach()


def _level_loss(
    raw: Tensor,
    head: Yolo,
    found: Positives,
    hyp: Mapping[str, float],
    *,
    images: int,
    positives: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return one level's box, objectness and class loss, without gains.

    They are means over the cells of so many images, and over so many positives. These are computed
    on the device of `found`.
    """
    values = head.split(raw)  # [N, A, ny, nx, 5 + classes]
    claims = _claims(found, values.shape[:4])
    found = Positives(*(_send(tensor, raw.device) for tensor in found))
    claims = _Claims(*(_send(tensor, raw.device) for tensor in claims))
    chosen = values[found.image, found.anchor, found.row, found.column]  # [P, 5 + classes]
    overlap = _overlap(chosen, found, head)  # [P]
    objectness = F.binary_cross_entropy_with_logits(
        values[..., 4],
        _objectness_target(values[..., 4], claims, overlap.detach()),
        pos_weight=values.new_full((), hyp["obj_pw"]),
        reduction="none",
    )  # [N, A, ny, nx]
    cells = images * objectness[:1].numel() if len(raw) else 1
    loss = _softmax_class_loss if head.softmax else _class_loss
    label = loss(chosen[:, 5:], found.label, hyp)  # [P, classes] or nothing
    return (
        _mean(1 - overlap, positives),
        _mean(objectness, cells),
        _mean(label, positives * label.shape[1]),
    )


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; from pinned memory without waiting for a GPU."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def _overlap(chosen: Tensor, found: Positives, head: Yolo) -> Tensor:
    """Return the CIoU of each positive's decoded box with its target box, [P]."""
    offset, size = head.box(chosen[:, :4], head.anchors[found.anchor])  # cells, px
    wanted = torch.cat((found.box[:, :2] * head.stride, found.box[:, 2:]), dim=1)
    return ciou(torch.cat((offset * head.stride, size), dim=1), wanted)


class _Claims(NamedTuple):
    """The positives that decide the objectness of an anchor cell, [K], and these cells, [K]."""

    positive: Tensor
    cell: Tensor


def _claims(found: Positives, shape: Sequence[int]) -> _Claims:
    """Decide which positive each claimed cell of a [N, A, ny, nx] map belongs to."""
    _, anchors, rows, columns = shape
    cell = ((found.image * anchors + found.anchor) * rows + found.row) * columns + found.column
    (valid,) = last_claims(cell, prod(shape)).nonzero(as_tuple=True)
    return _Claims(valid, cell[valid])


def _objectness_target(logits: Tensor, claims: _Claims, overlap: Tensor) -> Tensor:
    """Return how well each anchor cell's box fits, zero where there is none, [N, A, ny, nx]."""
    target = torch.zeros_like(logits, memory_format=torch.contiguous_format).flatten()
    target[claims.cell] = overlap[claims.positive].clamp(min=0)
    return target.view(logits.shape)


def _class_loss(logits: Tensor, label: Tensor, hyp: Mapping[str, float]) -> Tensor:
    """Return the binary cross entropy of the positives' classes, [P, classes].

    It is empty, [P, 0], where there is one class.
    """
    if logits.shape[1] == 1:
        return logits[:, 1:]
    low = 0.5 * hyp["label_smoothing"]
    target = torch.full_like(logits, low).scatter_(1, label[:, None], 1 - low)
    return F.binary_cross_entropy_with_logits(
        logits, target, pos_weight=logits.new_full((), hyp["cls_pw"]), reduction="none"
    )


def _softmax_class_loss(logits: Tensor, label: Tensor, hyp: Mapping[str, float]) -> Tensor:
    """Return the softmax cross entropy of the positives' classes.

    It is the sum of its terms, [P, classes], whose mean is as large as that of `_class_loss`, so
    that the same gain suits it. It is empty, [P, 0], where there is one class.
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
    """Divide the sum by a count, of the whole batch; zero with a gradient where that is zero."""
    return values.sum() / max(count, 1)


def level_balance(heads: Sequence[Yolo]) -> list[float]:
    """Return each head's objectness weight, by stride: a cfg may list heads either way."""
    if len(heads) not in _BALANCE:
        raise TrainError(f"the network has {len(heads)} heads; the loss knows 1 to {max(_BALANCE)}")
    table = _BALANCE[len(heads)]
    finest_first = sorted(range(len(heads)), key=lambda i: heads[i].stride)
    return [table[finest_first.index(i)] for i in range(len(heads))]


def apply_gains(parts: Sequence[Tensor], scales: Sequence[float]) -> tuple[Tensor, ...]:
    """Multiply box, objectness and class losses by plain numbers.

    A tensor of these would be copied to a GPU, and the host would wait for all that is queued.
    """
    return tuple(scale * part for scale, part in zip(scales, parts, strict=True))


def gains(levels: int, hyp: Mapping[str, float]) -> tuple[float, float, float]:
    """Scale the gains, which were tuned on three levels, to the number of levels."""
    factor = 3 / levels
    objectness = hyp["obj"] * factor * (1.4 if levels >= 4 else 1.0)
    return hyp["box"] * factor, objectness, hyp["cls"] * factor
