"""Hyper-parameters: the recipes, and reading them from a file."""

from collections.abc import Mapping
from pathlib import Path

from prune.common import shipped
from prune.common.digits import real
from prune.common.files import write_text
from prune.common.plain_yaml import read_yaml_file
from prune.common.schema import Field, expect, mapping, number, text
from prune.errors import InputError

# Hyper-parameters that are names. Files contain the name, a run its position in this table.
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
# For trained weights, above all pruned ones: a short warm-up with a low learning rate of biases, a
# lower final rate. The first rate is that of scratch, as recovery from a cut is a long way. One
# batch can change a narrow network much: the norm of gradients is limited. Its running statistics
# can be those of a few images: at the end of the run the weights are trained with them.
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
# (Loshchilov and Hutter 2019, arXiv:1711.05101): a file with this optimizer that leaves these out
# gets these values instead of SGD's.
ADAMW: Mapping[str, float] = {
    "lr0": 0.001,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "warmup_bias_lr": 0.0,
}
# The range of each. The bounds lie far beyond useful values: they exclude typing errors, and
# numbers whose sum or product would be infinite.
_FRACTION, _GAIN, _MOMENTUM = number(0, 1), number(0, 1e4), number(0, 0.9999)
FIELDS: Mapping[str, Field] = {
    **{key: text(choices=names) for key, names in CHOICES.items()},
    "lr0": number(1e-9, 10),
    "lrf": _FRACTION,
    "momentum": _MOMENTUM,
    "weight_decay": number(0, 10),
    "l1": number(0, 10),
    "clip": number(0, 1e9),
    "warmup_epochs": number(0, 1e5),
    "warmup_momentum": _MOMENTUM,
    "warmup_bias_lr": number(0, 10),
    **dict.fromkeys(("box", "cls", "obj", "distill", "distill_feature"), _GAIN),
    **dict.fromkeys(("cls_pw", "obj_pw"), number(1e-4, 1e4)),
    "anchor_t": number(1, 1e4),
    "label_smoothing": _FRACTION,
    **dict.fromkeys(("hsv_h", "hsv_s", "hsv_v"), _FRACTION),
    "degrees": number(0, 180),
    "translate": _FRACTION,
    "scale": _FRACTION,
    "shear": number(0, 80),
    "perspective": number(0, 0.01),
    **dict.fromkeys(("flipud", "fliplr", "mosaic", "mixup"), _FRACTION),
    **dict.fromkeys(("close_mosaic", "close_norms"), _FRACTION),
}


def load(path: Path, *, base: Mapping[str, float] = SCRATCH) -> dict[str, float]:
    """Read a YAML file of hyper-parameters; what it leaves out stays as in `base`.

    Those that come with the package are found by name: scratch, finetune.

    Raises:
        InputError: no such file, no YAML mapping, an unknown key, or a value out of its range.
    """
    path = shipped.find(path, folder=shipped.FOLDER / "hyp", suffix=".yaml")
    found = read_yaml_file(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} must contain lines such as 'lr0: 0.01'")
    values = {key: _normalize(key, value) for key, value in found.items()}
    expect(values, _FILE, where=str(path))
    own = {key: _number(key, value) for key, value in values.items()}
    return {**base, **(ADAMW if choice_name("optimizer", own) == "adamw" else {}), **own}


def choice_name(key: str, hyp: Mapping[str, float]) -> str:
    """Return the name that a hyper-parameter of CHOICES has; its first name where it is not set."""
    return CHOICES[key][int(hyp.get(key, 0))]


def save(hyp: Mapping[str, float], path: Path) -> None:
    """Write hyper-parameters so that `load` reads them back unchanged."""
    import yaml

    own = {key: choice_name(key, hyp) if key in CHOICES else value for key, value in hyp.items()}
    write_text(path, yaml.safe_dump(own, sort_keys=False))


def _normalize(key: object, value: object) -> object:
    """Read 1e-4, which is text in YAML, as a number, and AdamW as adamw."""
    if not isinstance(value, str):
        return value
    if key in CHOICES:
        return value.lower()
    try:
        return real(value)
    except ValueError:
        return value


def _number(key: str, value: object) -> float:
    """Return a checked value as a number; that of a name is its position in CHOICES."""
    if isinstance(value, str):
        return CHOICES[key].index(value)
    assert isinstance(value, (int, float))
    return float(value)


_FILE = mapping({key: field.or_missing() for key, field in FIELDS.items()}, closed=True)
