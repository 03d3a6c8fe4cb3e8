"""Which sections and keys a Darknet cfg may hold, and how each value reads.

Every kind and every key is in KEYS, so an unknown one is an error and never a silent skip.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from prune.common import digits
from prune.common.dimensions import ANCHOR, SCALE_X_Y

# A reader turns a value's text into what it means; its ValueError says what would be right.
Reader = Callable[[str], object]


class UnsupportedError(ValueError):
    """A value that no network here can have; its text says what is allowed, "" for a switch."""


def anything(text: str) -> str:
    """Take a value that only Darknet's own training reads."""
    return text


def integer(text: str) -> int:
    """Read a whole number."""
    try:
        return digits.whole(text)
    except ValueError:
        raise ValueError("a whole number") from None


LARGEST = 1_000_000  # no width, size or count comes near; `layout` has stricter limits for most


def at_least(low: int) -> Callable[[str], int]:
    """Read a whole number from `low` to `LARGEST`."""

    def read(text: str) -> int:
        if (value := integer(text)) < low:
            raise ValueError(f"a whole number of at least {low}")
        if value > LARGEST:
            raise ValueError(f"a whole number of at most {LARGEST}")
        return value

    return read


def number(text: str) -> float:
    """Read a finite number."""
    try:
        value = digits.real(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a number")
    return value


def integers(text: str) -> tuple[int, ...]:
    """Read whole numbers between commas; a comma at the end is allowed, as in Darknet."""
    try:
        return tuple(int(part) for part in text.strip(" ,").split(","))
    except ValueError:
        raise ValueError("whole numbers between commas, e.g. -1,-4") from None


def numbers(text: str) -> tuple[float, ...]:
    """Read numbers between commas; a comma at the end is allowed, as in Darknet."""
    try:
        return tuple(number(part) for part in text.strip(" ,").split(","))
    except ValueError:
        raise ValueError("numbers between commas, e.g. 12,16, 19,36") from None


def anchors(text: str) -> tuple[float, ...]:
    """Read the widths and heights of anchors."""
    sides = numbers(text)
    if not all(0 < side <= ANCHOR for side in sides):
        raise ValueError(f"numbers above 0 and at most {ANCHOR}, e.g. 12,16, 19,36")
    return sides


def between(low: float, high: float, *, without_low: bool = False) -> Callable[[str], float]:
    """Read a number from `low` to `high`; of an open interval `low` itself is left out."""

    def read(text: str) -> float:
        value = number(text)
        if not low <= value <= high or (without_low and value == low):
            start = f"above {low:g}" if without_low else f"from {low:g}"
            raise ValueError(f"a number {start} {'and at most' if without_low else 'to'} {high:g}")
        return value

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Read one of a few words."""

    def read(text: str) -> str:
        if text not in words:
            raise UnsupportedError("one of " + ", ".join(words))
        return text

    return read


def off(text: str) -> int:
    """Read the switch of a feature that no network here can have.

    Switched off it changes nothing, and the layer is an ordinary one.
    """
    try:
        value = digits.whole(text)
    except ValueError:
        value = 1
    if value:
        raise UnsupportedError
    return 0


flag = count = at_least(0)
positive = at_least(1)
activation = one_of(
    "linear", "leaky", "relu", "relu6", "mish", "silu", "swish", "hardswish", "logistic"
)
reorg_order = one_of("yolor", "darknet")
weights_type = one_of("none", "per_feature", "per_layer", "per_channel")
fraction = between(0, 1)
scale_x_y = between(0, SCALE_X_Y, without_low=True)
weights_normalization = one_of("none", "relu", "avg_relu", "softmax", "sigmoid")


# Keys that steer Darknet's own training or display and do not change what a network computes.
NET_TRAINING = """
    B1 B2 adam adversarial_lr angle aspect attention augment_speed badlabels_rejection_threshold
    batch batch_normalize blur burn_in contrastive contrastive_color contrastive_jit_flip cutmix
    decay dynamic_minibatch ema_alpha eps equidistant_point exposure flip focal_loss gamma
    gaussian_noise hue init_sequential_subdivisions inputs label_smooth_eps learning_rate
    learning_rate_min letter_box loss_scale max_batches max_chart_loss max_crop min_crop mixup
    momentum mosaic mosaic_bound no_exposure num_cycles num_sigmas_reject_badlabels
    optimized_memory policy power random resize_step saturation scale scales seq_scales
    sequential_subdivisions sgdr_cycle sgdr_mult show_receptive_field step steps subdivisions
    time_steps track try_fix_nan unsupervised use_cuda_graph weights_reject_freq
    workspace_size_limit_MB
"""
YOLO_TRAINING = """
    beta1 beta_nms cls_normalizer counters_per_class delta_normalizer dets_for_show dets_for_track
    embedding_layer focal_loss ignore_thresh iou_loss iou_normalizer iou_thresh iou_thresh_kind
    jitter label_smooth_eps map max max_delta nms_kind obj_normalizer objectness_smooth random
    resize show_details sim_thresh stopbackward thresh track_ciou_norm track_history_size
    truth_thresh uc_normalizer
"""
LAYER_TRAINING = """
    burnin_update dontload dontloadscales learning_rate_scale onlyforward stopbackward
    train_only_bn
"""
REGION_TRAINING = """
    absolute bias_match class_scale coord_scale focal_loss jitter label_smooth_eps map max
    noobject_scale object_scale random rescore thresh
"""
DROPOUT_TRAINING = "dropblock dropblock_size_abs dropblock_size_rel"
# Switches of Darknet that change what a layer computes, and that no layer here has.
CONVOLUTION_SWITCHES = """
    antialiasing assisted_excitation bin_output cbn coordconv deform flipped rotate reverse
    share_index stretch stretch_sway sway use_bin_output xnor
"""


def _ignored(keys: str) -> dict[str, Reader]:
    return dict.fromkeys(keys.split(), anything)


def _off(keys: str) -> dict[str, Reader]:
    return dict.fromkeys(keys.split(), off)


_LAYER = _ignored(LAYER_TRAINING)
_STRIDE: dict[str, Reader] = {"stride": positive, "stride_x": positive, "stride_y": positive}
_JOIN: dict[str, Reader] = {"from": integers, "activation": activation}

KEYS: dict[str, dict[str, Reader]] = {
    "net": {
        "width": positive,
        "height": positive,
        "channels": positive,
        **_ignored(NET_TRAINING),
    },
    "convolutional": {
        "batch_normalize": flag,
        "filters": positive,
        "size": positive,
        **_STRIDE,
        "pad": flag,
        "padding": count,
        "groups": positive,
        "dilation": positive,
        "activation": activation,
        **_off(CONVOLUTION_SWITCHES),
        **_LAYER,
    },
    "maxpool": {
        "size": positive,
        **_STRIDE,
        "padding": count,
        **_off("antialiasing maxpool_depth"),
        "out_channels": anything,  # of maxpool_depth alone
        **_LAYER,
    },
    "upsample": {"stride": positive, **_LAYER},
    "route": {"layers": integers, "groups": positive, "group_id": count, **_LAYER},
    "shortcut": {
        **_JOIN,
        "weights_type": weights_type,
        "weights_normalization": weights_normalization,
        **_off("assisted_excitation"),
        **_LAYER,
    },
    "scale_channels": {**_JOIN, **_off("scale_wh"), **_LAYER},
    "sam": {**_JOIN, **_LAYER},
    "avgpool": _LAYER,
    "reorg": {"stride": positive, "order": reorg_order, **_off("reverse"), **_LAYER},
    "reorg3d": {"stride": positive, **_off("reverse"), **_LAYER},
    "implicit_add": {"filters": positive, "atoms": one_of("1"), **_LAYER},
    "implicit_mul": {"filters": positive, "atoms": one_of("1"), **_LAYER},
    "shift_channels": {**_JOIN, **_LAYER},
    "control_channels": {**_JOIN, **_LAYER},
    "dropout": {"probability": fraction, **_ignored(DROPOUT_TRAINING), **_LAYER},
    "yolo": {
        "mask": integers,
        "anchors": anchors,
        "classes": positive,
        "num": positive,
        "scale_x_y": scale_x_y,
        "new_coords": flag,
        **_ignored(YOLO_TRAINING),
    },
    "region": {
        "anchors": anchors,
        "classes": positive,
        "num": positive,
        "coords": one_of("4"),
        "softmax": one_of("1"),
        **_off("background classfix tree"),
        **_ignored(REGION_TRAINING),
    },
}
HEADS = ("yolo", "region")

# Other names of a section -> the section, and the options that the name implies.
ALIASES: dict[str, tuple[str, dict[str, str]]] = {
    "network": ("net", {}),
    "conv": ("convolutional", {}),
    "max": ("maxpool", {}),
    "avg": ("avgpool", {}),
    # The public PyTorch code's: the first half of the channels of every layer that it names.
    "route_lhalf": ("route", {"groups": "2", "group_id": "0"}),
}
