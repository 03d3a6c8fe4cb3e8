"""The coupled groups of a detector: a trace whose heads' outputs are protected."""

from __future__ import annotations

from prune.core.trace.groups import Group, trace

from .darknet import Darknet


def detector_groups(net: Darknet) -> tuple[Group, ...]:
    """Find every coupled group of a network, on any device; the outputs of heads are protected."""
    return trace(net, net.small_image, protected=net.head_convolutions())
