"""Batch normalisation inside the convolutions before it, for a network that only looks."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from prune.models.darknet import Darknet
from prune.models.layers import Convolution

M = TypeVar("M", bound=nn.Module)


def fused(net: Darknet) -> Darknet:
    """Copy a network in eval mode for looking alone: a pass over its activations less a layer.

    Outputs differ by the rounding of kernels in their own precision. Kernels are new, everything
    else is the network's own; layers, sections and keys stay as they are. (`export.fold` gives a
    network of its own instead, with a cfg, verified in float64.)
    """
    plain, plain.module_list = _shallow(net), _shallow(net.module_list)
    for index, layer in enumerate(net.module_list):
        if isinstance(layer, Convolution) and isinstance(layer.BatchNorm2d, nn.BatchNorm2d):
            plain.module_list[index] = _fused(layer, layer.BatchNorm2d)
    return plain


def _fused(layer: Convolution, norm: nn.BatchNorm2d) -> Convolution:
    assert norm.running_mean is not None and norm.running_var is not None  # as all of ours have
    own, convolution = _shallow(layer), _shallow(layer.Conv2d)
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    own.Conv2d, own.BatchNorm2d = convolution, nn.Identity()
    return own


def _shallow(module: M) -> M:
    """Copy a module that holds the very tensors and modules of the first, for some to be changed.

    A deep copy that shares all tensors takes as long as ten images do.
    """
    other = copy.copy(module)
    other._modules, other._parameters = module._modules.copy(), module._parameters.copy()
    return other
