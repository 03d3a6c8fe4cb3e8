"""What may be pruned of each layer: the file of --limits, and the options on top of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prune.common.inputs import naming
from prune.common.plain_yaml import read_yaml_file
from prune.common.schema import Field, expect, flag, listed, mapping, named, number, whole
from prune.core.select.constraints import Constraints, changed
from prune.errors import InputError
from prune.pruner.by_amount import layer_indices

_FIELDS = {
    "max_ratio": number(0, 1).or_missing(),
    "min_channels": whole(1, 10**6).or_missing(),
    "round_to": whole(1, 10**6).or_missing(),
}
_LAYER = mapping({**_FIELDS, "exclude": flag().or_missing()}, closed=True)
_FILE = mapping(
    {
        **_FIELDS,
        "layers": named(_LAYER).or_null().or_missing(),
        "exclude": listed(Field((str, int), "a layer or a pattern")).or_null().or_missing(),
    },
    closed=True,
)

Layers = Mapping[str, Mapping[str, object]]
"""Pattern of layer names -> fields of Constraints that differ there."""


def read_limits(
    file: Path | None,
    options: Mapping[str, object],
    *,
    exclude: Collection[str],
    max_ratio: float,
    convolutions: Collection[int],
) -> tuple[Constraints, Layers]:
    """Read the constraints of all layers and those that differ; options come after the file.

    Args:
        file: YAML; None for none.
        options: fields of Constraints that the user gave beside it.
        exclude: layers or patterns that the user excludes beside it.
        max_ratio: what holds where neither sets it.
        convolutions: indices of all convolutions.

    Raises:
        PruneError: the file cannot be used, or a value is out of range.
    """
    document = _read_file(file) if file else {}
    layers = document.pop("layers", None) or {}
    excluded = document.pop("exclude", None) or []
    constraints = changed(Constraints(max_ratio=max_ratio), document, where=str(file))
    found: dict[str, dict[str, object]] = {}

    def add(pattern: str, fields: Mapping[str, object]) -> None:
        found[pattern] = {**found.pop(pattern, {}), **fields}  # the last one counts

    with naming(file) if file else nullcontext():
        for name, fields in layers.items():
            for pattern in _patterns(name, convolutions):
                add(pattern, fields)
        for name in excluded:
            for pattern in _patterns(str(name), convolutions):
                add(pattern, {"exclude": True})
    for name in exclude:
        for pattern in _patterns(name, convolutions):
            add(pattern, {"exclude": True})
    return changed(constraints, options, where="the command line"), found


def _read_file(path: Path) -> dict[str, Any]:
    found: Any = read_yaml_file(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} contains no limits; write e.g. max_ratio: 0.8")
    layers = found.get("layers")
    if isinstance(layers, dict):  # a layer is named by a text or by its index
        found["layers"] = {str(k) if type(k) is int else k: v for k, v in layers.items()}
    expect(found, _FILE, where=str(path))
    return found


def _patterns(layer: str, convolutions: Collection[int]) -> list[str]:
    """Turn 5, 10-20 or a pattern into patterns of names; a range stands for its convolutions."""
    if not layer[:1].isdecimal():
        return [layer]
    return [f"module_list.{index}.*" for index in layer_indices([layer], convolutions)]
