"""The tensors of a cfg's layers by state-dict name, in the order of Darknet's files.

Darknet writes layer after layer, and in a layer what comes first here. Implicit layers stand in cfg
order like all others (AlexeyAB's Darknet does the same); of a weighted sum the layer before comes
first, then those of `from`.
"""

from collections.abc import Callable, Sequence

from prune.models.keys import flag, positive
from prune.models.layout import LayerInfo, layout
from prune.models.sections import Section, option

Shape = tuple[int, ...]


def tensors(sections: Sequence[Section]) -> dict[str, Shape]:
    """Return every parameter of a cfg by name with its shape, in file order.

    Raises:
        CfgError: the sections describe no network.
    """
    found: dict[str, Shape] = {}
    for section, info in zip(sections[1:], layout(sections), strict=True):
        of_kind = TENSORS.get(section.kind, _none)(section, info)
        found |= {f"module_list.{info.index}.{name}": shape for name, shape in of_kind.items()}
    return found


def _none(section: Section, info: LayerInfo) -> dict[str, Shape]:
    return {}


def _convolutional(section: Section, info: LayerInfo) -> dict[str, Shape]:
    size = option(section, "size", positive, 1)
    groups = option(section, "groups", positive, 1)
    names = ["Conv2d.bias"]
    if option(section, "batch_normalize", flag, 0):
        names = [
            f"BatchNorm2d.{name}" for name in ("bias", "weight", "running_mean", "running_var")
        ]
    found: dict[str, Shape] = dict.fromkeys(names, (info.out_channels,))
    found["Conv2d.weight"] = (info.out_channels, info.in_channels // groups, size, size)
    return found


def _shortcut(section: Section, info: LayerInfo) -> dict[str, Shape]:
    kind = section.options.get("weights_type", "none")
    if kind == "none":
        return {}
    inputs = len(info.inputs)
    return {"w": (inputs, info.out_channels) if kind == "per_channel" else (inputs,)}


def _implicit(section: Section, info: LayerInfo) -> dict[str, Shape]:
    return {"implicit": (1, info.out_channels, 1, 1)}


# Section kind -> its tensors, name -> shape, in file order; a kind that is not here learns nothing.
TENSORS: dict[str, Callable[[Section, LayerInfo], dict[str, Shape]]] = {
    "convolutional": _convolutional,
    "shortcut": _shortcut,
    "implicit_add": _implicit,
    "implicit_mul": _implicit,
}
