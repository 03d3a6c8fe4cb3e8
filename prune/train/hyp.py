"""Hyper-parameters: the recipes, and reading them from a file."""

import math
from collections.abc import Mapping
from pathlib import Path

from prune.atomic import write_text
from prune.errors import InputError
from prune.inputs import read_text
from prune.plain_yaml import BrokenYamlError, read_yaml

# Hyper-parameters that are names. Files hold the name, a run its place in this table.
CHOICES: Mapping[str, tuple[str, ...]] = {"optimizer": ("sgd", "adamw")}
# The published values for training from nothing; cfg/hyp/scratch.yaml says what each is.
SCRATCH: Mapping[str, float] = {
    "optimizer": 0,
    "lr0": 0.01,
    "lrf": 0.2,
    "momentum": 0.937,
    "weight_decay": 0.0005,
    "l1": 0.0,
    "clip": 0.0,
    "warmup_epochs": 3.0,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1,
    "box": 0.05,
    "cls": 0.3,
    "cls_pw": 1.0,
    "obj": 0.7,
    "obj_pw": 1.0,
    "anchor_t": 4.0,
    "label_smoothing": 0.0,
    "distill": 1.0,
    "distill_feature": 0.3,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "degrees": 0.0,
    "translate": 0.1,
    "scale": 0.5,
    "shear": 0.0,
    "perspective": 0.0,
    "flipud": 0.0,
    "fliplr": 0.5,
    "mosaic": 1.0,
    "mixup": 0.0,
    "close_mosaic": 0.0,
    "close_norms": 0.0,
}
# For weights that know their task already, pruned ones first of all: a short warm-up that does not
# jolt the biases, and a finer finish. The step is that of scratch: a cut is far to come back from.
# What a cut leaves narrow can be thrown far by one batch: the norm of gradients is limited. And its
# running statistics can be a few pictures' alone: the end of the run learns to do with them.
FINETUNE: Mapping[str, float] = {
    **SCRATCH,
    "lrf": 0.05,
    "warmup_epochs": 1.0,
    "warmup_bias_lr": 0.005,
    "clip": 10.0,
    "close_mosaic": 0.15,
    "close_norms": 0.3,
}
# AdamW's steps do not shrink with the gradients, and its weight decay is not a part of them
# (Loshchilov and Hutter 2019, arXiv:1711.05101): a file that asks for it and leaves these out gets
# them instead of SGD's.
ADAMW: Mapping[str, float] = {
    "lr0": 0.001,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "warmup_bias_lr": 0.0,
}
_POSITIVE = ("lr0", "anchor_t", "cls_pw", "obj_pw")
_UP_TO_ONE = (
    *("lrf", "momentum", "warmup_momentum", "label_smoothing", "hsv_h", "hsv_s", "hsv_v"),
    *("translate", "scale", "flipud", "fliplr", "mosaic", "mixup"),
    *("close_mosaic", "close_norms"),
)


def load(path: Path, *, base: Mapping[str, float] = SCRATCH) -> dict[str, float]:
    """Read a YAML file of hyper-parameters; what it leaves out stays as in `base`.

    Raises:
        InputError: no such file, no YAML mapping, an unknown key, or a value out of its range.
    """
    try:
        found = read_yaml(read_text(path))
    except BrokenYamlError as error:
        raise InputError(f"{path} is not YAML: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} must hold lines such as 'lr0: 0.01'")
    own = {key: _checked(key, value, path) for key, value in found.items()}
    return {**base, **(ADAMW if named("optimizer", own) == "adamw" else {}), **own}


def named(key: str, hyp: Mapping[str, float]) -> str:
    """Return the name that a hyper-parameter of CHOICES has; its first name where it is not set."""
    return CHOICES[key][int(hyp.get(key, 0))]


def save(hyp: Mapping[str, float], path: Path) -> None:
    """Write hyper-parameters so that `load` reads them back unchanged."""
    import yaml

    own = {key: named(key, hyp) if key in CHOICES else value for key, value in hyp.items()}
    write_text(path, yaml.safe_dump(own, sort_keys=False))


def _checked(key: object, value: object, path: Path) -> float:
    if key not in SCRATCH:
        raise InputError(
            f"{path} has the unknown key {key!r}; the known ones: {', '.join(SCRATCH)}"
        )
    if isinstance(key, str) and key in CHOICES:
        names = CHOICES[key]
        if str(value).lower() not in names:
            raise InputError(f"{path}: {key} is {value!r}; it must be {' or '.join(names)}")
        return names.index(str(value).lower())
    number = _number(value)
    if not math.isfinite(number):
        raise InputError(f"{path}: {key} is {value!r}; it must be a number")
    if number < 0 or (key in _UP_TO_ONE and number > 1) or (key in _POSITIVE and number == 0):
        allowed = "above 0" if key in _POSITIVE else "0 to 1" if key in _UP_TO_ONE else "0 or more"
        raise InputError(f"{path}: {key} is {number:g}; it must be {allowed}")
    return number


def _number(value: object) -> float:
    """Return a float; YAML reads 1e-4 as text, and that is meant as a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan
