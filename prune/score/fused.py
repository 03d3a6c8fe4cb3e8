"""Batch normalisation inside the convolutions before it, for a network that only looks."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prune.models.darknet import Darknet
from prune.models.layers import Convolution
from prune.shapes import copied


def fused(net: Darknet) -> Darknet:
    """Copy a network in eval mode for looking alone: a pass over its activations less a layer.

    Outputs differ by the rounding of kernels in their own precision. Kernels are new, all other
    tensors shared; layers, sections and keys otherwise stay as they are. (`export.fold` gives a
    network of its own instead, with a cfg, proved in float64.)
    """
    plain = copied(net, lambda tensor: tensor)
    for layer in plain.module_list:
        if isinstance(layer, Convolution) and isinstance(layer.BatchNorm2d, nn.BatchNorm2d):
            layer.Conv2d = fuse_conv_bn_eval(layer.Conv2d, layer.BatchNorm2d)
            layer.BatchNorm2d = nn.Identity()
    return plain
