"""Boxes of a letterboxed image -> boxes of the original."""

from torch import Tensor

from prune.data.frames import Frame


def to_original(boxes: Tensor, frame: Frame) -> Tensor:
    """Undo the letterbox and clip to the image.

    Args:
        boxes: [n, 4 or more]: x1, y1, x2, y2 in pixels of the batch's image; the rest is unchanged.
        frame: how the original was scaled and padded.

    Returns:
        A copy, corners in pixels of the original.
    """
    moved = boxes.clone()
    moved[:, [0, 2]] = ((boxes[:, [0, 2]] - frame.pad_x) / frame.scale_x).clamp(0, frame.width)
    moved[:, [1, 3]] = ((boxes[:, [1, 3]] - frame.pad_y) / frame.scale_y).clamp(0, frame.height)
    return moved
