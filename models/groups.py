"""What is coupled in a detector: `graph.trace`, told what a Darknet takes and what has to stay."""

from __future__ import annotations

from prune.core.trace.groups import Group, trace

from .darknet import Darknet


def coupled(net: Darknet) -> tuple[Group, ...]:
    """Find every coupled group of a network on the CPU or a GPU; its heads' outputs are kept."""
    return trace(net, net.small_picture, protected=net.head_convolutions())
