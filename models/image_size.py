"""The size of the images that a cfg is written for: width and height in its [net] section."""

from __future__ import annotations

from prune.common.size import Size
from prune.models.darknet import Darknet
from prune.models.keys import positive
from prune.models.sections import fault, option

USUAL = 640  # pixels, where a cfg names neither side


def image_size(net: Darknet) -> tuple[Size, tuple[str, ...]]:
    """Return the size that a network's cfg names, and notes on what was changed of it.

    A side that is missing is taken to be as long as the other one. Sides that are not multiples of
    the network's stride are raised, because Darknet too pads them on the way to the heads.

    Raises:
        CfgError: a side that is not a positive whole number, or larger than an image can be.
    """
    first = net.sections[0]
    given = {side: option(first, side, positive, 0) for side in ("height", "width")}
    known = [pixels for pixels in given.values() if pixels] or [USUAL]
    named = Size(*(pixels or known[0] for pixels in given.values()))
    size = named.raised(net.stride)
    if excess := size.excess():
        raise fault(first, "", f"names images of {size.described}; {excess}")
    if size == named:
        return size, ()
    return size, (
        f"the cfg's image size of {named.described} is raised to {size.described}: both sides "
        f"must be multiples of the network's stride, {net.stride}",
    )
