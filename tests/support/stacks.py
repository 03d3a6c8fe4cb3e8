"""A detector of residual blocks, each with why it is there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from prune import checkpoint
from prune.models.darknet import Darknet
from prune.models.sections import parse

SIZE = 32  # pixels
NAMES = ("cell",)


def _conv(filters: int, *, size: int = 1, stride: int = 1) -> str:
    return (
        f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\nstride={stride}\n"
        "pad=1\nactivation=leaky\n"
    )


def _shortcut(source: int, *more: str) -> str:
    return "\n".join([f"[shortcut]\nfrom={source}", *(more or ["activation=linear"]), ""])


_HEAD = """\
[convolutional]
filters=18
size=1
activation=logistic
[yolo]
mask=0,1,2
anchors=10,10, 16,16, 24,24
classes=1
new_coords=1
scale_x_y=2.0
"""

CFG = "# A net of blocks\n[net]\nwidth=32\nheight=32\nchannels=3\n" + "".join(
    [
        _conv(8, size=3, stride=2),  # 0
        "# Residual\n" + _conv(4),  # 1: the usual block, two convolutions
        _conv(8, size=3),
        _shortcut(-3),  # 3
        _conv(8, size=3),  # 4: a block of one convolution, right behind another block
        "# How the sum is made\n" + _shortcut(-2),  # 5
        _conv(6),  # 6: a block with a block inside, its start named absolutely
        _conv(6, size=3),
        _shortcut(-2),  # 8
        _conv(8),
        _shortcut(5),  # 10
        _conv(8),  # 11: its branch is read by the route below, so it must stay
        _shortcut(-2),  # 12
        "[route]\nlayers = -1, 11, 5,-8\n",  # 13: 12, 11, 5 and 5 again
        "[implicit_add]\nfilters=32\n",  # 14
        "[route]\nlayers=13\n",  # 15
        "[shift_channels]\nfrom=14\n",  # 16
        _conv(8),  # 17
        _conv(8, size=3),  # 18: a block that its own weights add to
        _shortcut(-2, "weights_type=per_feature", "activation=linear"),  # 19
        _conv(8, size=3),  # 20: a block whose sum is bent
        _shortcut(-2, "activation=leaky"),  # 21
        _HEAD,  # 22, 23
    ]
)
BLOCKS = ((0, 3), (3, 5), (6, 8), (5, 10))  # layer before and shortcut of all that can go


def net(*, seed: int = 0) -> Darknet:
    """Build it in eval mode, with statistics that make every channel differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = Darknet(parse(CFG)).eval()
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
                module.running_mean = torch.randn(module.num_features)
                module.running_var = torch.rand(module.num_features) + 0.5
    return built


def weights(folder: Path) -> Path:
    """Write it as a checkpoint."""
    path = folder / "stack.pt"
    checkpoint.save(checkpoint.capture(net(), names=NAMES, imgsz=SIZE), path)
    return path
