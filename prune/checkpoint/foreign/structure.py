"""The cfg of weights: from a file, from the pickled module itself, or matched; widths as they are.

The tensors of a pruned network show its widths, so any cfg of the same layers will do: its filters
and classes are replaced by what the tensors show.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from prune.checkpoint.foreign.parameters import tensors
from prune.checkpoint.foreign.standins import Instance, array
from prune.common import shipped
from prune.common.inputs import exists, is_file, read_text, shown
from prune.common.size import Size
from prune.errors import CfgError, CheckpointError
from prune.models.sections import (
    Section,
    anchor_mask,
    head_path,
    heads,
    parse,
    with_classes,
    with_options,
    write,
)

Weights = Mapping[str, Tensor]


def read_cfg(path: Path) -> tuple[Section, ...]:
    """Read a cfg file, or one of those that come with the package, by its name.

    Raises:
        CfgError: the file cannot be read, or is no cfg.
    """
    path = shipped.find(path)
    own = shipped.FOLDER / f"{path.stem}.cfg"
    if not exists(path) and is_file(own):
        raise CfgError(f"{path} does not exist; --cfg {own.stem} is the one that comes with prune")
    return parse(read_text(path, "cfg", error=CfgError), source=str(path))


def from_definitions(
    definitions: Sequence[Mapping[object, object]], *, imgsz: Size
) -> tuple[Section, ...]:
    """Write the sections that a pickled module keeps of its cfg (all but [net]).

    Args:
        definitions: one dict per section; its kind is under "type".
        imgsz: for [net], which such a module does not keep.

    Raises:
        CfgError: they describe no network.
        CheckpointError: they hold what no cfg can.
    """
    net = f"[net]\nwidth={imgsz.width}\nheight={imgsz.height}\nchannels=3\n"
    text = "\n".join(_definition_text(entry) for entry in definitions if entry.get("type") != "net")
    return parse(f"{net}\n{text}", source="the pickle's module_defs")


def _definition_text(entry: Mapping[object, object]) -> str:
    kind = _word(entry.get("type"))
    options = [f"{_word(key)}={_value(value)}" for key, value in entry.items() if key != "type"]
    return "\n".join([f"[{kind}]", *options, ""])


def _value(value: object) -> str:
    """Write a word or number, or a flat list or array of them, with commas between."""
    if isinstance(value, Instance):  # float32, whose short form is the one that was written
        numbers = array(value).flatten().tolist()
        return ",".join(f"{n:g}" if isinstance(n, float) else _word(n) for n in numbers)
    return ",".join(map(_word, value)) if isinstance(value, (list, tuple)) else _word(value)


def _word(value: object) -> str:
    short = len(value) < 10_000 if isinstance(value, str) else _is_number(value)
    if not short:
        what = f"the pickle's module_defs hold {shown(value)}"
        raise CheckpointError(f"{what}; a cfg has words and numbers")
    return str(value)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value.bit_length() < 64)


def match(weights: Weights, named: Sequence[Path], folder: Path) -> Path:
    """Find the cfg whose layers are those of the weights, whatever their widths.

    Args:
        weights: by state-dict name.
        named: cfg files that the weights may be called after: the first that matches is taken.
        folder: where all others are; broken ones are passed over.

    Raises:
        CheckpointError: none matches, or several in the folder that would give different networks.
    """
    expected = _signature({name: tuple(tensor.shape) for name, tensor in weights.items()})
    if first := next((path for path in named if _matching(path, expected)), None):
        return first
    found = {path: _matching(path, expected) for path in sorted(folder.glob("*.cfg"))}
    matching = {path: with_widths(cfg, weights) for path, cfg in found.items() if cfg}
    # Equal but for the widths, which come from the tensors anyway, is as good as one.
    if len({write(sections[1:]) for sections in matching.values()}) == 1:
        return next(iter(matching))
    what = ", ".join(path.name for path in matching)
    reason = f"{what} all have these layers" if what else f"no cfg in ./{folder} has these layers"
    raise CheckpointError(
        f"the file does not describe its network, and {reason}; name one with --cfg"
    )


def _matching(path: Path, expected: Mapping[str, object]) -> tuple[Section, ...]:
    """Read a cfg if it has the expected layers; else return no sections."""
    try:
        sections = read_cfg(path)
        return sections if _signature(tensors(sections)) == expected else ()
    except CfgError:
        return ()  # a broken file among others; by --cfg it would be an error


def _signature(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Tell layers apart by what pruning does not change: their tensors' names and kernel sizes."""
    return {
        name: shape[2:] if len(shape) == 4 else ()
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def with_widths(sections: Sequence[Section], weights: Weights) -> tuple[Section, ...]:
    """Copy a cfg with the widths and the number of classes that the tensors show.

    Raises:
        CheckpointError: a head's convolution has a width that no number of classes gives.
        CfgError: a head that no convolution feeds.
    """
    classes = classes_of(sections, weights)
    changed = list(with_classes(sections, classes) if classes else sections)
    for index, section in enumerate(changed[1:]):
        kernel = weights.get(f"module_list.{index}.Conv2d.weight")
        implicit = weights.get(f"module_list.{index}.implicit")
        if section.kind == "convolutional" and kernel is not None and kernel.dim() == 4:
            changed[index + 1] = _with_filters(section, kernel.shape[0])
        elif implicit is not None and implicit.dim() == 4 and "filters" in section.options:
            changed[index + 1] = with_options(section, filters=implicit.shape[1])
    return tuple(changed)


def _with_filters(section: Section, filters: int) -> Section:
    before = section.options.get("filters")
    if before is not None and section.options.get("groups") == before != "1":
        section = with_options(section, groups=filters)  # depthwise: one group a channel
    return with_options(section, filters=filters)


def classes_of(sections: Sequence[Section], weights: Weights) -> int | None:
    """Read off the number of classes from the widths of the heads; None if no head is there.

    Raises:
        CheckpointError: a width that no number of classes gives, or different numbers.
    """
    counts = {}
    for head in heads(sections):
        name = f"module_list.{head_path(sections, head)[-1]}.Conv2d.weight"
        if name in weights and weights[name].dim() == 4:
            counts[name] = _head_classes(name, weights[name], sections[head + 1])
    if len(set(counts.values())) > 1:
        what = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise CheckpointError(f"the heads have different numbers of classes: {what}")
    return next(iter(counts.values()), None)


def _head_classes(name: str, kernel: Tensor, head: Section) -> int:
    anchors = len(anchor_mask(head))
    classes, left = divmod(kernel.shape[0], anchors)
    if left or classes < 6:
        raise CheckpointError(
            f"the cfg does not fit the weights: {name} is {list(kernel.shape)} in the file, and "
            f"{kernel.shape[0]} is not {anchors} anchors x (5 + classes)"
        )
    return classes - 5
