"""The largest dimensions that are accepted, checked before any memory is taken for them.

A few bytes of a file can ask for terabytes: a stride, a size or a number of channels is multiplied
into tensors, and a header of an image into pixels. Each limit is far above what real networks and
images have, and keeps what is allocated for one of them below about 1 GiB.
"""

from typing import Final

SIDE: Final = 16_384
"""Pixels per side of a network's input. Published detectors take up to 1536."""

INPUT: Final = 2**28
"""Values of a batch of images, 1 GiB of float32: one RGB image of 8192 x 8192, or 1024 of 256 x
256."""

STRIDE: Final = 1024
"""Pixels per cell of a whole network, at most; published detectors have 32 to 128. The smallest
image that a network can be traced with has two cells per side."""

WINDOW: Final = 255
"""Cells that a kernel or a pooling window spans, dilation included. SPP pools over 13 cells, and
kernels that are called large have 51; the window's padding is added to every map."""

CHANNELS: Final = 2**16
"""Channels of a map. The largest head that is published, of 9418 classes, has 28,269."""

KERNEL: Final = 2**26
"""Weights of one layer, 256 MiB; those of the shipped networks stay below 2**24."""

WEIGHTS: Final = 2**29
"""Weights of a network, 2 GiB; the largest that is shipped, yolov4_p7, has 287 million."""

LAYERS: Final = 10_000
"""Layers of a network; the shipped ones have up to 500."""

ANCHOR: Final = 2**16
"""Width or height of an anchor, in pixels or cells: no larger than any image could be."""

SCALE_X_Y: Final = 100.0
"""How far a head stretches its offsets; published cfgs have 1 to 2."""

IMAGE: Final = 178_956_970
"""Pixels of an image file or a frame, as Pillow limits them: 0.5 GB as 8-bit colour. Photographs
have up to 150 million."""
