"""Our file format: a dict of plain values, and the one place that builds networks from files.

A checkpoint carries the cfg text that describes exactly its network, so nothing pickled is ever
run and no code has to be kept beside it. `torch.load(path, weights_only=True)` reads it anywhere.
"""

import hashlib
import pickle
import shlex
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from prune.atomic import replacing
from prune.errors import CheckpointError, ForeignError, first_line
from prune.models.darknet import Darknet
from prune.models.sections import Section, expect_rgb, parse
from prune.size import Sides, Size
from prune.wording import counted, few

FORMAT = "prune/1"

# What training adds to a file, top level beside the rest; None in finished files.
TRAINING_KEYS = (
    "epoch",
    "best_fitness",
    "best_fitness_p",
    "best_fitness_r",
    "best_fitness_ap50",
    "best_fitness_ap",
    "best_fitness_f",
    "training_results",
    "ema_updates",
    "optimizer",
    "scheduler",
    "rng",
)


@dataclass(frozen=True)
class Checkpoint:
    """One network with its weights, and where it comes from.

    `cfg` is Darknet text with the present widths, `model` the state dict in float32 on the CPU,
    `imgsz` is the size it is made for, `history` one plain dict a command that made or changed the
    network, `training` the TRAINING_KEYS that have a value. `foreign` and `remarks` are not saved:
    whether the file is of another project, and how it was read.
    """

    cfg: str
    model: dict[str, Tensor]
    names: list[str]
    imgsz: Size
    history: list[dict[str, object]] = field(default_factory=list)
    training: dict[str, object] = field(default_factory=dict)
    foreign: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def pruned(self) -> bool:
        """Say whether a plan was ever carried out on this network."""
        return any(entry.get("plan") for entry in self.history)


def capture(
    net: Darknet,
    *,
    names: Sequence[str],
    imgsz: Sides,
    history: Iterable[Mapping[str, object]] = (),
) -> Checkpoint:
    """Describe `net` as a checkpoint; a network on the CPU shares its tensors with it.

    `imgsz` is the side of a square, or height and width, in pixels.

    Raises:
        CheckpointError: the number of names is not the number of classes.
    """
    _check_names(net, names)
    weights = {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}
    return Checkpoint(
        cfg=net.cfg_text(),
        model=weights,
        names=list(names),
        imgsz=Size.of(imgsz),
        history=[dict(entry) for entry in history],
    )


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write `checkpoint` to `path`, whole or not at all.

    Raises:
        InputError: the path cannot be written.
        WriteError: the disk is full, or its folder vanished.
        TypeError: a value in it is not plain (our own mistake: the file could not be read back).
    """
    with replacing(path) as part:
        save_into(checkpoint, part)


def save_into(checkpoint: Checkpoint, part: Path) -> None:
    """Write `checkpoint` to a temporary file, as `atomic.together` gives several at once."""
    document = {
        "format": FORMAT,
        "cfg": checkpoint.cfg,
        "model": checkpoint.model,
        "names": checkpoint.names,
        "imgsz": checkpoint.imgsz.plain,
        "history": checkpoint.history,
        **{key: checkpoint.training.get(key) for key in TRAINING_KEYS},
    }
    fill({key: _plain(value, key) for key, value in document.items()}, part)


def write_archive(value: object, path: Path) -> None:
    """Write tensors in plain containers as torch does, whole or not at all.

    Raises:
        InputError: the path cannot be written.
        WriteError: the disk is full, or its folder vanished.
    """
    with replacing(path) as part:
        fill(value, part)


def fill(value: object, part: Path) -> None:
    """Write tensors in plain containers to a temporary file.

    Raises:
        OSError: the disk is full.
        CheckpointError: whatever else torch cannot write.
    """
    try:
        # An open file, not a path: the archive's inner name would be the temporary file's, and
        # equal networks would give files of different digests.
        with part.open("wb") as handle:
            torch.save(value, handle)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # what torch's archive stumbled over
            raise error.__context__ from error
        raise CheckpointError(f"cannot write the weights: {first_line(error)}") from error


def load(path: Path) -> Checkpoint:
    """Read a file that `save` wrote; its tensors are mapped from the file, not copied.

    Raises:
        ForeignError: it is not one of our checkpoints (`whole.open_weights` reads others, too).
        CheckpointError: no such file, empty, truncated or damaged.
    """
    document = _read(path)
    if not isinstance(document, dict) or "format" not in document:
        raise ForeignError(_not_ours(path))
    if document["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {document['format']!r} and this version reads {FORMAT!r}; "
            "update detector-prune"
        )
    return Checkpoint(
        cfg=cast(str, _field(document, "cfg", str, path)),
        model=_weights(document, path),
        names=_strings(document, path),
        imgsz=_picture_size(document, path),
        history=_history(document, path),
        training={key: document[key] for key in TRAINING_KEYS if document.get(key) is not None},
    )


def network(checkpoint: Checkpoint) -> Darknet:
    """Build the checkpoint's network with its weights in, in eval mode on the CPU.

    The network takes the checkpoint's tensors as its own: training it changes `checkpoint.model`
    (never the file).

    Raises:
        CfgError: the cfg text describes no network, or one that takes no RGB pictures.
        CheckpointError: weights that do not fit the cfg (names the layer and both shapes), that are
            not finite, or another number of names than of classes.
    """
    net = assemble(parse(checkpoint.cfg, source="the checkpoint's cfg"), checkpoint.model)
    _check_names(net, checkpoint.names)
    return net


def assemble(sections: Sequence[Section], weights: Mapping[str, Tensor]) -> Darknet:
    """Build a network around weights, in eval mode; they become its own, nothing is copied.

    A missing BatchNorm counter (`num_batches_tracked`) is no fault: Darknet files have none.

    Raises:
        CfgError: the sections describe no network, or one that takes no RGB pictures.
        CheckpointError: weights that do not fit (layer and both shapes named) or are not finite.
    """
    expect_rgb(sections)
    with _Undrawn():
        net = Darknet(sections)
    expected = net.state_dict()
    counters = {
        name: torch.zeros((), dtype=torch.long)
        for name in expected
        if name.endswith("num_batches_tracked")
    }
    given = {**counters, **weights}
    _check_fit(expected, given)
    for name, tensor in given.items():
        _check_finite(name, tensor)
    net.load_state_dict(given, assign=True)
    return net.eval()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Raises:
        CheckpointError: the file cannot be read.
    """
    total = hashlib.sha256()
    try:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                total.update(block)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    return total.hexdigest()


def network_id(cfg_text: str) -> str:
    """Return the SHA-256 of a cfg text, in hexadecimal: what a plan names its network by."""
    return hashlib.sha256(cfg_text.encode()).hexdigest()


_DRAWING = (
    torch.nn.init.kaiming_uniform_,
    torch.nn.init.uniform_,
    torch.nn.init.normal_,
    Tensor.uniform_,
    Tensor.normal_,
)


class _Undrawn(TorchFunctionMode):
    """Leave fresh weights undrawn: the file's take their place, and memory not touched is not used.

    (Building on the meta device does the same, and imports sympy on the way: 1.6 seconds.)
    """

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = kwargs or {}
        if func in _DRAWING:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def _read(path: Path) -> object:
    try:
        with path.open("rb") as handle:
            head = handle.read(4)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty")
    if not zipfile.is_zipfile(path):
        whole = not head.startswith(b"PK")
        raise ForeignError(_not_ours(path)) if whole else CheckpointError(f"{path} is truncated")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise ForeignError(_not_ours(path)) from error
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from error


def _not_ours(path: Path) -> str:
    return (
        f"{path} is not a checkpoint of this project; "
        f"`prune whole --weights {shlex.quote(str(path))}` makes one "
        "from a .pt of YOLOR or YOLOv4 or from Darknet .weights"
    )


def _field(document: Mapping[str, object], key: str, kind: type, path: Path) -> object:
    value = document.get(key)
    if not isinstance(value, kind):
        found = "missing" if value is None else f"a {type(value).__name__}"
        raise CheckpointError(f"{path}: {key!r} is {found}; it must be a {kind.__name__}")
    return value


def _weights(document: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    stored = cast("dict[object, object]", _field(document, "model", dict, path))
    weights: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path}: model entry {name!r} is not a named tensor")
        weights[name] = tensor.float() if tensor.is_floating_point() else tensor
    return weights


def _strings(document: Mapping[str, object], path: Path) -> list[str]:
    names = cast("list[object]", _field(document, "names", list, path))
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: 'names' must hold strings only")
    return cast("list[str]", names)


def _picture_size(document: Mapping[str, object], path: Path) -> Size:
    value = document.get("imgsz")
    size = Size.read(value)
    if size is None:
        found = "missing" if value is None else f"{value!r}"[:40]
        raise CheckpointError(
            f"{path}: 'imgsz' is {found}; it must be a number of pixels, or [height, width]"
        )
    if min(size) <= 0:
        raise CheckpointError(f"{path}: 'imgsz' is {size}; it must be positive")
    return size


def _history(document: Mapping[str, object], path: Path) -> list[dict[str, object]]:
    history = cast("list[object]", _field(document, "history", list, path))
    if not all(isinstance(entry, dict) for entry in history):
        raise CheckpointError(f"{path}: 'history' must hold dicts only")
    return cast("list[dict[str, object]]", history)


def _check_names(net: Darknet, names: Sequence[str]) -> None:
    for head in net.heads:
        if head.classes != len(names):
            given = counted(len(names), "class name was", "class names were")
            raise CheckpointError(
                f"the network predicts {head.classes} classes, but {given} given "
                f"({few(names)}); for other classes run prune train --weights FILE --data YAML, "
                "which takes over what fits"
            )


def _check_fit(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name, tensor in expected.items():
        shape = list(tensor.shape)
        if name not in given:
            raise CheckpointError(
                f"the cfg does not fit the weights: {name} is missing in the file and the cfg "
                f"says {shape}"
            )
        if list(given[name].shape) != shape:
            raise CheckpointError(
                f"the cfg does not fit the weights: {name} is {list(given[name].shape)} in the "
                f"file but the cfg says {shape}"
            )
    for name in given:
        if name not in expected:
            raise CheckpointError(
                f"the cfg does not fit the weights: {name} is {list(given[name].shape)} in the "
                "file but the cfg has no such layer"
            )


def _check_finite(name: str, tensor: Tensor) -> None:
    # The sum needs no temporary of the size of the weights; a suspicious one is looked at closely.
    if not tensor.sum().isfinite() and not tensor.isfinite().all():
        bad = int((~tensor.isfinite()).sum())
        raise CheckpointError(
            f"{name} holds {bad} values that are NaN or infinite; the training that wrote it failed"
        )


def _plain(value: object, where: str) -> object:
    """Copy containers as plain ones, and tensors so that a file holds only what they show."""
    if isinstance(value, Tensor):
        return _compact(value.detach().cpu())
    if isinstance(value, Mapping):
        return {_plain(k, where): _plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    # Exact types again: a numpy float64 is a float to isinstance, and unreadable to weights_only.
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    raise TypeError(f"{where} is a {type(value).__name__}; a checkpoint holds plain values only")


def _compact(tensor: Tensor) -> Tensor:
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
