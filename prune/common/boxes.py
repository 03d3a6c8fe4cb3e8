"""Boxes as tensors: conversions and overlaps.

"xywh" is centre x, centre y, width, height; "xyxy" is left, top, right, bottom.
Units are the caller's.
"""

import math

import torch
from torch import Tensor


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn centre and size into corners, [..., 4] -> [..., 4]."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Turn corners into centre and size, [..., 4] -> [..., 4]."""
    low, high = boxes[..., :2], boxes[..., 2:4]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair of xyxy boxes, [N, 4] x [M, 4] -> [N, M]."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])  # [N, M, 2]
    high = torch.minimum(first[:, None, 2:4], second[None, :, 2:4])  # [N, M, 2]
    inter = (high - low).clamp(min=0).prod(dim=-1)  # [N, M]
    area = (first[:, 2:4] - first[:, :2]).prod(dim=-1)  # [N]
    other = (second[:, 2:4] - second[:, :2]).prod(dim=-1)  # [M]
    return inter / (area[:, None] + other[None] - inter).clamp(min=1e-9)


def ciou(first: Tensor, second: Tensor, *, eps: float = 1e-7) -> Tensor:
    """Complete IoU of xywh boxes, one by one (Zheng et al. 2020, arXiv:1911.08287), [N, 4] -> [N].

    The aspect term's weight is held constant in the backward pass, as the paper does.
    """
    a, b = xywh_to_xyxy(first), xywh_to_xyxy(second)
    overlap = torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])  # [N, 2]
    inter = overlap.clamp(min=0).prod(dim=-1)  # [N]
    union = first[:, 2:].prod(dim=-1) + second[:, 2:].prod(dim=-1) - inter + eps
    iou = inter / union
    hull = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])  # [N, 2]
    diagonal = hull.pow(2).sum(dim=-1) + eps
    distance = (first[:, :2] - second[:, :2]).pow(2).sum(dim=-1)
    angle = torch.atan(second[:, 2] / (second[:, 3] + eps)) - torch.atan(
        first[:, 2] / (first[:, 3] + eps)
    )
    aspect = 4 / math.pi**2 * angle.pow(2)  # [N]
    with torch.no_grad():
        weight = aspect / (1 - iou + aspect + eps)
    return iou - (distance / diagonal + weight * aspect)
