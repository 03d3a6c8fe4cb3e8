"""Raw maps -> boxes: what a [yolo] or [region] section means."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor, nn


class Yolo(nn.Module):
    """One detection head: as a layer it passes its map on, `decode` turns the map into boxes.

    Attributes:
        anchors: widths and heights in pixels, [A, 2]; moves with the module, stays out of its
            state dict.
        stride: pixels per cell.
        classes: number of classes.
        scale_x_y: how far a centre may leave its cell; 1.0 not at all, 2.0 by half a cell.
        new_coords: True for wh = (2p)^2 anchor (the PyTorch decoding), False for
            wh = exp(t) anchor (YOLOv2 to v4).
        softmax: True where the classes exclude one another and their probabilities sum to 1
            ([region], YOLOv2); False where each has a probability of its own.
    """

    anchors: Tensor

    def __init__(
        self,
        anchors: Tensor,
        *,
        stride: int,
        classes: int,
        scale_x_y: float = 1.0,
        new_coords: bool = False,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors, persistent=False)
        self.stride = stride
        self.classes = classes
        self.scale_x_y = scale_x_y
        self.new_coords = new_coords
        self.softmax = softmax

    @cached_property
    def sizes(self) -> list[list[float]]:
        """The anchors as plain numbers, for which no device has to be asked twice."""
        sizes: list[list[float]] = self.anchors.tolist()
        return sizes

    @property
    def anchor_unit(self) -> int:
        """Pixels per unit of the anchors in the cfg: a cell in [region], a pixel in [yolo]."""
        return self.stride if self.softmax else 1

    def forward(self, x: Tensor) -> Tensor:
        """Pass a map of logits on, [N, A*(5+classes), ny, nx]."""
        return x

    def split(self, x: Tensor) -> Tensor:
        """Sort a map by anchor and cell, [N, A*no, ny, nx] -> [N, A, ny, nx, no].

        no is 5 + classes.
        """
        batch, _, rows, columns = x.shape
        x = x.reshape(batch, self.anchors.shape[0], 5 + self.classes, rows, columns)
        return x.permute(0, 1, 3, 4, 2)

    def box(self, raw: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Turn box logits into an offset and a size.

        Args:
            raw: x, y, w, h logits, [..., 4].
            anchors: the anchor of each, pixels, [..., 2].

        Returns:
            Offset of the centre from its cell's corner in cells, size in pixels, both [..., 2].
        """
        centre = raw[..., :2].sigmoid() * self.scale_x_y - (self.scale_x_y - 1) / 2
        if self.new_coords:
            return centre, (raw[..., 2:4].sigmoid() * 2) ** 2 * anchors
        return centre, raw[..., 2:4].exp() * anchors

    def decode(self, x: Tensor) -> Tensor:
        """Turn a map into boxes.

        Args:
            x: logits, [N, A*no, ny, nx].

        Returns:
            [N, A*ny*nx, no]: centre x, y, width, height in pixels, objectness, class
            probabilities; in the order anchor, row, column.
        """
        raw = self.split(x)  # [N, A, ny, nx, no]
        offset, size = self.box(raw[..., :4], self.anchors[:, None, None])
        centre = (offset + self._cells(raw)) * self.stride
        sure = raw[..., 4:].sigmoid()
        if self.softmax:
            sure = torch.cat((sure[..., :1], raw[..., 5:].softmax(dim=-1)), dim=-1)
        return torch.cat((centre, size, sure), dim=-1).flatten(1, 3)

    def _cells(self, raw: Tensor) -> Tensor:
        """Number the cells, [N, A, ny, nx, no] -> x and y of each, [ny, nx, 2].

        They have the anchors' type: under autocast a half-precision map gets float32 pixels.
        """
        rows = torch.arange(raw.shape[2], device=raw.device, dtype=self.anchors.dtype)
        columns = torch.arange(raw.shape[3], device=raw.device, dtype=self.anchors.dtype)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack((x, y), dim=-1)
