"""Small networks of sections that public cfgs hold."""

from __future__ import annotations

NET = "[net]\nwidth=64\nheight=64\nchannels=3\n"
CONV = (
    "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride={}\npad=1\nactivation=leaky\n"
)
HEAD = (
    "[convolutional]\nfilters=21\nsize=1\nstride=1\npad=1\nactivation=linear\n"
    "[yolo]\nmask=0,1,2\nanchors=5,6, 9,12, 20,16\nclasses=2\nnum=3\n"
)


def conv(filters: int, *, size: int = 3, stride: int = 1) -> str:
    return CONV.format(filters, size, stride)


WIDER = conv(8, stride=2) + conv(16) + "[shortcut]\nfrom=-2\nactivation=leaky\n" + HEAD
