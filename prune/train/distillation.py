"""Distillation: losses that compare a network with its teacher.

The teacher is usually the network before it was pruned. On outputs, it tells for every cell how
sure it is of an object, and where it is sure which box and class it detects (Hinton et al. 2015,
arXiv:1503.02531, for a detector whose boxes count by objectness, as Chen et al. 2017 weight the
background down). Each part has the unit and the gain of the detection loss's own part, so that the
two can be added.

On features before the heads, widths may differ, so that a 1x1 adapter maps the network's features
to the teacher's (FitNets, Romero et al. 2015, arXiv:1412.6550). The best adapter is known in closed
form, by least squares; it is solved on the first batch of every epoch instead of being trained: no
optimizer contains it, and nothing has to be removed from the network in the end. The loss is the
fraction of the teacher's variance that is not explained, so that it needs no gain of its own for
every level or network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  everybody's name for it

from prune.common.boxes import ciou
from prune.errors import InputError
from prune.models.darknet import Darknet
from prune.models.head import Yolo
from prune.models.loss import apply_gains, gains, level_balance

SURE = 0.05  # least objectness of a teacher whose box and classes are distilled


def output_loss(
    maps: Sequence[Tensor],
    teacher_maps: Sequence[Tensor],
    heads: Sequence[Yolo],
    *,
    hyp: Mapping[str, float],
) -> Tensor:
    """Compare maps of logits with a teacher's.

    Args:
        maps: one map of logits per head, [N, A * (5 + classes), ny, nx].
        teacher_maps: the teacher's, of the same shapes, without gradient.
        heads: the heads they come from, in the same order.
        hyp: gains `box`, `obj`, `cls` of the three parts, `distill` of their sum.

    Returns:
        A scalar that grows with the batch, as `detection_loss` does; zero where both agree.
    """
    scales = gains(len(heads), hyp)
    total = maps[0].new_zeros((), dtype=torch.float32)
    for raw, target, head, weight in zip(
        maps, teacher_maps, heads, level_balance(heads), strict=True
    ):
        box, objectness, label = _level(head.split(raw.float()), head.split(target.float()), head)
        total = total + sum(apply_gains((box, weight * objectness, label), scales))
    return hyp["distill"] * total * len(maps[0])


def _level(values: Tensor, targets: Tensor, head: Yolo) -> tuple[Tensor, Tensor, Tensor]:
    """Return one level's parts without gains; values, targets are [N, A, ny, nx, 5 + classes]."""
    objectness = _divergence(values[..., 4], targets[..., 4]).mean()
    anchors = head.anchors[:, None, None].expand(*values.shape[:4], 2)
    pick = _pick_all if values.is_cuda else _pick_sure
    found, wanted, anchor = pick((values, targets, anchors), targets[..., 4])  # [P, ...] each
    sure = wanted[:, 4].sigmoid()
    sure = torch.where(sure > SURE, sure, 0)
    # A weight of 0 does not help against an unbounded size, whose gradient is not a number.
    found = torch.where(sure[:, None] > 0, found, wanted)
    weights = sure / sure.sum().clamp(min=SURE)  # [P]
    overlap = ciou(_box(found, anchor, head), _box(wanted, anchor, head))
    divergence = _softmax_divergence if head.softmax else _divergence
    label = divergence(found[:, 5:], wanted[:, 5:]).mean(dim=1)
    if head.classes == 1:  # the detection loss does not train its logit either
        label = 0 * label
    return (weights * (1 - overlap)).sum(), objectness, (weights * label).sum()


def _pick_sure(maps: Sequence[Tensor], objectness: Tensor) -> list[Tensor]:
    """Pick the few cells that the teacher is sure of: a CPU computes no others."""
    places = objectness.sigmoid() > SURE
    return [values[places] for values in maps]


def _pick_all(maps: Sequence[Tensor], _: Tensor) -> list[Tensor]:
    """Pick all cells: a GPU computes them before the host knows how many are sure."""
    return [values.flatten(0, 3) for values in maps]


def _box(values: Tensor, anchors: Tensor, head: Yolo) -> Tensor:
    """Return boxes relative to their cell's corner: cx, cy, w, h in pixels, [P, 4]."""
    offset, size = head.box(values[:, :4], anchors)
    return torch.cat((offset * head.stride, size), dim=1)


def _divergence(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of two Bernoulli distributions, in nats."""
    target = target_logits.sigmoid()
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    own = F.binary_cross_entropy_with_logits(target_logits, target, reduction="none")
    return cross - own


def _softmax_divergence(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the terms of the Kullback-Leibler divergence of two softmax distributions, in nats."""
    target = target_logits.log_softmax(dim=-1)
    return target.exp() * (target - logits.log_softmax(dim=-1))


def expect_alike(teacher: Darknet, student: Darknet) -> None:
    """Check that the maps of two networks can be compared.

    Raises:
        InputError: other strides, anchors or classes, or boxes decoded otherwise.
    """
    for name in ("stride", "classes", "anchors", "scale_x_y", "new_coords", "softmax"):
        theirs, ours = ([_property(head, name) for head in net.heads] for net in (teacher, student))
        if theirs != ours:
            raise InputError(f"the teacher's heads have {name} {theirs}, the network's {ours}")


def _property(head: Yolo, name: str) -> object:
    value: object = getattr(head, name)
    return value.tolist() if isinstance(value, Tensor) else value


_RIDGE = 1e-3  # of the features' mean square: correlated channels do not get huge weights


@torch.no_grad()
def fit_adapter(
    features: Tensor, targets: Tensor, *, whole: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Fit an adapter by ridge least squares.

    Args:
        features: of the network, [N, C, ny, nx].
        targets: of the teacher, [N, T, ny, nx].
        whole: sums tensors over all processes, where these are only a part of a batch.

    Returns:
        Weights and, last, the constant, [T, C + 1].
    """
    x = _rows(features)  # [P, C]
    x = torch.cat((x, x.new_ones(len(x), 1)), dim=1)  # [P, C + 1]
    square, cross = x.T @ x, x.T @ _rows(targets)  # [C + 1, C + 1], [C + 1, T]
    if whole is not None:
        square, cross = whole(square), whole(cross)
    ridge = torch.full_like(square.diagonal(), _RIDGE * float(square.diagonal().mean()))
    ridge[-1] = 1e-6 * square[-1, -1]  # the constant is hardly shrunk
    adapter: Tensor = torch.linalg.solve(square + ridge.diag(), cross)
    return adapter.T.contiguous()


def feature_loss(
    features: Sequence[Tensor], targets: Sequence[Tensor], adapters: Sequence[Tensor]
) -> Tensor:
    """Return the mean over levels of the fraction of the teacher's variance not explained.

    Args:
        features: of the network, one per head, [N, C, ny, nx].
        targets: of the teacher, likewise, [N, T, ny, nx], without gradient.
        adapters: results of `fit_adapter`, one per head, [T, C + 1].

    Returns:
        A scalar: 0 where all is explained, 1 where only the mean is.
    """
    fractions = [_unexplained(*level) for level in zip(features, targets, adapters, strict=True)]
    return torch.stack(fractions).mean()


def _unexplained(features: Tensor, targets: Tensor, adapter: Tensor) -> Tensor:
    wanted = targets.float()
    found = F.conv2d(features.float(), adapter[:, :-1, None, None], adapter[:, -1])
    variance = (wanted - wanted.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    return (found - wanted).square().mean() / variance.clamp(min=1e-12)


def _rows(features: Tensor) -> Tensor:
    """Reshape [N, C, ny, nx] to one row per position, float32 [P, C]."""
    return features.float().movedim(1, -1).flatten(0, -2)
