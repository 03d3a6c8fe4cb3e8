"""A small YOLOv2: a region head behind a reorg."""

from __future__ import annotations

CONV = (
    "[convolutional]\nbatch_normalize=1\nfilters={}\nsize={}\nstride={}\npad=1\nactivation=leaky\n"
)
REGION = (
    "[convolutional]\nsize=1\nstride=1\npad=1\nfilters=24\nactivation=linear\n"
    "[region]\nanchors=0.6,0.7, 1.9,2.1, 3.3,5.5\nbias_match=1\nclasses=3\ncoords=4\nnum=3\n"
    "softmax=1\njitter=.3\nrescore=1\nobject_scale=5\nabsolute=1\nthresh=0.0001\nrandom=1\n"
)
YOLOV2 = (
    "[net]\nwidth=64\nheight=64\nchannels=3\n"
    + CONV.format(8, 3, 2)
    + "[maxpool]\nsize=2\nstride=2\n"
    + CONV.format(12, 3, 1)
    + CONV.format(16, 3, 2)
    + "[route]\nlayers=-2\n"
    + CONV.format(8, 1, 1)
    + "[reorg]\nstride=2\n"
    + "[route]\nlayers=-1,-4\n"
    + CONV.format(16, 3, 1)
    + REGION
)
