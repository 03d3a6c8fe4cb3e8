"""How well a network's anchors fit the boxes of the data, and anchors that fit them better.

Training assigns a box to the anchors with sides within a factor of its own (see assignment.py);
a box that no anchor fits is not learned. Better anchors are the centres of the boxes' sizes by
k-means, improved by random moves (k-means of sizes: Redmon and Farhadi 2017, arXiv:1612.08242; here
of their logarithms, since ratios count).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from prune import checkpoint
from prune.data.augment import MIN_SIDE
from prune.data.frames import loading_size
from prune.data.store import Images, original_sizes
from prune.models.assignment import worst_ratio
from prune.models.darknet import Darknet
from prune.models.sections import with_anchors

ENOUGH = 0.98  # best possible recall from which anchors stay as they are
_SEARCHED = 10_000  # boxes that new anchors are searched on; they are then measured on all
_MOVES = 1000
_STEP = 0.1  # spread of a move, in natural logarithms of a side


@dataclass(frozen=True)
class Fit:
    """How anchors fit boxes.

    Attributes:
        recall: the fraction of boxes that some anchor fits, which is the best possible recall.
        anchors: mean number of anchors that fit a box.
        ratio: mean over boxes of the ratio of sides to the nearest anchor: 1 for equal sides, 0
            where no anchor fits.
    """

    recall: float
    anchors: float
    ratio: float

    def __str__(self) -> str:
        return f"best possible recall {self.recall:.4f}, {self.anchors:.2f} anchors per box"


def measure(anchors: Tensor, sizes: Tensor, *, anchor_t: float) -> Fit:
    """Measure how anchors [A, 2] fit boxes [M, 2], widths and heights in pixels.

    `anchor_t` is the ratio of sides from which an anchor does not fit.
    """
    worst = worst_ratio(anchors, sizes)  # [A, M]
    fits = worst < anchor_t
    return Fit(
        recall=float(fits.any(dim=0).double().mean()),
        anchors=float(fits.sum(dim=0).double().mean()),
        ratio=float(_nearness(worst, anchor_t).amax(dim=0).double().mean()),
    )


def box_sizes(images: Images) -> Tensor:
    """List the boxes' widths and heights in pixels at the loading size, [M, 2].

    Boxes so thin that training leaves them out are left out here too.
    """
    loaded = [loading_size(size, images.imgsz) for size in original_sizes(images)]
    sizes = [
        boxes[:, 3:5] * np.array(shape[::-1], dtype=np.float32)
        for boxes, shape in zip(images.labels, loaded, strict=True)
    ]
    joined = torch.from_numpy(np.concatenate(sizes))
    return joined[joined.amin(dim=1) > MIN_SIDE]


def fit_anchors(
    net: Darknet, sizes: Tensor, *, anchor_t: float, seed: int, change: bool, force: bool = False
) -> tuple[Darknet, str]:
    """Check a network's anchors against boxes and, if they may be changed, fit them.

    Args:
        net: stays as it is.
        sizes: the boxes' widths and heights in pixels, [M, 2].
        anchor_t: the ratio of sides from which an anchor does not fit.
        seed: fixes the new anchors.
        change: whether to search new anchors where the best possible recall is below `ENOUGH`.
        force: whether to search them however good the old ones are.

    Returns:
        The network itself, or one with its weights and anchors that fit better; and a line on how
        the anchors fit, and whether they were replaced.
    """
    old = torch.cat([head.anchors for head in net.heads])  # [A, 2]
    if not len(sizes):
        return net, "anchors: the data has no boxes to fit them to"
    before = measure(old, sizes, anchor_t=anchor_t)
    if not force and before.recall >= ENOUGH:
        return net, f"anchors: {before}; they fit"
    if not force and not change:
        reason = "the weights are trained on them (or --autoanchor force)"
        return net, f"anchors: {before}; kept, as {reason}"
    if len(sizes) < len(old):
        return net, f"anchors: {before}; kept, {len(sizes)} boxes are too few to find others"
    new = _search(old, sizes, anchor_t=anchor_t, seed=seed)
    after = measure(new, sizes, anchor_t=anchor_t)
    if after.ratio <= before.ratio or after.recall < before.recall:
        return net, f"anchors: {before}; kept, none better were found"
    return replace_anchors(net, new), f"anchors: {before}; replaced by better ones: {after}"


def replace_anchors(net: Darknet, anchors: Tensor) -> Darknet:
    """Build a network with the same weights and other anchors, in eval mode.

    Args:
        net: its weights become those of the new one.
        anchors: as many as it has, widths and heights in pixels, [A, 2]; the smallest go to the
            head of the smallest stride.
    """
    ordered = anchors[anchors.prod(dim=1).argsort(stable=True)].tolist()
    heads = net.heads
    by_head: list[list[tuple[float, float]]] = [[] for _ in heads]
    for index in sorted(range(len(heads)), key=lambda index: heads[index].stride):
        count, unit = len(heads[index].anchors), heads[index].anchor_unit
        by_head[index] = [(width / unit, height / unit) for width, height in ordered[:count]]
        ordered = ordered[count:]
    return checkpoint.assemble(with_anchors(net.sections, by_head), net.state_dict())


def _search(old: Tensor, sizes: Tensor, *, anchor_t: float, seed: int) -> Tensor:
    """Search anchors that fit at least as well as the old ones, on some of the boxes, [A, 2]."""
    random = torch.Generator().manual_seed(seed)
    some = sizes[torch.randperm(len(sizes), generator=random)[: max(_SEARCHED, len(old))]]
    starts = (old, _centres(some, len(old), seed=seed))
    best = max(starts, key=lambda anchors: measure(anchors, some, anchor_t=anchor_t).ratio)
    moved = _search_randomly(best, some, anchor_t=anchor_t, random=random)
    return (moved * 100).round() / 100  # as the text of the cfg contains them


def _centres(sizes: Tensor, count: int, *, seed: int) -> Tensor:
    """Return the centres of `count` clusters of sizes in logarithmic space, [count, 2]."""
    cv2.setRNGSeed(seed % 2**31)
    until = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 100, 1e-4)
    labels = np.zeros((len(sizes), 1), dtype=np.int32)  # written to, not read
    _, _, centres = cv2.kmeans(sizes.log().numpy(), count, labels, until, 5, cv2.KMEANS_PP_CENTERS)
    return torch.from_numpy(centres).exp()


def _search_randomly(
    anchors: Tensor, sizes: Tensor, *, anchor_t: float, random: torch.Generator
) -> Tensor:
    """Move one anchor at a time randomly, and keep every move that improves the mean ratio."""
    anchors = anchors.clone()
    near = _nearness(worst_ratio(anchors, sizes), anchor_t)  # [A, M]
    best = near.amax(dim=0).mean()
    for move in range(_MOVES):
        index = move % len(anchors)
        trial = anchors[index] * (torch.randn(2, generator=random) * _STEP).exp()  # [2]
        row = _nearness(worst_ratio(trial[None], sizes), anchor_t)  # [1, M]
        changed = torch.cat((near[:index], row, near[index + 1 :]))
        reached = changed.amax(dim=0).mean()
        if reached > best:
            anchors[index], near, best = trial, changed, reached
    return anchors


def _nearness(worst: Tensor, anchor_t: float) -> Tensor:
    """Turn ratios of sides into 1 for equal and 0 for such as do not fit."""
    return (1 / worst).where(worst < anchor_t, 0)
