"""The shipped networks in narrow: the same layers, coupled the same way."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from prune.models.darknet import Darknet
from prune.models.sections import head_path, heads, parse, with_classes, with_options

CFGS = sorted((Path(__file__).parents[2] / "cfg").glob("*.cfg"))


@cache
def narrow(path: Path) -> Darknet:
    """Build one with a sixteenth of its widths and one class, in eval mode and float64."""
    sections = list(with_classes(parse(path.read_text(encoding="utf-8")), 1))
    fixed = {layer for head in heads(sections) for layer in head_path(sections, head)}
    for layer, section in enumerate(sections[1:]):
        if "filters" in section.options and layer not in fixed:
            filters = max(int(section.options["filters"]) // 16, 2)
            sections[layer + 1] = with_options(section, filters=filters)
    torch.manual_seed(0)
    return Darknet(sections).double().eval()
