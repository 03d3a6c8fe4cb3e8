"""Networks of which something cannot be folded into convolutions, each with what stays."""

from __future__ import annotations

STEM = """[net]
channels=3
[convolutional]
batch_normalize=1
filters=6
size=3
stride=8
pad=1
activation=leaky
"""
IMPLICIT = "[implicit_{}]\nfilters={}\n"
ROUTE = "[route]\nlayers={}\n"
CONV = "[convolutional]\nfilters={}\nsize={}\npad={}\nactivation={}\n"
HEAD = "[yolo]\nmask=0\nanchors=8,8\nclasses=2\nnum=1\n"
# Layers: 0 stem, 1 implicit_add, 2 route to 0, 3 shift, 4 the convolution that reads it.
SHIFT = STEM + IMPLICIT.format("add", 6) + ROUTE.format(0) + "[shift_channels]\nfrom=1\n"
# Layers: 0 stem, 1 implicit_mul, 2 route to 0, 3 a convolution, 4 control.
CONTROL = STEM + IMPLICIT.format("mul", 7) + ROUTE.format(0)
CONTROLLED = "[control_channels]\nfrom=1\nactivation={}\n"
LINEAR = CONV.format(7, 1, 0, "linear")
SECOND = ROUTE.format(3) + LINEAR + HEAD  # reads layer 3 too
STAY = {
    "shift with an activation": (SHIFT + "activation=leaky\n" + LINEAR + HEAD, "shift_channels"),
    "shift before a 3x3": (SHIFT + CONV.format(7, 3, 1, "linear") + HEAD, "shift_channels"),
    "shift before padding": (
        SHIFT
        + CONV.format(6, 1, "0\npadding=1", "linear")
        + "[avgpool]\n[scale_channels]\nfrom=0\n"
        + LINEAR
        + HEAD,
        "shift_channels",
    ),
    "shift that another layer reads": (SHIFT + LINEAR + HEAD + SECOND, "shift_channels"),
    "shift that pooling reads": (
        SHIFT + "[maxpool]\nsize=3\nstride=1\n" + LINEAR + HEAD,
        "shift_channels",
    ),
    "shift by a map": (
        STEM + CONV.format(6, 1, 0, "mish") + "[shift_channels]\nfrom=0\n" + LINEAR + HEAD,
        "shift_channels",
    ),
    "control behind an activation": (
        CONTROL + CONV.format(7, 1, 0, "leaky") + CONTROLLED.format("linear") + HEAD,
        "control_channels",
    ),
    "control of what another layer reads": (
        CONTROL + LINEAR + CONTROLLED.format("linear") + HEAD + SECOND,
        "control_channels",
    ),
    "control of pooling": (
        CONTROL
        + LINEAR
        + "[maxpool]\nsize=3\nstride=1\n"
        + CONTROLLED.format("linear")
        + LINEAR
        + HEAD,
        "control_channels",
    ),
}
