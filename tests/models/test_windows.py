"""Which windows a cfg may have: those whose maps have the sizes that the strides promise."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from prune.errors import CfgError
from prune.models.darknet import build
from prune.models.layers import LAYERS
from prune.models.layout import LayerInfo, layout
from prune.models.sections import Section, parse
from prune.models.windows import check_grid

CONV = "[convolutional]\nactivation=linear\nfilters="
HEAD = f"{CONV}6\n[yolo]\nanchors=9,9\nclasses=1\n"

PADDINGS = {
    "convolutional": [{"pad": "1"}, *({"padding": str(n)} for n in range(5))],
    "maxpool": [{}, *({"padding": str(n)} for n in range(7))],
}


def accepted(section: Section, *, one_cell: bool) -> bool:
    """Say whether a window passes."""
    try:
        check_grid(section, one_cell=one_cell)
    except CfgError:
        return False
    return True


def cells(section: Section, length: int) -> int | None:
    """Count the cells that the module really makes of a row of `length`; None: it cannot."""
    info = LayerInfo(0, section.kind, (-1,), 1, 1, (1, 1))
    module = LAYERS[section.kind](section, info)
    try:
        return int(module(torch.zeros(1, 1, length, length)).shape[-1])
    except RuntimeError:  # the window is larger than the map
        return None


@pytest.mark.parametrize("kind", PADDINGS)
def test_a_window_passes_exactly_where_its_module_divides_by_the_stride(kind: str) -> None:
    for size, stride, padding in product(range(1, 7), range(1, 4), PADDINGS[kind]):
        options = {"activation": "linear", "size": str(size), "stride": str(stride), **padding}
        section = Section(kind, options)
        fits = all(cells(section, stride * k) == k for k in range(1, 9))
        assert accepted(section, one_cell=False) == fits, options
        assert accepted(section, one_cell=True) == (cells(section, 1) == 1), options


REFUSED = {
    "before a head": (f"{CONV}4\nsize=3\n{HEAD}", ["line 2", "[convolutional] size", "pad=1"]),
    "even, stride 1": (f"{CONV}4\nsize=2\npad=1\n{HEAD}", ["line 2", "odd size", "size=3"]),
    "even, stride 2": (
        f"{CONV}4\nsize=4\nstride=2\npad=1\n{HEAD}",
        ["line 2", "pad=0 and padding=1"],
    ),
    "one axis": (
        f"{CONV}4\nsize=2\nstride_y=2\n{CONV}4\nstride_x=2\n{HEAD}",
        ["line 2", "stride 1"],
    ),
    "pool": (f"[maxpool]\nsize=3\npadding=1\n{HEAD}", ["[maxpool] size", "padding=2"]),
    "in a sum that nothing reads": (
        f"{CONV}4\n{CONV}4\nsize=3\n[shortcut]\nfrom=0\n[route]\nlayers=0\n{HEAD}",
        ["line 5", "pad=1"],
    ),
    "before phases": (
        f"{CONV}4\n{CONV}4\nsize=3\n[reorg]\n[route]\nlayers=0\n{HEAD}",
        ["line 5", "pad=1"],
    ),
    "of one cell": (
        f"{CONV}4\n[avgpool]\n{CONV}4\nsize=3\n[scale_channels]\nfrom=0\n{HEAD}",
        ["line 6", "size=1"],
    ),
    "one cell made larger": (
        f"{CONV}4\n[avgpool]\n[upsample]\n[scale_channels]\nfrom=0\n{HEAD}",
        ["line 6", "[upsample]", "layer 1", "whole image"],
    ),
    "phases of one cell": (
        f"{CONV}4\n[avgpool]\n[reorg]\n[route]\nlayers=0\n{HEAD}",
        ["line 6", "[reorg]", "layer 1", "whole image"],
    ),
}


@pytest.mark.parametrize(("body", "said"), REFUSED.values(), ids=REFUSED)
def test_a_window_that_breaks_the_grid_is_named_with_its_mending(
    body: str, said: list[str]
) -> None:
    with pytest.raises(CfgError) as caught:
        layout(parse(f"[net]\n{body}", source="x.cfg"))
    for part in ["x.cfg", *said]:
        assert part in str(caught.value)


HARMLESS = {
    "nothing reads it": f"{CONV}4\n{CONV}4\nsize=3\n[route]\nlayers=0\n{HEAD}",
    "only its mean is read": (
        f"{CONV}4\n{CONV}4\nsize=3\n[avgpool]\n{CONV}4\n[scale_channels]\nfrom=0\n{HEAD}"
    ),
}


@pytest.mark.parametrize("body", HARMLESS.values(), ids=HARMLESS)
def test_a_window_that_meets_nothing_may_be_any(body: str) -> None:
    (found,) = build(f"[net]\n{body}")(torch.zeros(1, 3, 8, 16))
    assert found.shape[2:] == (8, 16)
